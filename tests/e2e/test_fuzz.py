"""Requests as no client would write them: origin and edge answer each in their own words, and give nothing away.

The requests are made by a generator from a seed, so that a failure names one that can be sent again.
"""

import hashlib
import json
import random
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from e2e.edge_site import make_edge, running
from lab.host import Host
from lab.images import Samples

SEED = 20260421
REQUESTS = 3000
CANARY = "the canary sings"
TREE = "/srv/seawall"
ERROR_LOG = "/var/log/nginx/error.log"

# 501 is a transfer coding, 505 a version, that nginx does not know.
STATUSES = {200, 206, 301, 304, 400, 404, 405, 412, 413, 414, 416, 501, 505}
CODES = {
    "BLOB_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "PAGINATION_NUMBER_INVALID",
    "SIZE_INVALID",
    "UNKNOWN",
    "UNSUPPORTED",
}

METHODS = (
    [b"GET"] * 30
    + [b"HEAD"] * 8
    + [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"get", b"G\0T"]
)
VERSIONS = [b"HTTP/1.1"] * 40 + [
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/9.9",
    b"HTTP/1.10",
    b"http/1.1",
    b"HTTP/",
    b"",
]
TOKENS = [
    b"/../",
    b"..",
    b"/./",
    b"//",
    b"/..%2f",
    b"%2e%2e/",
    b"%2f",
    b"%2F..%2F",
    b"%252f",
    b"%c0%ae%c0%ae/",
    b"\\..\\",
    b"%5c",
    b"%00",
    b"\0",
    b"%0a",
    b"%0d%0a",
    b"\r",
    b"\xff\xfe",
    b"\xc3\xa4",
    b"%ff",
    b"%",
    b"%zz",
    b" ",
    b"%20",
    b"\t",
    b";",
    b"#",
    b"?",
    b"?ns=docker.io",
    b"&n=0",
    b"?n=-1&last=../",
    b"@",
    b":",
    b"sha256:",
    b"*",
    b"~",
    b"|",
    b"$uri",
    b"${repo}",
    b"a" * 300,
    b"b/" * 3000,
]
HEADERS = [
    b"Range: bytes=0-0",
    b"Range: bytes=5-1",
    b"Range: bytes=-0",
    b"Range: bytes=0-,1-,2-,3-",
    b"Range: lines=1-2",
    b"Range: bytes=99999999999999999999-",
    b"Range: bytes=0-0," + b"1-1," * 200,
    b"If-None-Match: *",
    b'If-None-Match: "x"',
    b'If-Match: "x"',
    b"If-Range: x",
    b"If-Modified-Since: yesterday",
    b"If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
    b"Host: y",
    b"Host:",
    b"Host: ../..",
    b"Host: a\0b",
    b"Host: [::1",
    b"Accept-Encoding: gzip, br",
    b"Accept: nothing/at-all",
    b"X-Accel-Redirect: /content/canary",
    b"X-Original-URL: /canary",
    b"X-Forwarded-For: 127.0.0.1",
    b"Expect: 100-continue",
    b"Expect: miracles",
    b"Upgrade: h2c",
    b"Connection: upgrade",
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: 5, 6",
    b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding : chunked",
    b"no colon",
    b": no name",
    b" folded",
    b"Nul: \0",
    b"Bare: \r x",
    b"Authorization: Basic AAAA",
    b"Cookie: " + b"c" * 3000,
    b"Large: " + b"l" * 20000,
    b"\xff\xfe: x",
]
# What follows the end of the headers: where two programs disagree on it, one of them takes this for a request.
SMUGGLED = b"0\r\n\r\nGET /v2/../canary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TAILS = [b""] * 20 + [b"12345", SMUGGLED, b"5\r\nabcde\r\n" + SMUGGLED, b"ffffffffffffffff\r\n", b"\r\n" + SMUGGLED[5:]]


