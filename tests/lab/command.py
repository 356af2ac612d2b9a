"""Commands that are run to their end, with errors that say what the command said."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SECONDS = 300.0


@dataclass  # not frozen: Python sets the traceback of an exception
class CommandFailedError(Exception):
    """A command ended with an exit code other than 0."""

    command: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        said = "\n".join(filter(None, (self.stdout.strip(), self.stderr.strip())))
        return f"exit code {self.code}: {shlex.join(self.command)}\n{said}"


def run(
    command: Sequence[str],
    *,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run `command` with the text `stdin` as its input and capture what it prints.

    Raises CommandFailedError if `check` and the exit code is not 0, and subprocess.TimeoutExpired after
    `seconds`, when the command has been killed.
    """
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=env,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        timeout=seconds,
    )
    if check and done.returncode != 0:
        raise CommandFailedError(tuple(command), done.returncode, done.stdout, done.stderr)
    return done
