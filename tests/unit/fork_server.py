"""Runs of the tool that are killed in the middle of their work, however busy the machine is.

    with ForkServer() as tool:
        steps = tool.run("sync", lock, tree).steps
        ended = tool.run("sync", lock, tree, kill_at=steps // 2, delay=0.0005)
        ended = tool.run("publish", tree, place, kill_after=0.7)

A moment on a clock may come before the work or after it. So the steps are counted that a run takes once it holds the
tree: each time that it writes, renames, links or removes a file, or connects to a server. At one of these, or so much
later, it gets its SIGKILL; where most of the work is a store's, so many seconds after it began. A process that has read
the whole tool already forks each run.
"""

import gc
import importlib
import itertools
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TextIO

import seawall
from seawall.cli import main

TESTS = Path(__file__).resolve().parents[1]
STEPS = {f"os.{name}" for name in ("mkdir", "rename", "symlink", "remove", "rmdir", "utime", "truncate")}
STEPS |= {"socket.connect"}


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    """Negative: the signal that killed it."""
    steps: int
    """How many it took; 0 where it was killed."""
    err: str

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


class ForkServer:
    """The process that forks.

    Args:
        env: what runs have in their environment besides what this process has.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = env or {}

    def __enter__(self) -> Self:
        tools = Path(seawall.__path__[0]).parent
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unit.fork_server"],
            env={**os.environ, **self._env, "PYTHONPATH": f"{tools}:{TESTS}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def run(
        self, *arguments: object, kill_at: int | None = None, delay: float = 0.0, kill_after: float | None = None
    ) -> Ended:
        """Run the command line; kill it *delay* seconds after the step *kill_at*, or *kill_after* seconds."""
        assert self._process.stdin
        assert self._process.stdout
        moment = {"kill_at": kill_at, "delay": delay, "kill_after": kill_after}
        wanted = {"arguments": list(map(str, arguments)), **moment}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Do what the lines of standard input ask for, until there is no more."""
    for module in pkgutil.walk_packages(seawall.__path__, "seawall."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # The garbage collector of each run would have to copy all that was read.
    gc.freeze()
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as err, tempfile.TemporaryFile("w+") as steps:
            pid = os.fork()
            if not pid:
                _run(**json.loads(line), err=err, steps=steps)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            err.seek(0)
            steps.seek(0)
            print(json.dumps({"code": code, "steps": int(steps.read() or 0), "err": err.read()}), flush=True)


def _run(
    arguments: list[str],
    kill_at: int | None,
    delay: float,
    kill_after: float | None,
    *,
    err: TextIO,
    steps: TextIO,
) -> NoReturn:
    """Be the run."""
    counter = itertools.count()
    holds = False

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal holds
        holds = holds or event == "fcntl.flock"
        is_step = event in STEPS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if holds and is_step and next(counter) == kill_at:
            threading.Timer(delay, kill).start() if delay else kill()

    code = 99
    try:
        with Path(os.devnull).open("r+") as null:
            for file, number in ((null, 0), (null, 1), (err, 2)):
                os.dup2(file.fileno(), number)
        sys.addaudithook(count)
        if kill_after is not None:
            threading.Timer(kill_after, kill).start()
        main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        steps.write(str(next(counter)))
        steps.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
