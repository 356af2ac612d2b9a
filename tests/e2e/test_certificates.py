"""Certificates that the rollout itself gets, and renews while somebody downloads: lab_ca and acme."""

import hashlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import urllib3
from cryptography import x509

from e2e.rollout import Rollout, Run, configuration_kept
from lab.acme import Authority
from lab.host import Host
from lab.images import Sample

ORIGIN = "198.18.0.11"
NAME = "images.lab.example"
LIVE = "/etc/letsencrypt/live/seawall"
LAB_CA = {
    "lab_ca_enabled": True,
    "lab_ca_certificate_names": [ORIGIN, NAME],
    "lab_ca_certificate_days": 20,
    "lab_ca_certificate_renew_days": 10,
    "origin_tls_certificate": "/etc/ssl/seawall/lab.pem",
    "origin_tls_certificate_key": "/etc/ssl/seawall/lab.key",
}
ACME = {
    "acme_enabled": True,
    "acme_agree_to_terms": True,
    "acme_domains": [NAME],
    "acme_directory_ca": "/etc/ssl/pebble.pem",
    "origin_tls_certificate": f"{LIVE}/fullchain.pem",
    "origin_tls_certificate_key": f"{LIVE}/privkey.pem",
}


@dataclass
class Site:
    """An origin that speaks TLS with a certificate that the rollout got."""

    rollout: Rollout
    variables: dict[str, object]
    trusted: Path

    def play(self, *options: str, **changed: object) -> Run:
        variables = {"origin_listen": ["443"], "origin_tls_made_here": True, **self.variables, **changed}
        run = self.rollout.play("playbooks/origin.yml", "--extra-vars", json.dumps(variables), *options)
        assert run.code == 0, run.output
        return run

    def connections(self) -> urllib3.HTTPSConnectionPool:
        return urllib3.HTTPSConnectionPool(
            ORIGIN, 443, ca_certs=str(self.trusted), server_hostname=NAME, assert_hostname=NAME, timeout=30
        )

    def serial(self) -> int:
        """The serial number of the certificate that a new connection is shown."""
        pem = ssl.get_server_certificate((ORIGIN, 443))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    def answers(self) -> bool:
        return self.connections().request("GET", "/v2/").status == 200


@dataclass
class Download:
    """A blob that is read slowly in a thread: begun before a renewal, ended after it."""

    site: Site
    path: str
    size: int
    _go_on: threading.Event = field(default_factory=threading.Event)
    _slowly: int = 0
    _digest: str = ""

    def __enter__(self) -> "Download":
        self._thread = threading.Thread(target=self._read)
        self._begun = threading.Event()
        self._thread.start()
        assert self._begun.wait(30)
        return self

    def _read(self) -> None:
        hasher = hashlib.sha256()
        answer = self.site.connections().request("GET", self.path, preload_content=False)
        # A client on a slow line: one that stood still would be given up by nginx after a minute.
        while not self._go_on.wait(0.5):
            piece = answer.read(65536)
            hasher.update(piece)
            self._slowly += len(piece)
            self._begun.set()
        while piece := answer.read(1024 * 1024):
            hasher.update(piece)
        self._digest = f"sha256:{hasher.hexdigest()}"

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._thread.join(120)

    def digest(self) -> str:
        """The digest of all that came, of which some has to be still to come."""
        assert self._slowly < self.size, "it ended before the renewal did"
        self._go_on.set()
        self._thread.join(120)
        return self._digest


@pytest.fixture(scope="module")
def blob(url: str, debian_sample: Sample) -> tuple[str, str, int]:
    """A layer of tens of megabytes: its path, digest and size."""
    base = f"{url}/v2/{debian_sample.repository}"
    manifest = requests.get(f"{base}/manifests/{debian_sample.tag}", timeout=10).json()
    layer = max(manifest["layers"], key=lambda row: row["size"])
    return f"/v2/{debian_sample.repository}/blobs/{layer['digest']}", layer["digest"], layer["size"]


@pytest.fixture(scope="module")
def before(blob: tuple[str, str, int], host: Host) -> Iterator[None]:
    """Brings the origin back to plain HTTP when the tests of this module are through."""
    with configuration_kept(host):
        yield


