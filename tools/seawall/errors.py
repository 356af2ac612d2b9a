"""Errors that say what went wrong, where, and what to do; and the exit codes they end in."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended, for scripts."""

    OK = 0
    DOES_NOT_HOLD = 1
    """``verify`` found something that is not as it should be, ``diff`` a difference, ``doctor`` a client that fails,
    ``export`` a limit of a host."""
    USAGE = 2
    """The command line itself is wrong (the code that click uses)."""
    INPUT = 3
    """An images file, a lock or a reference is malformed or contradicts itself."""
    SOURCE = 4
    """A source does not have, or does not truthfully send, what was asked of it."""
    CREDENTIALS = 5
    """A source refused the credentials, or wants some."""
    TREE = 6
    """The tree cannot be read or written: not a tree, no space, no permission."""
    HELD = 7
    """Another run holds the tree; trying again later may work."""
    INTERRUPTED = 130


class SeawallError(Exception):
    """Base of every error that a person can act on.

    Args:
        where: the file, field, reference or URL at fault.
        what: what is wrong there.
        todo: what to do about it.
    """

    exit_code: ExitCode = ExitCode.SOURCE

    def __init__(self, where: str, what: str, todo: str) -> None:
        super().__init__(where, what, todo)
        self.where = where
        self.what = what
        self.todo = todo

    def __str__(self) -> str:
        """One line, whatever the parts hold: a hostile server's text cannot forge a second one."""
        line = f"{self.where}: {self.what}; {self.todo}"
        return "".join(c if c.isprintable() else " " for c in line)


class InputError(SeawallError):
    """What a person wrote (an images file, a lock, a reference) cannot be used."""

    exit_code = ExitCode.INPUT


class SourceError(SeawallError):
    """A source is unreachable, lacks something, or sent something wrong."""

    exit_code = ExitCode.SOURCE


class NotFoundError(SourceError):
    """A source answers, and has not what was asked for."""


class TransientError(SourceError):
    """A source failed in a way that trying again may cure (a cut, a stall, a 5xx)."""


class CredentialsError(SeawallError):
    """A source refused the credentials it was given, or wants some."""

    exit_code = ExitCode.CREDENTIALS


class TreeError(SeawallError):
    """The tree cannot be read or written."""

    exit_code = ExitCode.TREE


class TreeHeldError(TreeError):
    """Another run holds the tree."""

    exit_code = ExitCode.HELD
