"""A registry to sync from: Debian's docker-registry, which is the distribution project's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import requests

from .command import run
from .daemon import Daemon
from .network import LAB

READY_SECONDS = 20.0


class Upstream:
    """A running registry that speaks plain HTTP on `address`, which is `host:port`."""

    def __init__(self, daemon: Daemon, address: str) -> None:
        self.address = address
        self.url = f"http://{address}"
        self._daemon = daemon

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        host: str = LAB.gateway,
        port: int = 5000,
        users: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a registry that keeps its blobs, settings and log in `folder`.

        A folder that was used before serves what it has.  `users` maps names to passwords and makes
        the registry ask for them (HTTP basic); without it, everybody may push.  Raises NotReadyError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(folder / "storage")},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"{host}:{port}", "secret": "of no use to anybody"},
        }
        if users is not None:
            passwords = folder / "htpasswd"
            passwords.write_text("".join(map(_password_line, users.items())))
            settings["auth"] = {"htpasswd": {"realm": "lab", "path": str(passwords)}}
        config = folder / "config.yml"
        config.write_text(json.dumps(settings, indent=2))  # JSON is YAML
        daemon = Daemon(["docker-registry", "serve", str(config)], folder / "registry.log")
        upstream = cls(daemon, f"{host}:{port}")
        daemon.wait_ready(upstream._answers, READY_SECONDS)
        return upstream

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/v2/", timeout=1).status_code in (200, 401)
        except requests.ConnectionError:
            return False

    def log(self) -> str:
        """The end of the registry's log."""
        return self._daemon.tail()

    def stop(self) -> None:
        """End the registry; what it stored stays in its folder."""
        self._daemon.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _password_line(user: tuple[str, str]) -> str:
    name, password = user
    # The registry takes bcrypt only; 4 is its cheapest cost.
    return run(["htpasswd", "-niBC", "4", name], stdin=password).stdout.strip() + "\n"
