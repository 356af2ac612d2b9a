"""An ACME authority for tests: Debian's pebble, and the name server that it asks."""

from __future__ import annotations

import json
import os
import ssl
import urllib.request
from pathlib import Path
from typing import Self
from urllib.error import URLError

import trustme

from .daemon import Daemon
from .network import LAB

READY_SECONDS = 30.0
PORT = 14000
MANAGEMENT_PORT = 15000
DNS_PORT = 8053
DNS_MANAGEMENT_PORT = 8055


class Authority:
    """A running pebble, for which every name leads to one host; it is a context manager that ends it."""

    def __init__(self, daemons: list[Daemon], trusted: Path) -> None:
        self.directory = f"https://{LAB.gateway}:{PORT}/dir"
        self.trusted = trusted
        """The certificate that the directory's own comes from."""
        self._daemons = daemons

    @classmethod
    def start(cls, folder: Path, names_lead_to: str) -> Self:
        """Start an authority that keeps its settings and logs in the new folder `folder`.

        It validates on port 80 of `names_lead_to`, an IP address, whatever the name.  Raises NotReadyError.
        """
        folder.mkdir(parents=True)
        made = trustme.CA()
        certificate = made.issue_cert(LAB.gateway)
        made.cert_pem.write_to_path(str(folder / "trusted.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "pebble.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "pebble.key"))
        settings = {
            "listenAddress": f"{LAB.gateway}:{PORT}",
            "managementListenAddress": f"{LAB.gateway}:{MANAGEMENT_PORT}",
            "certificate": str(folder / "pebble.pem"),
            "privateKey": str(folder / "pebble.key"),
            "httpPort": 80,
            "tlsPort": 443,
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        names = Daemon(
            [
                "pebble-challtestsrv",
                f"-defaultIPv4={names_lead_to}",
                "-defaultIPv6=",
                f"-dns01={LAB.gateway}:{DNS_PORT}",
                f"-management={LAB.gateway}:{DNS_MANAGEMENT_PORT}",
                *("-http01=", "-https01=", "-tlsalpn01="),
            ],
            folder / "names.log",
        )
        pebble = Daemon(
            ["pebble", f"-config={folder / 'pebble.json'}", f"-dnsserver={LAB.gateway}:{DNS_PORT}"],
            folder / "pebble.log",
            env={**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"},
        )
        authority = cls([pebble, names], folder / "trusted.pem")
        try:
            pebble.wait_ready(authority._answers, READY_SECONDS)
        except BaseException:
            names.stop()
            raise
        return authority

    def root(self) -> str:
        """The certificate, in PEM, that all it issues comes from."""
        return self._get(f"https://{LAB.gateway}:{MANAGEMENT_PORT}/roots/0")

    def _answers(self) -> bool:
        try:
            return "newOrder" in self._get(self.directory)
        except URLError:
            return False

    def _get(self, url: str) -> str:
        context = ssl.create_default_context(cafile=str(self.trusted))
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return str(answer.read().decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self._daemons:
            daemon.stop()