@pytest.fixture(scope="module")
def lab_ca(before: None, rollout: Rollout) -> Site:
    site = Site(rollout, LAB_CA, rollout.inventory / "lab_ca" / "authority.pem")
    rehearsal = site.play("--check", **{**ACME, "acme_directory": "https://acme.example/dir", "acme_directory_ca": ""})
    assert "would make the authority" in rehearsal.output
    assert "would make a key and a certificate for" in rehearsal.output
    assert "would ask https://acme.example/dir" in rehearsal.output
    assert not site.trusted.exists()
    site.play()
    return site


@pytest.fixture(scope="module")
def acme(before: None, rollout: Rollout, host: Host, lab_folder: Path) -> Iterator[Site]:
    with Authority.start(lab_folder / "acme", ORIGIN) as authority:
        host.put(authority.trusted, str(ACME["acme_directory_ca"]))
        trusted = lab_folder / "acme" / "root.pem"
        trusted.write_text(authority.root())
        site = Site(rollout, {**ACME, "acme_directory": authority.directory}, trusted)
        site.play()
        yield site
        # No timer asks an authority that is gone.
        host.run("systemctl", "disable", "--now", "certbot.timer")
        host.run("rm", "/etc/nginx/seawall/acme.conf")


def modes(host: Host, *paths: str) -> list[str]:
    return host.run("stat", "--dereference", "--format=%U %a", *paths).stdout.splitlines()


def test_a_laboratory_s_clients_trust_the_authority_on_the_controller(lab_ca: Site, host: Host) -> None:
    assert lab_ca.answers()
    assert modes(host, "/etc/ssl/seawall/lab.key", "/etc/ssl/seawall/lab.pem") == ["root 600", "root 644"]
    folder = lab_ca.trusted.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "authority.key").stat().st_mode & 0o777 == 0o600
    assert host.run("find", "/", "-xdev", "-name", "authority.key").stdout == ""


def test_a_certificate_is_made_anew_before_its_end_and_no_connection_is_lost(
    lab_ca: Site, blob: tuple[str, str, int]
) -> None:
    assert lab_ca.play().changed == 0
    path, digest, size = blob
    serial = lab_ca.serial()
    with Download(lab_ca, path, size) as download:
        # Twenty days are left: less than what is wanted now.
        assert lab_ca.play(lab_ca_certificate_days=90, lab_ca_certificate_renew_days=30).changed > 0
        assert lab_ca.serial() != serial
        assert download.digest() == digest
    assert lab_ca.answers()


def test_an_acme_authority_gives_a_certificate(acme: Site, host: Host) -> None:
    assert acme.answers()
    assert acme.play().changed == 0
    assert modes(host, f"{LIVE}/privkey.pem", "/etc/letsencrypt/live", "/etc/letsencrypt/accounts") == [
        "root 600",
        "root 700",
        "root 700",
    ]
    assert host.run("systemctl", "is-active", "certbot.timer").stdout == "active\n"
    assert host.run("systemctl", "is-enabled", "certbot.timer").stdout == "enabled\n"


def test_an_acme_certificate_is_renewed_and_no_connection_is_lost(
    acme: Site, host: Host, blob: tuple[str, str, int]
) -> None:
    # What the timer starts trusts the directory; nothing is due.
    host.run("systemctl", "start", "certbot.service")
    path, digest, size = blob
    serial = acme.serial()
    with Download(acme, path, size) as download:
        due = (
            "sed -i 's/^# renew_before_expiry.*/renew_before_expiry = 9999 days/' /etc/letsencrypt/renewal/seawall.conf"
        )
        host.run("sh", "-c", due)
        host.run("systemctl", "start", "certbot.service")
        deadline = time.monotonic() + 30
        while acme.serial() == serial and time.monotonic() < deadline:
            time.sleep(0.2)
        assert acme.serial() != serial
        assert download.digest() == digest
    assert acme.answers()


def test_the_plain_port_answers_challenges_and_nothing_else(acme: Site, host: Host) -> None:
    host.run("sh", "-c", "mkdir -p /var/lib/seawall-acme/.well-known/acme-challenge")
    host.run("sh", "-c", "echo answer > /var/lib/seawall-acme/.well-known/acme-challenge/token")
    try:
        challenge = requests.get(f"http://{ORIGIN}/.well-known/acme-challenge/token", timeout=10)
        assert challenge.text == "answer\n"
    finally:
        host.run("rm", "-r", "/var/lib/seawall-acme/.well-known")
    for path in ("/v2/", "/v2/lab/layers/manifests/1.0", "/.well-known/acme-challenge/none", "/"):
        answer = requests.get(f"http://{ORIGIN}{path}", timeout=10, allow_redirects=False)
        assert answer.status_code == 404
        assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"
