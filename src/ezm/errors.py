"""Errors that a user can cause and can mend."""


class UserError(Exception):
    """One line that names the thing, its value and the fix.

    The command line prints it without a traceback and exits with code 2.
    """
