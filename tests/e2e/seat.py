"""Where somebody sits who runs the tool of the checkout, and that person's ssh."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import ADDRESS
from e2e.rollout import TOP, Run
from lab.host import Host
from lab.store import Store

PUSHED = "/srv/pushed"


@dataclass(frozen=True)
class Seat:
    """Where somebody sits who runs the tool of the checkout."""

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "seawall", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(TOP / "tools"), "DOCKER_CONFIG": str(self.folder), **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def ask(self, *arguments: object) -> Any:
        """Run a command that has to succeed; return what it says as JSON."""
        code, out, err = self.run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@dataclass(frozen=True)
class Ssh:
    """The settings of an ssh client that knows the host and its key."""

    folder: Path
    place: str
    """The host, as in ssh://HOST/PATH: a name of these settings."""

    @property
    def env(self) -> Mapping[str, str]:
        return {"PATH": f"{self.folder}:{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def ssh(provisioned: Run, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Ssh:
    """ssh as its user set it up: a name, a key and the host's own key."""
    folder = tmp_path_factory.mktemp("ssh")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    public = (folder / "key.pub").read_text()
    host.run("sh", "-c", "mkdir -p -m 700 /root/.ssh && cat >>/root/.ssh/authorized_keys", stdin=public)
    host.run("sh", "-c", f"mkdir -p {PUSHED} && chown seawall:seawall {PUSHED}")
    key = host.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").stdout
    (folder / "known_hosts").write_text(f"{ADDRESS} {key}")
    (folder / "config").write_text(
        f"Host tree_host\n  HostName {ADDRESS}\n  User root\n  IdentityFile {folder}/key\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n"
        # What a person's settings may hold, and must not hurt.
        "  RemoteCommand true\n  RequestTTY yes\n  ForwardAgent yes\n"
    )
    (folder / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/config "$@"\n')
    (folder / "ssh").chmod(0o755)
    return Ssh(folder, "tree_host")


@pytest.fixture
def seat(tmp_path: Path, store: Store) -> Seat:
    return Seat(tmp_path, store.env)
