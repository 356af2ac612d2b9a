"""TLS passes through a balancer unopened, and the origins know who asked: the roles' configurations, on loopback."""

import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from e2e.pulls import pulling
from lab.command import run
from lab.rendered import render, render_balancer, run_nginx
from seawall.manifest import parse_manifest
from seawall.media_type import OCI_MANIFEST
from seawall.tree import StoredManifest, Tree
from seawall.writer import hold

URL = "https://127.0.0.1:18100"
STATS = "http://127.0.0.1:18105/stats;csv"
PATH = "/v2/lab/app/manifests/1.0"
OTHER = "127.0.0.8"
MANIFEST = b'{"schemaVersion":2,"config":{"mediaType":"application/x","digest":"sha256:%s","size":0},"layers":[]}' % (
    b"0" * 64
)


@dataclass(frozen=True)
class Site:
    """Two origins behind a balancer."""

    authority: str
    """The file that clients trust."""
    digest: str
    """What is behind PATH."""
    master: int
    """The first process of the first origin."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("tls")
    with hold(Tree(folder / "tree")) as writer:
        manifest = parse_manifest(MANIFEST, "here", OCI_MANIFEST.media_type)
        writer.add_manifest(manifest)
        writer.link_manifest("lab/app", "1.0", StoredManifest(manifest.digest, manifest.kind))
    certificate, key = folder / "origin.pem", folder / "origin.key"
    run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "3", "-subj", "/CN=images.example"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key), "-out"),
            *(str(certificate), "-addext", "subjectAltName=DNS:images.example,IP:127.0.0.1"),
        ]
    )
    with ExitStack() as stack:
        masters = []
        # run_nginx waits for an answer, and trusts nobody but the system's authorities.
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("SSL_CERT_FILE", str(certificate))
        for number in (1, 2):
            own = folder / f"origin{number}"
            own.mkdir()
            variables = {
                "origin_listen": [f"127.0.0.1:1810{number}"],
                "origin_proxy_listen": [f"127.0.0.1:1811{number}"],
                "origin_proxies": ["127.0.0.1"],
                "origin_namespaces": [{"prefix": "lab", "access": "address", "addresses": ["127.0.0.1"]}],
                "origin_tls_certificate": str(certificate),
                "origin_tls_certificate_key": str(key),
                "origin_drain_file": str(own / "drained"),
                # pytest's folders are closed to all others.
                "nginx_base_user": "root",
                "nginx_base_log_dir": str(own),
            }
            main_file = render(own, folder / "tree", variables)
            masters.append(stack.enter_context(run_nginx(main_file, f"https://127.0.0.1:1810{number}/v2/")))
        stack.enter_context(run_haproxy(folder, certificate))
        yield Site(str(certificate), str(manifest.digest), masters[0])


@contextmanager
def run_haproxy(folder: Path, certificate: Path) -> Iterator[None]:
    """Run a balancer with the configuration of its role until the block ends."""
    file = folder / "haproxy.cfg"
    render_balancer(
        file,
        {
            "balancer_listen": [URL.removeprefix("https://")],
            "balancer_mode": "tcp",
            "balancer_send_proxy": True,
            "balancer_check_tls": True,
            "balancer_check_host": "images.example",
            "balancer_check_ca": str(certificate),
            "balancer_metrics_listen": STATS.removeprefix("http://").partition("/")[0],
            "balancer_max_connections": 500,
            "balancer_origins": [{"name": f"origin{n}", "address": f"127.0.0.1:1811{n}"} for n in (1, 2)],
        },
    )
    # Here it is nobody's service: no account, root or socket of its own.
    text = re.sub(r"^    (?:chroot|user|group|stats socket) .*\n", "", file.read_text(), flags=re.MULTILINE)
    file.write_text(text)
    process = subprocess.Popen(["haproxy", "-db", "-f", file])
    try:
        wait_for_states("UP", "UP")
        yield
    finally:
        process.terminate()
        process.wait()


def wait_for_states(*states: str) -> None:
    """Return when HAProxy says *states* of its origins."""
    deadline = time.monotonic() + 20
    found: list[str] = []
    while found != [*states]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
        try:
            text = requests.get(STATS, timeout=5).text
        except requests.ConnectionError:
            continue
        rows = [line.split(",") for line in text.splitlines()]
        found = [row[17].split()[0] for row in rows if row[0] == "seawall_origins" and row[1] != "BACKEND"]


class From(HTTPAdapter):
    """Requests from the address *OTHER*."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, source_address=(OTHER, 0))


def test_origins_know_who_asked(site: Site) -> None:
    with requests.Session() as session:
        assert session.get(URL + PATH, verify=site.authority, timeout=10).status_code == 200
        session.mount("https://", From())
        assert session.get(URL + PATH, verify=site.authority, timeout=10).status_code == 403


def test_who_is_no_balancer_is_not_believed(site: Site) -> None:
    context = ssl.create_default_context(cafile=site.authority)
    for source, status in (("127.0.0.1", b"200"), (OTHER, b"403")):
        raw = socket.create_connection(("127.0.0.1", 18111), timeout=10, source_address=(source, 0))
        raw.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 4000 8443\r\n")
        with context.wrap_socket(raw, server_hostname="images.example") as connection:
            connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: images.example\r\nConnection: close\r\n\r\n".encode())
            assert connection.recv(12).split()[1] == status, source


def test_clients_find_the_other_origin_when_one_hangs(site: Site) -> None:
    processes = [site.master, *map(int, run(["pgrep", "--parent", str(site.master)]).stdout.split())]
    with pulling(URL, {PATH: site.digest}, site.authority) as tally:
        time.sleep(0.5)
        for number in processes:
            os.kill(number, signal.SIGSTOP)
        try:
            wait_for_states("DOWN", "UP")
        finally:
            for number in processes:
                os.kill(number, signal.SIGCONT)
        wait_for_states("UP", "UP")
    assert tally.tried > 50
    # What was under way cannot be taken up by another: a client loses a connection, and is served by its next one.
    assert len(tally.failed) <= 8, tally.failed
    assert tally.slowest < 8
