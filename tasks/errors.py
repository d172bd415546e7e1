"""The one exception that a user of the command line is meant to see."""


class UserError(Exception):
    """Bad input: the message is one sentence that says what, where and what to do; the command exits with 2."""