@pytest.fixture
def canaries(provisioned: object, host: Host) -> Iterator[None]:
    """Files beside what is served, and in the midst of it, of which no byte may come out."""
    places = ["canary", "releases/canary", "content/canary", "v2/canary", "v2/lab/layers/manifests/canary", "../canary"]
    for place in places:
        host.run("tee", f"{TREE}/{place}", stdin=CANARY)
    try:
        yield
    finally:
        host.run("rm", "--force", *(f"{TREE}/{place}" for place in places))


@pytest.fixture(scope="module")
def paths(url: str, samples: Samples) -> list[bytes]:
    """Paths that are answered, and some that must not be."""
    sample = samples.layers
    accept = {"Accept": sample.media_type}
    manifest = requests.get(f"{url}/v2/{sample.repository}/manifests/{sample.tag}", headers=accept, timeout=10).json()
    repository = f"/v2/{sample.repository}"
    served = [
        "/v2/",
        "/v2",
        f"{repository}/manifests/{sample.tag}",
        f"{repository}/manifests/{sample.digest}",
        f"{repository}/blobs/{manifest['config']['digest']}",
        f"{repository}/tags/list",
        f"{repository}/tags/list?n=1&last=0",
        "/v2/_catalog?n=2&last=lab%2Flayers",
        f"{repository}/manifests/{sample.tag}?ns=docker.io",
        f"{repository}/referrers/{sample.digest}",
        f"{repository}/tags/list?n=1&last=0",
        "/v2/_catalog?n=2",
        f"/v2/_catalog?last={'b/' * 3000}b",
    ]
    hidden = [
        "/canary",
        "/v2/canary",
        "/v2/../canary",
        "/v2/../../canary",
        "/content/canary",
        "/releases/canary",
        f"{repository}/manifests/canary",
        f"{repository}/blobs/../../../../canary",
        "/_error",
        "/_error_late",
        "/_moved",
        "",
        "*",
    ]
    return [path.encode() for path in served * 3 + hidden]


