"""The access log: one line of JSON a request, whatever was asked, without any secret; and it is rotated."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e.rollout import Run
from lab.host import Host
from lab.rendered import render, run_nginx
from seawall.manifest import parse_manifest
from seawall.media_type import OCI_MANIFEST
from seawall.tree import StoredManifest, Tree
from seawall.writer import hold

URL = "http://127.0.0.1:18084"
MANIFEST = b'{"schemaVersion":2,"config":{"mediaType":"application/x","digest":"sha256:%s","size":0},"layers":[]}' % (
    b"0" * 64
)
FIELDS = {
    "time",
    "client",
    "user",
    "method",
    "path",
    "registry",
    "repository",
    "reference",
    "digest",
    "status",
    "bytes",
    "seconds",
    "upstream",
    "upstream_status",
    "upstream_seconds",
    "cache",
    "agent",
}


class Log:
    """The access log of an origin on loopback, which writes at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, marker: str) -> dict[str, Any]:
        """The one line with *marker* in it."""
        deadline = time.monotonic() + 10
        while not (found := [line for line in self._path.read_bytes().splitlines() if marker.encode() in line]):
            assert time.monotonic() < deadline, f"no line has {marker}"
            time.sleep(0.05)
        (line,) = found
        document: dict[str, Any] = json.loads(line)
        assert set(document) == FIELDS
        return document

    def text(self) -> str:
        return self._path.read_text("ascii")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    folder = tmp_path_factory.mktemp("logs")
    with hold(Tree(folder / "tree")) as writer:
        manifest = parse_manifest(MANIFEST, "here", OCI_MANIFEST.media_type)
        writer.add_manifest(manifest)
        writer.link_manifest("lab/app", "1.0", StoredManifest(manifest.digest, manifest.kind))
    variables = {
        "origin_listen": [URL.removeprefix("http://")],
        # pytest's folders are closed to all others.
        "nginx_base_user": "root",
        "nginx_base_log_dir": str(folder),
    }
    main_file = render(folder, folder / "tree", variables)
    text = main_file.read_text()
    assert " buffer=64k flush=5s" in text
    main_file.write_text(text.replace(" buffer=64k flush=5s", ""))
    with run_nginx(main_file, f"{URL}/v2/"):
        yield Log(folder / "access.log")


def ask(request: bytes) -> None:
    """Send what no library would send, and wait for the end of the answer."""
    with socket.create_connection(("127.0.0.1", 18084), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def test_a_pull_by_tag_says_what_was_meant(log: Log) -> None:
    answer = requests.get(f"{URL}/v2/lab/app/manifests/1.0?ns=docker.io", headers={"User-Agent": "one"}, timeout=10)
    assert answer.status_code == 404
    assert log.of('"agent":"one"')["registry"] == "docker.io"
    answer = requests.get(f"{URL}/v2/lab/app/manifests/1.0", headers={"User-Agent": "two"}, timeout=10)
    assert answer.status_code == 200
    line = log.of('"agent":"two"')
    assert (line["repository"], line["reference"]) == ("lab/app", "1.0")
    assert line["digest"] == answer.headers["Docker-Content-Digest"]
    assert (line["status"], line["bytes"], line["method"], line["client"]) == (200, len(MANIFEST), "GET", "127.0.0.1")
    assert isinstance(line["seconds"], float)
    assert [line[name] for name in ("upstream", "upstream_status", "upstream_seconds", "cache")] == [""] * 4


@pytest.mark.parametrize(
    ("path", "repository", "reference"),
    [
        ("/v2/a/b/c/tags/list?n=3", "a/b/c", ""),
        ("/v2/blobs/manifests/manifests/x", "blobs/manifests", "x"),
        (f"/v2/lab/app/blobs/sha256:{'0' * 64}", "lab/app", f"sha256:{'0' * 64}"),
        ("/v2/lab/app/referrers/sha256:1", "lab/app", "sha256:1"),
        ("/v2/_catalog", "", ""),
        ("/", "", ""),
    ],
)
def test_repository_and_reference_come_out_of_the_path(log: Log, path: str, repository: str, reference: str) -> None:
    agent = f"for {path.partition('?')[0]}"
    requests.get(URL + path, headers={"User-Agent": agent}, timeout=10)
    line = log.of(f'"agent":"{agent}"')
    assert (line["repository"], line["reference"]) == (repository, reference)
    assert line["path"] == path.partition("?")[0]


def test_no_secret_is_written(log: Log) -> None:
    secret = "5ecret"
    basic = base64.b64encode(f"someone:{secret}".encode()).decode()
    for headers in ({"Authorization": f"Basic {basic}"}, {"Authorization": f"Bearer {secret}"}, {"Cookie": secret}):
        path = f"/v2/lab/app/manifests/1.0?token={secret}&ns=http://u:{secret}@h"
        requests.get(URL + path, headers={**headers, "Referer": secret, "User-Agent": "secretive"}, timeout=10)
    requests.get(f"{URL}/last", timeout=10)
    log.of('"path":"/last"')
    assert '"agent":"secretive"' in log.text()
    assert secret not in log.text()
    assert basic not in log.text()


def test_every_line_is_json_whatever_is_sent(log: Log) -> None:
    ask(b'GET /v2/ugly HTTP/1.1\r\nHost: x\r\nUser-Agent: a"b\\c\r\nConnection: close\r\n\r\n')
    assert log.of("/v2/ugly")["agent"] == 'a"b\\c'
    ask(b"GET /v2/\xff\xfe HTTP/1.1\r\nHost: x\r\nUser-Agent: raw path\r\nConnection: close\r\n\r\n")
    assert log.of("raw path")["path"] == ""
    ask(b"GET /v2/umlaut HTTP/1.1\r\nHost: x\r\nUser-Agent: \xe4\r\nConnection: close\r\n\r\n")
    assert log.of("/v2/umlaut")["agent"] == "not ASCII"
    ask(b"GET /v2/ancient\r\n\r\n")
    assert log.of("/v2/ancient")["status"] == 404
    ask(b"\x16\x03\x01\x00nonsense\r\n\r\n")
    ask(b"PUT http://other/v2/absolute?secret=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert log.of("/v2/absolute")["method"] == "PUT"
    for line in log.text().splitlines():
        assert set(json.loads(line)) == FIELDS


def test_the_logs_of_a_host_are_rotated_and_nginx_goes_on_writing(provisioned: Run, host: Host, url: str) -> None:
    assert host.run("systemctl", "is-active", "logrotate.timer").stdout == "active\n"
    requests.get(f"{url}/v2/before-rotation", timeout=10)
    host.run("nginx", "-s", "reopen")  # writes what was kept back
    host.run("logrotate", "--force", "/etc/logrotate.conf")
    assert "/v2/before-rotation" in host.run("cat", "/var/log/nginx/access.log.1").stdout
    requests.get(f"{url}/v2/after-rotation", timeout=10)
    host.run("nginx", "-s", "reopen")
    deadline = time.monotonic() + 10
    while "/v2/after-rotation" not in host.run("cat", "/var/log/nginx/access.log").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)
