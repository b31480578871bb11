"""Errors that a user can cause and can fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error message of one line that names the thing, its value and the fix.

    The command line prints it without a traceback and exits with :attr:`exit_code`.
    """

    exit_code = 2


class Diverged(UserError):
    """A loss, a gradient or an action of the agent is no longer a finite number."""

    exit_code = 4


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `` (did you mean X?)`` for the known name closest to ``name``, or an empty text.

    A name without its group counts as close: ``--latent-size`` for ``--model.latent-size``.
    """
    by_lower = {each.lower(): each for each in known}
    name = name.lower()
    found = difflib.get_close_matches(name, by_lower, n=1, cutoff=0.5)
    if not found:
        tails = {each.rpartition(".")[2]: each for each in by_lower}
        found = [tails[tail] for tail in difflib.get_close_matches(name.lstrip("-"), tails, 1, 0.8)]
    return f" (did you mean {by_lower[found[0]]}?)" if found else ""
