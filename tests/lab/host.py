"""A machine of the lab: a container that looks like a host on the lab's network."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .base import Image
from .command import SECONDS
from .daemon import NotReadyError
from .engine import Engine
from .network import LAB, Network

READY_SECONDS = 60.0
POLL_SECONDS = 0.1
SYSTEMD_OPTIONS = (
    "--stop-signal=SIGRTMIN+3",
    "--restart=unless-stopped",  # a reboot is the end of the first process
    "--cap-add=SYS_ADMIN",
    "--cap-add=NET_ADMIN",
    "--cap-add=SYS_PTRACE",  # root of a machine sees who listens on a port, whatever account that is
    "--cgroupns=private",
    "--security-opt=apparmor=unconfined",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--tmpfs=/tmp:exec,mode=1777",
)
# A host in which a Docker engine is to run needs these as well.
NESTED_ENGINE_OPTIONS = (
    "--security-opt=seccomp=unconfined",
    "--volume=/var/lib/docker",
    "--volume=/var/lib/containerd",
)
# What such a host says in /etc/containers/storage.conf: overlay on overlay does not work in every kernel.
STORAGE = """\
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""


@dataclass(frozen=True)
class Host:
    """A running host; use `Host.start`.  It is a context manager that removes the host."""

    engine: Engine
    name: str
    address: str

    @classmethod
    def start(
        cls,
        engine: Engine,
        image: Image,
        name: str,
        address: str,
        *,
        network: Network = LAB,
        options: Sequence[str] = (),
    ) -> Self:
        """Start the host `name` with the fixed IP `address`, and wait until it has booted.

        `options` are further options of docker-run(1).  Raises NotReadyError.
        """
        init = SYSTEMD_OPTIONS if image.init == "systemd" else ("--init",)
        engine.docker(
            "run",
            "--detach",
            "--pull=never",
            f"--name={name}",
            f"--hostname={name}",
            f"--network={network.name}",
            f"--ip={address}",
            # What sshd calls those who come through the engine (`exec`), and looks up for each of them: 10 s a task
            # where a test closed the way to the name server.
            "--add-host=UNKNOWN:127.0.0.1",
            *init,
            *options,
            image.reference,
        )
        host = cls(engine, name, address)
        if image.init == "systemd":
            host.wait_booted()
        return host

    def wait_booted(self) -> None:
        """Return when systemd has started all it is to start, be it with failed units.

        Raises NotReadyError, with the end of the journal, after a minute.
        """
        deadline = time.monotonic() + READY_SECONDS
        while True:
            left = max(deadline - time.monotonic(), 1.0)
            state = self.run("systemctl", "is-system-running", "--wait", check=False, seconds=left)
            if state.stdout.strip() in {"running", "degraded"}:
                return
            if time.monotonic() > deadline:
                raise NotReadyError(self.name, f"is {state.stdout.strip() or 'not up'}", self.log())
            time.sleep(POLL_SECONDS)

    def run(
        self, *command: str, check: bool = True, stdin: str | None = None, seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` on the host as root, with the text `stdin` as its input.

        Raises CommandFailedError if `check` and the exit code is not 0.
        """
        interactive = [] if stdin is None else ["--interactive"]
        return self.engine.call("exec", *interactive, self.name, *command, check=check, stdin=stdin, seconds=seconds)

    def put(self, source: Path, target: str) -> None:
        """Copy a file or a folder of this machine to the path `target` on the host."""
        self.engine.docker("cp", str(source), f"{self.name}:{target}")

    def log(self) -> str:
        """The end of what the host logged: its console and, if it has one, its journal."""
        console = self.engine.call("logs", "--tail=20", self.name, check=False)
        journal = self.run("journalctl", "--no-pager", "--lines=40", check=False)
        return f"{console.stdout}{console.stderr}{journal.stdout}"

    def remove(self) -> None:
        """Remove the host and all it had written."""
        self.engine.docker("rm", "--force", "--volumes", self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
