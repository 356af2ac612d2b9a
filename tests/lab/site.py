"""A small site to roll out to: its machines, and ssh to them as an account that may sudo.

Who made the engine does not matter here: `make lab` and the tests start the same machines.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from . import base
from .base import Image, RootFs
from .command import run
from .engine import Engine
from .host import NESTED_ENGINE_OPTIONS, STORAGE, Host

ACCOUNT = "deploy"
PREFIX = "seawall-lab-"
LABEL = "seawall.lab"
SETUP = Path(__file__).parent / "registry-setup"
TOP = Path(__file__).resolve().parents[2]
# The account has no password: it comes in by its key, and sudo asks for nothing.
MAKE_ACCOUNT = f"""\
set -eu
useradd --create-home --shell /bin/bash {ACCOUNT}
echo '{ACCOUNT} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{ACCOUNT}
install -d -m 0700 -o {ACCOUNT} -g {ACCOUNT} /home/{ACCOUNT}/.ssh
cat > /home/{ACCOUNT}/.ssh/authorized_keys
chown {ACCOUNT}: /home/{ACCOUNT}/.ssh/authorized_keys
cat /etc/ssh/ssh_host_ed25519_key.pub
"""


@dataclass(frozen=True)
class Machine:
    """A machine of the site before it is started."""

    name: str
    address: str
    rootfs: RootFs = base.HOST
    options: tuple[str, ...] = ()
    """Further options of docker-run(1)."""


REGISTRY = Machine("registry1", "198.18.0.5", base.REGISTRY)
CLIENT = Machine("client1", "198.18.0.31", base.CLIENT, (*NESTED_ENGINE_OPTIONS, "--volume=/var/lib/containers"))
ORIGINS = (Machine("origin1", "198.18.0.11"), Machine("origin2", "198.18.0.12"))
BALANCER = Machine("balancer1", "198.18.0.10")
BUILDER = Machine("builder1", "198.18.0.8")
ENDPOINT = Machine("endpoint1", "198.18.0.15")
EDGE = Machine("edge1", "198.18.0.21")
MACHINES = (REGISTRY, BUILDER, BALANCER, *ORIGINS, ENDPOINT, EDGE, CLIENT)


@dataclass(frozen=True)
class Site:
    """Running machines, and the folder with what ssh needs to reach them; use `Site.start`."""

    folder: Path
    hosts: dict[str, Host]

    @property
    def ssh_config(self) -> Path:
        """What ssh(1) takes with -F: every machine by its name, its key pinned, connections shared."""
        return self.folder / "ssh_config"

    @classmethod
    def start(
        cls,
        engine: Engine,
        folder: Path,
        machines: Sequence[Machine] = MACHINES,
        *,
        image: Callable[[Engine, RootFs], Image] = base.host_image,
        published: bool = False,
        label: str = "tests",
    ) -> Self:
        """Start `machines` side by side on the lab's network, which has to be there.

        `folder` gets a new key, the machines' own keys and a configuration for ssh.  `image` makes the image of a
        root file system.  With `published`, ssh goes through a port of the loopback address, for engines whose
        networks this machine is not on.  Every container carries `label`.  Raises NotReadyError and
        CommandFailedError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / "key"
        for old in (key, key.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "seawall lab", "-f", str(key)])
        images = {rootfs: image(engine, rootfs) for rootfs in {machine.rootfs for machine in machines}}
        shared = [f"--label={LABEL}={label}", *(["--publish=127.0.0.1::22"] if published else [])]

        def start(machine: Machine) -> Host:
            names = (f"--hostname={machine.name}", f"--network-alias={machine.name}")
            options = (*names, *shared, *machine.options)
            return Host.start(engine, images[machine.rootfs], PREFIX + machine.name, machine.address, options=options)

        with ThreadPoolExecutor() as threads:
            started = list(threads.map(start, machines))
            hosts = {machine.name: host for machine, host in zip(machines, started, strict=True)}
            public = key.with_suffix(".pub").read_text()
            keys = list(threads.map(lambda host: host.run("sh", "-c", MAKE_ACCOUNT, stdin=public).stdout, started))
        site = cls(folder, hosts)
        (folder / "known_hosts").write_text("".join(f"{name} {line}" for name, line in zip(hosts, keys, strict=True)))
        site.write_ssh_config(published=published)
        if CLIENT.name in hosts:
            hosts[CLIENT.name].run("tee", "/etc/containers/storage.conf", stdin=STORAGE)
        if REGISTRY.name in hosts:
            fill(hosts[REGISTRY.name])
        return site

    def write_ssh_config(self, *, published: bool) -> None:
        """Write where ssh finds each machine; a published port is another one after each start of a machine."""
        blocks = []
        for name, host in self.hosts.items():
            address, port = host.address, "22"
            if published:
                address, _, port = host.engine.docker("port", host.name, "22/tcp").splitlines()[0].rpartition(":")
            blocks.append(f"Host {name}\n    HostName {address}\n    Port {port}\n    HostKeyAlias {name}\n")
        blocks.append(
            f"Host *\n    User {ACCOUNT}\n    IdentityFile {self.folder}/key\n    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile {self.folder}/known_hosts\n    StrictHostKeyChecking yes\n    LogLevel ERROR\n"
        )
        self.ssh_config.write_text("".join(blocks))

    def remove(self) -> None:
        """Remove the machines, and what ssh needed to reach them."""
        for host in self.hosts.values():
            host.remove()
        shutil.rmtree(self.folder)


def fill(registry: Host) -> None:
    """Let the machine run a registry on port 5000, with a busybox in it under two tags."""
    registry.put(SETUP, "/opt/registry-setup")
    registry.put(TOP / "tools/distro_image.py", "/opt/registry-setup/distro_image.py")
    registry.run("/opt/registry-setup/fill")


def new_label() -> str:
    """A label that no other lab has."""
    return secrets.token_hex(8)
