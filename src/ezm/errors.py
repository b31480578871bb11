"""Errors that a user can cause and can fix."""


class UserError(Exception):
    """An error message of one line that names the thing, its value and the fix.

    The command line prints it without a traceback and exits with :attr:`exit_code`.
    """

    exit_code = 2


class Diverged(UserError):
    """The learner's loss or gradient is no longer a finite number."""

    exit_code = 4
