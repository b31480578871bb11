"""Runs the command ``ezm`` as ``python -m ezm``."""

import sys

from ezm.cli import main

sys.exit(main())
