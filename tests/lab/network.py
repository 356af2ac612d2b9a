"""The network of the lab, 198.18.0.0/24: a bridge with the hosts, upstreams and clients on it.

The address range is the one that RFC 2544 sets aside for tests of network devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .command import run

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True)
class Network:
    """A Docker network on a bridge, which has `gateway` as its address in the sandbox itself."""

    name: str
    bridge: str
    subnet: str
    gateway: str
    prefix: int

    def create(self, engine: Engine, options: Sequence[str] = ()) -> None:
        """Make the network in `engine`, with further `options` of docker-network-create(1).

        The sandbox itself is `gateway` only if the engine runs in the sandbox's own network namespace.
        """
        engine.docker(
            "network",
            "create",
            f"--subnet={self.subnet}",
            f"--gateway={self.gateway}",
            f"--opt=com.docker.network.bridge.name={self.bridge}",
            *options,
            self.name,
        )


LAB = Network(name="lab", bridge="lab0", subnet="198.18.0.0/24", gateway="198.18.0.1", prefix=24)


@dataclass(frozen=True)
class Namespace:
    """A named network namespace with one interface on a network: a machine as far as IP goes."""

    name: str
    address: str

    @classmethod
    def attach(cls, name: str, address: str, network: Network = LAB) -> Namespace:
        """Make the namespace `name` (at most 11 characters) with `address` on `network`."""
        run(["ip", "netns", "add", name])
        peer = _peer(name)
        run(["ip", "link", "add", peer, "type", "veth", "peer", "name", "eth0", "netns", name])
        run(["ip", "link", "set", peer, "master", network.bridge, "up"])
        inside = ["ip", "-n", name]
        run([*inside, "link", "set", "lo", "up"])
        run([*inside, "address", "add", f"{address}/{network.prefix}", "dev", "eth0"])
        run([*inside, "link", "set", "eth0", "up"])
        run([*inside, "route", "add", "default", "via", network.gateway])
        return cls(name, address)

    @property
    def path(self) -> Path:
        """The file that nsenter(1) takes."""
        return Path("/run/netns") / self.name

    def detach(self) -> None:
        """Remove the namespace and its interface; what still runs in it has no network then."""
        run(["ip", "link", "delete", _peer(self.name)])  # the kernel would do so some time later
        run(["ip", "netns", "delete", self.name])


def _peer(name: str) -> str:
    """The end in the sandbox of the interface of the namespace `name`."""
    return f"veth{name}"
