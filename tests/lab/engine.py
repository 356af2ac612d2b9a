"""A Docker engine of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from .command import SECONDS, run
from .daemon import Daemon
from .network import LAB

READY_SECONDS = 60.0
LONGEST_FOLDER = 107 - len("/exec/containerd/containerd.sock.ttrpc")  # unix(7) allows 107 bytes


class Engine:
    """A running dockerd and the Docker client that speaks to it.

    Use `Engine.start`; it is a context manager that stops the engine.  `Engine.of_user` is the engine that
    Docker's own settings lead to, and is not stopped by anything here.
    """

    def __init__(self, daemon: Daemon | None, folder: Path, socket: str, env: dict[str, str]) -> None:
        self.socket = socket
        self.env = env
        self._folder = folder
        self._daemon = daemon

    @classmethod
    def of_user(cls) -> Self | None:
        """The engine that `docker` speaks to on this machine, by DOCKER_HOST or its context; None if none answers."""
        if shutil.which("docker") is None:
            return None
        engine = cls(None, Path(), os.environ.get("DOCKER_HOST", ""), dict(os.environ))
        return engine if engine._answers() else None

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The engine that another process started in `folder`."""
        socket = f"unix://{folder}/docker.sock"
        return cls(None, folder, socket, _client_env(folder, socket))

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        namespace: str | None = None,
        options: Sequence[str] = (),
        plain_http: bool = True,
    ) -> Self:
        """Start an engine that keeps all its state in the new folder `folder`.

        With `namespace` it lives in that named network namespace.  Registries on the lab's network
        may speak plain HTTP, and show any certificate, unless `plain_http` is false.  `options` are
        further options of dockerd(8).

        Raises NotReadyError, and ValueError if the path of `folder` has more than LONGEST_FOLDER bytes.
        """
        if len(str(folder)) > LONGEST_FOLDER:
            raise ValueError(f"no room for the names of sockets below {folder}")
        folder.mkdir(parents=True)
        (folder / "client").mkdir()
        socket = f"unix://{folder}/docker.sock"
        enter = [] if namespace is None else ["nsenter", f"--net=/run/netns/{namespace}"]
        daemon = Daemon(
            [
                *enter,
                "dockerd",
                f"--host={socket}",
                f"--data-root={folder}/data",
                f"--exec-root={folder}/exec",
                f"--pidfile={folder}/docker.pid",
                # The sandbox removes cgroups by name; systemd would put them elsewhere.
                f"--cgroup-parent=/{os.environ['SEAWALL_LAB_CGROUP']}",
                "--exec-opt=native.cgroupdriver=cgroupfs",
                *([f"--insecure-registry={LAB.subnet}"] if plain_http else []),
                *options,
            ],
            folder / "docker.log",
        )
        engine = cls(daemon, folder, socket, _client_env(folder, socket))
        daemon.wait_ready(engine._answers, READY_SECONDS)
        return engine

    def _answers(self) -> bool:
        return self.call("version", check=False).returncode == 0

    def docker(self, *args: str, stdin: str | None = None, seconds: float = SECONDS) -> str:
        """What `docker ARGS` prints to stdout, without the last newline.

        Raises CommandFailedError with what it printed to stderr.
        """
        return self.call(*args, stdin=stdin, seconds=seconds).stdout.rstrip("\n")

    def call(
        self,
        *args: str,
        check: bool = True,
        stdin: str | None = None,
        seconds: float = SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGS` against this engine, with no settings or credentials of the user."""
        return run([client(), *args], check=check, env=self.env, stdin=stdin, seconds=seconds)

    def log(self) -> str:
        """The end of the engine's log; empty for one that was not started here."""
        return self._daemon.tail() if self._daemon else ""

    def stop(self) -> None:
        """End the engine and its containers, if it was started here."""
        if self._daemon is None:
            return
        self._daemon.stop()
        unmount_below(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _client_env(folder: Path, socket: str) -> dict[str, str]:
    return {
        **os.environ,
        "DOCKER_HOST": socket,
        "DOCKER_CONFIG": str(folder / "client"),
        "DOCKER_BUILDKIT": "0",  # Debian's engine has no buildx, and needs none here
    }


def unmount_below(folder: Path) -> None:
    """Unmount what is mounted at or below `folder`.

    dockerd mounts its data root on itself, and forgets to take that back where the root file system is only a part of
    its device: in a chroot, or in a subvolume of btrfs.
    """
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in sorted((p for p in mounted if Path(p).is_relative_to(folder)), reverse=True):
        run(["umount", place])


def client() -> str:
    """The Docker client that came with the engine, even if PATH leads to a newer one."""
    found = shutil.which("docker", path=f"/usr/bin:{os.environ['PATH']}")
    if found is None:
        raise FileNotFoundError("docker: run tests/lab/install")
    return found
