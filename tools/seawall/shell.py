"""A POSIX shell where a tree lies: on this machine, or on another by the user's own OpenSSH client.

Over ssh all runs share the connection of the first one (``ControlMaster``): they cost no handshake, and when it falls,
all of them fall with it.
"""

import contextlib
import subprocess
import threading
from functools import cache
from pathlib import Path

from seawall.errors import SeawallError, TransientError, TreeError
from seawall.place import PathPlace, SshPlace
from seawall.ssh import SSH_FAILED, Running, SshProcess, arguments, remote_command

_SOCKET = "ssh"
_END_SECONDS = 60.0
_WITHOUT_SPACE = ("No space left on device", "Disk quota exceeded")
_PLAIN = "LC_ALL=C sh -c"


class Shell:
    """Runs scripts on the machine of *place*; may be used by several threads once :meth:`start` has returned.

    Args:
        place: a tree there.
        folder: of this run alone, for what the connection needs.
    """

    def __init__(self, place: PathPlace | SshPlace, folder: Path) -> None:
        self.place = place
        self.path = str(place.path.absolute()) if isinstance(place, PathPlace) else place.path
        self._socket = folder / _SOCKET
        self._first: Running | None = None

    @property
    def where(self) -> str:
        """The place, for errors."""
        return str(self.place)

    def start(self, script: str, *words: str) -> Running:
        """Start *script* with *words* as its arguments; the first one that is started is the connection of the others.

        Raises:
            SeawallError: this machine has no ssh, or no shell.
        """
        is_first = self._first is None
        if isinstance(self.place, SshPlace):
            command = remote_command(_PLAIN, script, "sh", *words)
            process: Running = SshProcess(self.place, command, options=self._sharing(is_first=is_first))
        else:
            try:
                process = Running(("env", "LC_ALL=C", "sh", "-c", script, "sh", *words))
            except OSError as error:
                raise TreeError(self.where, f"sh cannot be run ({error.strerror})", "see to the PATH") from None
        self._first = self._first or process
        return process

    def run(self, script: str, *words: str, stdin: bytes = b"") -> bytes:
        """Run *script* to its end with *stdin* as its input; return what it printed.

        Raises:
            SeawallError: it failed, or the connection did.
        """
        process = self.start(script, *words)

        def feed() -> None:
            # One that ends before it has read all says itself why.
            with contextlib.suppress(OSError):
                process.stdin.write(stdin)
                process.stdin.close()

        feeder = threading.Thread(target=feed, name="stdin", daemon=True)
        feeder.start()
        try:
            answer = process.stdout.read()
        except BaseException:
            process.kill()
            process.end()
            raise
        feeder.join()
        code = process.end(_END_SECONDS)
        if code:
            raise self.failure(process, code)
        return answer

    def failure(self, process: Running, code: int) -> SeawallError:
        """Return the error of *process*, which ended with *code*."""
        if isinstance(process, SshProcess) and code == SSH_FAILED:
            return process.failure(self.where)
        if code < 0:
            return TransientError(self.where, "the work there was ended by a signal", "run again")
        return refused(self.where, process.said or f"ended with {code}")

    @property
    def remote_shell(self) -> str | None:
        """The ssh that rsync is to use, as its option ``--rsh`` reads it; None where all is on this machine."""
        if not isinstance(self.place, SshPlace):
            return None
        *words, _host = arguments(self.place, self._sharing(is_first=False))
        # rsync(1): a quote within quotes is doubled.
        return " ".join("'" + word.replace("'", "''") + "'" for word in words)

    @property
    def rsync_target(self) -> str:
        """The folder there, as rsync spells it."""
        if not isinstance(self.place, SshPlace):
            return f"{self.path}/"
        host = f"[{self.place.host}]" if ":" in self.place.host else self.place.host
        return f"{host}:{self.path}/"

    def _sharing(self, *, is_first: bool) -> tuple[str, ...]:
        return ("-S", str(self._socket), f"-oControlMaster={'yes' if is_first else 'no'}", "-oControlPersist=no")


def refused(where: str, said: str) -> TreeError:
    """Return the error for what a program said that worked on the tree at *where*."""
    if any(sign in said for sign in _WITHOUT_SPACE):
        return TreeError(where, "cannot be written: no space is left there", "make room and run again")
    return TreeError(where, f"cannot be written ({said})", "check the disk there and its permissions")


def dying_with_us(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return *command* so that it ends when this process does, however that ends, where the system can do so."""
    return ("setpriv", "--pdeathsig", "KILL", *command) if _can_die_with_us() else command


@cache
def _can_die_with_us() -> bool:
    try:
        return not subprocess.run(
            ("setpriv", "--pdeathsig", "KILL", "true"),  # noqa: S607
            check=False,
            capture_output=True,
        ).returncode
    except OSError:
        return False
