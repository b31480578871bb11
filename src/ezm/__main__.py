"""``python -m ezm``: the same as the command ``ezm``."""

import sys

from ezm.cli import main

sys.exit(main())
