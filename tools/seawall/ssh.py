"""The user's own OpenSSH client, with the user's own configuration, agent, known hosts and jump hosts.

It never asks a person (``BatchMode``), and forwards nothing. What is to run over there is an argument of ours, never a
shell here; what a remote shell is to see as one word is quoted by :func:`remote_command`.
"""

import contextlib
import shlex
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from typing import BinaryIO, cast

from seawall.errors import CredentialsError, SeawallError, SourceError, TransientError
from seawall.place import SshPlace

CONNECT_TIMEOUT = 10
"""Seconds until a connection has to stand."""

_SILENCE = 15
_SILENCES = 4
_KEPT_LINES = 20
_LINE_BYTES = 1000
_SAID_CHARACTERS = 400
_OPTIONS = (
    "-T",
    "-x",
    "-a",
    "-oBatchMode=yes",
    f"-oConnectTimeout={CONNECT_TIMEOUT}",
    f"-oServerAliveInterval={_SILENCE}",
    f"-oServerAliveCountMax={_SILENCES}",
    "-oClearAllForwardings=yes",
    # A command that the configuration gives this host would take the place of ours.
    "-oRemoteCommand=none",
    "-oRequestTTY=no",
)
SSH_FAILED = 255
"""The exit code with which ssh(1) says that it failed itself, not the command that it ran."""

# What ssh says, in the order in which it counts, as it ends with 255.
_DIAGNOSES: tuple[tuple[str, type[SeawallError], str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        SourceError,
        "has another host key than known_hosts says",
        "find out why before you trust it: somebody may stand between",
    ),
    (
        "Host key verification failed",
        SourceError,
        "has a host key that known_hosts does not have",
        "connect once by hand with ssh, and compare the key",
    ),
    (
        "Too many authentication failures",
        CredentialsError,
        "refused too many keys before it saw the right one",
        "name it as IdentityFile in ssh's configuration, with IdentitiesOnly",
    ),
    (
        "Permission denied",
        CredentialsError,
        "takes none of the keys that ssh offers",
        "check that ssh with BatchMode=yes connects, or load the key into the agent",
    ),
    ("subsystem request failed", SourceError, "has an sshd without sftp", "let its sshd have the subsystem sftp"),
    (
        "Could not resolve hostname",
        SourceError,
        "is not a name that resolves",
        "check the name and ssh's configuration",
    ),
    (
        "Connection refused",
        SourceError,
        "refused the connection",
        "check that its sshd runs and that the port is right",
    ),
    ("timed out", TransientError, f"gave no connection in {CONNECT_TIMEOUT} seconds", "check that it is reachable"),
    ("not responding", TransientError, f"fell silent for {_SILENCE * _SILENCES} seconds", "try again later"),
    ("No route to host", TransientError, "is not reached (no route to it)", "check that it is up and reachable"),
    ("Network is unreachable", TransientError, "is not reached (no network)", "check this machine's network"),
    ("closed by", TransientError, "closed the connection", "try again later"),
    ("onnection reset", TransientError, "cut the connection", "try again later"),
)


class Running:
    """A running program, and what it said on its stderr.

    Args:
        arguments: the program and its arguments.

    Raises:
        OSError: it cannot be run.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - no shell sees it
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A Ctrl-C is for this process, which then ends the program.
            start_new_session=True,
        )
        self.stdin = cast(BinaryIO, self._process.stdin)
        self.stdout = cast(BinaryIO, self._process.stdout)
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader = threading.Thread(target=self._listen, name="stderr", daemon=True)
        self._reader.start()

    def end(self, seconds: float = CONNECT_TIMEOUT) -> int:
        """Close its input, wait until it ends, and return its exit code; it is killed after *seconds*."""
        # What was still to be flushed has nobody to read it.
        with contextlib.suppress(OSError):
            self.stdin.close()
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._reader.join(1.0)
        # Not before: closing waits for whoever is reading.
        self.stdout.close()
        return code

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    @property
    def said(self) -> str:
        """The last line that it, or what it ran, wrote to stderr; ``""`` where it wrote none."""
        lines = [line for line in self._lines if line]
        return lines[-1][:_SAID_CHARACTERS] if lines else ""

    def _listen(self) -> None:
        stderr = cast(BinaryIO, self._process.stderr)
        with stderr:
            while line := stderr.readline(_LINE_BYTES):
                text = line.decode("utf-8", "replace")
                self._lines.append(" ".join("".join(c if c.isprintable() else " " for c in text).split()))


class SshProcess(Running):
    """A running ssh.

    Args:
        place: whose host to connect to.
        command: what to run there, as its shell is to read it.
        subsystem: ask for a subsystem of that name instead.
        options: more options of ssh(1).

    Raises:
        SourceError: this machine has no ssh.
    """

    def __init__(self, place: SshPlace, command: str, *, subsystem: bool = False, options: Sequence[str] = ()) -> None:
        self._place = place
        try:
            super().__init__((*arguments(place, (*options, *(("-s",) if subsystem else ()))), command))
        except OSError as error:
            raise SourceError(str(place), f"ssh cannot be run ({error.strerror})", "install OpenSSH's client") from None

    def failure(self, where: str) -> SeawallError:
        """Return the error of an ssh that could not connect, or whose connection broke."""
        said = "\n".join(self._lines)
        for sign, kind, what, todo in _DIAGNOSES:
            if sign in said:
                return kind(where, f"{self._place.host} {what}", todo)
        what = f"the connection to {self._place.host} ended" + (f" ({self.said})" if self.said else "")
        return TransientError(where, what, "check that ssh with BatchMode=yes connects")


def remote_command(program: str, *words: str) -> str:
    """Return what a POSIX shell reads as *program*, itself a piece of shell, with *words* as its arguments."""
    return " ".join((program, *map(shlex.quote, words)))


def arguments(place: SshPlace, options: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the ssh that connects to the host of *place*, with *options*; what is to run there follows."""
    user = ("-l", place.user) if place.user else ()
    port = ("-p", str(place.port)) if place.port is not None else ()
    # What follows -- is no option, whatever it is called.
    return ("ssh", *_OPTIONS, *user, *port, *options, "--", place.host)
