"""The exceptions that a user of the command line is meant to see."""


class UserError(Exception):
    """Bad input: the message is one sentence that says what, where and what to do; the command exits with 2."""

    exit_code = 2


class Unavailable(UserError):
    """What is asked for cannot be had now, and may be later: the command exits with 75, EX_TEMPFAIL of sysexits.h."""

    exit_code = 75
