"""A process that runs beside the tests: started, waited for, and ended by its own handle."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TAIL_LINES = 40
POLL_SECONDS = 0.05


@dataclass  # not frozen: Python sets the traceback of an exception
class NotReadyError(Exception):
    """Something did not become ready, with the end of its log."""

    what: str
    why: str
    log: str

    def __str__(self) -> str:
        return f"{self.what} {self.why}; the end of its log:\n{self.log}"


class Daemon:
    """A running process that writes stdout and stderr to a log file."""

    def __init__(self, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.what = command[0]
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,  # tests that a Ctrl-C ended still clean up with its help
            )

    def tail(self) -> str:
        """The last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def wait_ready(self, probe: Callable[[], bool], seconds: float) -> None:
        """Return when `probe` says so.

        Stops the process and raises NotReadyError if that takes longer than `seconds`, or if the process
        ends by itself.
        """
        deadline = time.monotonic() + seconds
        while not probe():
            code = self._process.poll()
            if code is None and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                continue
            why = f"was not ready in {seconds:.0f} s" if code is None else f"ended with {code}"
            self.stop()
            raise NotReadyError(self.what, why, self.tail())

    def stop(self, seconds: float = 20.0) -> None:
        """End the process: SIGTERM, and SIGKILL after `seconds`."""
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