def make_request(random_: random.Random, paths: list[bytes]) -> bytes:
    """Return a request: most of it right, some of it not."""
    path = random_.choice(paths)
    for _ in range(random_.choice([0, 0, 0, 1, 1, 2, 4])):
        place = random_.randint(0, len(path))
        path = random_.choice(
            [
                path[:place] + random_.choice(TOKENS) + path[place:],
                path[:place],
                path[:place] + path[place // 2 :],
                path.upper(),
                b"http://x" + path,
                b"//" + path,
                bytes(reversed(path)),
            ]
        )
    headers = [b"Host: x", b"Connection: close"]
    headers += random_.sample(HEADERS, random_.choice([0, 0, 0, 0, 1, 1, 2, 3]))
    if random_.random() < 0.05:
        headers.remove(b"Host: x")
    random_.shuffle(headers)
    line = b" ".join((random_.choice(METHODS), path, random_.choice(VERSIONS))).rstrip(b" ")
    end = random_.choice([b"\r\n"] * 9 + [b"\n"])
    return end.join((line, *headers, b"", b"")) + random_.choice(TAILS)


def send(address: tuple[str, int], request: bytes) -> bytes:
    """Send *request* and nothing more; return all that comes back."""
    answer = b""
    # nginx answers some without reading them to their end, and the kernel tells us so.
    with socket.create_connection(address, timeout=20) as connection, suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            answer += piece
    return answer


@dataclass(frozen=True)
class Reply:
    """One of the answers that came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    has_body: bool


def parse(answer: bytes, method: bytes) -> Iterator[Reply]:
    """Yield the answers in *answer*, the first of which is to *method* and all others to GET."""
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
        assert match is not None, "this is no status line"
        status = int(match[1])
        headers: dict[str, str] = {}
        for name, _, value in (line.partition(": ") for line in lines):
            # A 412 of a manifest has two types, and clients take the first: the manifest's own was written already.
            headers.setdefault(name.lower(), value)
        if status == 100:
            answer = rest
            continue
        has_body = method != b"HEAD" and status != 304
        size = int(headers.get("content-length", len(rest))) if has_body else 0
        yield Reply(status, headers, rest[:size], has_body)
        assert len(rest) >= size, "the answer is cut"
        answer, method = rest[size:], b"GET"


def judge(request: bytes, answer: bytes) -> None:
    """Check that *answer* is one that may be given to *request*."""
    assert CANARY.encode() not in answer
    assert b"root:" not in answer
    if b"<html" in answer.lower():
        # A body that is not chunked as it says is noticed when an error is being told: the second one is nginx's own.
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"transfer-encoding" in request.lower()
        return
    if not answer.startswith(b"HTTP/"):
        # nginx's own: silence where a request has no end, and a body without headers for HTTP/0.9, which has none.
        assert answer == b"" or b"HTTP/1" not in request.split(b"\n")[0]
        return
    method = request.split(b" ")[0].lstrip(b"\r\n")
    for reply in parse(answer, method):
        assert reply.status in STATUSES
        if not reply.has_body:
            continue
        if reply.status >= 400 and not (method == b"TRACE" and not reply.body):
            assert reply.headers["content-type"] == "application/json"
            assert json.loads(reply.body)["errors"][0]["code"] in CODES
        elif reply.status == 200 and "docker-content-digest" in reply.headers:
            digest = f"sha256:{hashlib.sha256(reply.body).hexdigest()}"
            assert reply.headers["docker-content-digest"] == digest
        elif reply.status == 200:
            json.loads(reply.body)


def alarms(host: Host) -> list[str]:
    """Return the lines of the error log that no request may bring about."""
    log = host.run("cat", ERROR_LOG).stdout
    return [line for line in log.splitlines() if re.search(r"\[(?:alert|emerg|crit)\]|core dumped|signal", line)]


def workers(host: Host) -> set[str]:
    return set(host.run("pgrep", "--full", "nginx: worker").stdout.split())


def ask_all(address: tuple[str, int], paths: list[bytes], requests_: int) -> None:
    """Send so many requests to *address* and judge each answer."""
    random_ = random.Random(SEED)  # noqa: S311 - it is to be the same each time
    seen: dict[bytes, int] = {}
    for number in range(requests_):
        request = make_request(random_, paths)
        answer = send(address, request)
        seen[answer[9:12]] = seen.get(answer[9:12], 0) + 1
        try:
            judge(request, answer)
        except Exception as error:
            raise AssertionError(f"request {number} {request[:2000]!r} got {answer[:2000]!r}") from error
    print(seen)
    # Were all of them refused at once, nothing would have been tried.
    assert {b"200", b"400", b"404", b"405"} <= set(seen)
    assert min(seen[status] for status in (b"200", b"404")) > requests_ / 20


@pytest.mark.usefixtures("canaries")
def test_no_request_gets_more_than_it_may(url: str, host: Host, paths: list[bytes]) -> None:
    address = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
    before, alive = alarms(host), workers(host)
    ask_all(address, paths, REQUESTS)
    assert alarms(host) == before
    assert workers(host) == alive
    assert requests.get(f"{url}/v2/", timeout=10).status_code == 200


@pytest.mark.usefixtures("canaries")
def test_no_request_gets_more_from_an_edge_than_it_may(url: str, paths: list[bytes], tmp_path: Path) -> None:
    with running(make_edge(tmp_path / "edge", 18991, [url])) as edge:
        ask_all(("127.0.0.1", 18991), paths, REQUESTS // 2)
        log = (edge.folder / "error.log").read_text(errors="replace")
        assert not re.search(r"\[(?:alert|emerg|crit)\]|core dumped|signal", log)
        assert requests.get(f"{edge.url}/v2/", timeout=10).status_code == 200
