"""Ansible runs against a host of the lab, as an operator starts them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.command import run
from lab.engine import Engine, client
from lab.host import Host
from lab.images import Sample

TOP = Path(__file__).resolve().parents[2]
SECONDS = 600
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """How a playbook ended."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        """How many tasks changed something, on all hosts."""
        recap = _RECAP.findall(self.output)
        assert recap, self.output
        return sum(int(row[2]) for row in recap)

    @property
    def said(self) -> str:
        """What was printed, in one line: Ansible breaks lines where a message has none."""
        return " ".join(self.output.split())


@dataclass(frozen=True)
class Rollout:
    """An inventory in a folder of its own, and the playbooks that run on it."""

    inventory: Path
    engine: Engine

    @property
    def images_file(self) -> Path:
        return self.inventory / "images.yml"

    @property
    def lock_file(self) -> Path:
        return self.inventory / "images.lock"

    def declare(self, samples: Iterable[Sample]) -> None:
        """Write the images file: every sample under its own name."""
        images = [
            {
                "source": f"docker://{sample.upstream}/{sample.repository}",
                "name": sample.repository,
                "tags": [sample.tag],
                "plain_http": True,
            }
            for sample in samples
        ]
        self.images_file.write_text(yaml.safe_dump({"version": 1, "name": "lab", "images": images}))

    def play(self, playbook: str, *options: str) -> Run:
        """Run a playbook of the checkout; its output is in the test's report if something fails."""
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory, playbook, *options]
        ran = subprocess.run(
            list(map(str, command)),
            cwd=TOP,
            env={
                **os.environ,
                **self.engine.env,
                "ANSIBLE_NOCOLOR": "1",
                "LC_ALL": "C.UTF-8",
                # The sandbox's own: another one has hosts of the same names.
                "ANSIBLE_SSH_CONTROL_PATH_DIR": "/run/ansible",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        print(ran.stdout)
        return Run(ran.returncode, ran.stdout)


@contextmanager
def configuration_kept(host: Host) -> Iterator[None]:
    """Bring back in the end what nginx on *host* is told now; another play would take half a minute."""
    host.run("tar", "--create", "--file=/root/nginx.tar", "--directory=/etc", "nginx")
    try:
        yield
    finally:
        host.run("rm", "-r", "/etc/nginx")
        host.run("tar", "--extract", "--file=/root/nginx.tar", "--directory=/etc", "--same-permissions", "--same-owner")
        host.run("nginx", "-t")
        host.run("systemctl", "reload", "nginx")
        # That it was told does not say that it has done it.
        host.run("curl", "-sSf", "--retry", "30", "--retry-delay", "1", "--retry-all-errors", "http://127.0.0.1/v2/")


def make_inventory(folder: Path, host: Host, variables: Mapping[str, Any], group: str = "origin") -> Path:
    """Write an inventory with *host* as the only one of its *group*, reached through its engine; return its folder."""
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": {group: {"hosts": {host.name: None}}}}}))
    write_variables(folder, variables)
    return folder


def write_variables(inventory: Path, variables: Mapping[str, Any]) -> None:
    """Let all that the hosts of *inventory* know be *variables*, and how to reach them."""
    connection = {"ansible_connection": "ssh", "ansible_user": "root", "ansible_ssh_common_args": f"-F {ssh_config()}"}
    (inventory / "group_vars").mkdir(exist_ok=True)
    (inventory / "group_vars" / "all.yml").write_text(yaml.safe_dump({**connection, **variables}))


def ssh_config() -> Path:
    """Return the ssh_config(5) with which every host of the lab is reached by its name, whatever its network is.

    The engine starts a sshd for each connection, and tells it whom to let in. A connection serves many tasks, each of
    which costs the engine half as much as one that it runs itself.
    """
    folder = Path(os.environ["SEAWALL_LAB_DIR"]) / "ssh"
    config = folder / "config"
    if not config.exists():
        folder.mkdir()
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / "key")])
        public = (folder / "key.pub").read_text().strip()
        sshd = f'/usr/sbin/sshd -i -o "AuthorizedKeysCommand=/usr/bin/echo {public}" -o AuthorizedKeysCommandUser=root'
        options = {
            "IdentityFile": folder / "key",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ProxyCommand": f"{client()} exec --interactive %h {sshd}",
        }
        config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    return config
