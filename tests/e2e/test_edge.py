"""Edges in front of origins: what they keep, what they ask, and what clients get while things break.

Origins and edges are nginx with the configurations that the roles render, without hosts; one host at the end gets its
edge from Ansible.
"""

import base64
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import trustme

from e2e.edge_site import Server, add_image, copy_tree, digest_of, get, make_blob, make_edge, make_origin, running
from e2e.rollout import Rollout, Run, make_inventory
from lab.base import Image
from lab.command import run
from lab.engine import Engine
from lab.host import Host
from lab.images import Sample, Samples
from lab.network import Network
from lab.store import Store
from seawall.cli import main
from seawall.media_type import OCI_MANIFEST

MEGABYTE = 1024 * 1024
SLICE = 4 * MEGABYTE
BLOB = make_blob(10 * MEGABYTE + 123)
DIGEST = digest_of(BLOB)
APP = "/v2/lab/app"


@dataclass
class Site:
    """Two origins with the same tree, and an edge."""

    folder: Path
    trees: list[Path]
    origins: list[Server] = field(default_factory=list)
    edges: list[Server] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)
    first_port: int = 18081

    @property
    def url(self) -> str:
        return self.edges[0].url

    @property
    def upstreams(self) -> list[str]:
        return [origin.url for origin in self.origins]

    def add(self, repository: str, tag: str, layers: list[bytes]) -> str:
        """Publish an image to all origins."""
        digests = {add_image(tree, repository, tag, layers) for tree in self.trees}
        return digests.pop()

    def origin(self, more: str = "", **variables: object) -> Server:
        number = len(self.origins)
        made = make_origin(
            self.folder / f"origin{number}", self.first_port + number, self.trees[number], more, **variables
        )
        self.origins.append(self.stack.enter_context(running(made)))
        return made

    def edge(self, more: str = "", **variables: object) -> Server:
        number = len(self.edges)
        given = {"edge_upstreams": self.upstreams, **variables}
        upstreams = given.pop("edge_upstreams")
        assert isinstance(upstreams, list)
        made = make_edge(self.folder / f"edge{number}", self.first_port + 100 + number * 10, upstreams, more, **given)
        self.edges.append(self.stack.enter_context(running(made)))
        return made

    def sent(self, pattern: str = "") -> list[tuple[str, str, int, int]]:
        return [row for origin in self.origins for row in origin.sent(pattern)]


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Site]:
    """Trees with one image, and nothing that serves them."""
    tree = tmp_path / "tree0"
    add_image(tree, "lab/app", "1.0", [BLOB])
    with ExitStack() as stack:
        yield Site(tmp_path, [tree, copy_tree(tree, tmp_path / "tree1")], stack=stack)


@pytest.fixture
def site(bare: Site) -> Site:
    """Two origins, and an edge that asks for tags again after a second."""
    bare.origin()
    bare.origin()
    bare.edge(edge_tag_max_age=1, edge_permission_max_age=1)
    return bare


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An origin and an edge that nothing happens to."""
    folder = tmp_path_factory.mktemp("lasting")
    add_image(folder / "tree", "lab/app", "1.0", [BLOB])
    with ExitStack() as stack:
        site = Site(folder, [folder / "tree"], stack=stack)
        site.first_port = 18581
        site.origin()
        site.edge()
        yield site


def wait_until_due() -> None:
    """Wait until all that is asked again now and then is due; nginx counts whole seconds."""
    time.sleep(2.2)


def test_what_was_asked_once_is_answered_by_the_edge(site: Site) -> None:
    for _ in range(3):
        manifest = get(f"{site.url}{APP}/manifests/1.0")
        direct = get(f"{site.origins[0].url}{APP}/manifests/1.0")
        assert manifest.content == direct.content
        own = {"Date", "Connection", "Server"}
        assert {k: v for k, v in manifest.headers.items() if k not in own} == {
            k: v for k, v in direct.headers.items() if k not in own
        }
        by_digest = get(f"{site.url}{APP}/manifests/{manifest.headers['Docker-Content-Digest']}")
        assert by_digest.content == manifest.content
        assert by_digest.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        blob = get(f"{site.url}{APP}/blobs/{DIGEST}")
        assert blob.content == BLOB
        assert blob.headers["Content-Length"] == str(len(BLOB))
        assert blob.headers["Docker-Content-Digest"] == DIGEST
        assert blob.headers["Accept-Ranges"] == "bytes"
        assert blob.headers["Content-Type"] == "application/octet-stream"
    assert len(site.sent("/manifests/sha256:")) == 1
    assert sum(row[3] for row in site.sent("/blobs/")) == len(BLOB)
    assert len(site.sent("/blobs/")) == 1 + 3  # the permission, and three slices


def test_one_copy_serves_every_repository_that_may_serve_it_and_no_other(site: Site) -> None:
    site.add("lab/other", "1.0", [BLOB])
    site.add("lab/none", "1.0", [b"something else"])
    assert get(f"{site.url}{APP}/blobs/{DIGEST}").content == BLOB
    for server in (*site.origins,):
        server.forget()
    assert get(f"{site.url}/v2/lab/other/blobs/{DIGEST}").content == BLOB
    assert [row[0] for row in site.sent("/blobs/")] == ["HEAD"]
    for method in ("GET", "HEAD"):
        refused = requests.request(method, f"{site.url}/v2/lab/none/blobs/{DIGEST}", timeout=10)
        assert refused.status_code == 404
    refused = get(f"{site.url}/v2/lab/none/blobs/{DIGEST}", Range="bytes=5-9")
    assert refused.status_code == 404
    assert refused.json()["errors"][0]["code"] == "BLOB_UNKNOWN"
    assert refused.headers["Cache-Control"] == "no-store"


def test_a_cold_head_fetches_nothing_and_a_cold_range_only_its_slices(site: Site) -> None:
    head = requests.head(f"{site.url}{APP}/blobs/{DIGEST}", timeout=10)
    assert head.headers["Content-Length"] == str(len(BLOB))
    assert head.headers["Docker-Content-Digest"] == DIGEST
    assert head.headers["Accept-Ranges"] == "bytes"
    assert sum(row[3] for row in site.sent("/blobs/")) == 0
    part = get(f"{site.url}{APP}/blobs/{DIGEST}", Range=f"bytes={SLICE + 5}-{SLICE + 104}")
    assert (part.status_code, part.content) == (206, BLOB[SLICE + 5 : SLICE + 105])
    assert part.headers["Content-Range"] == f"bytes {SLICE + 5}-{SLICE + 104}/{len(BLOB)}"
    assert sum(row[3] for row in site.sent("/blobs/")) == SLICE
    rest = get(f"{site.url}{APP}/blobs/{DIGEST}", Range=f"bytes={SLICE + 5}-", If_Range=f'"{DIGEST}"')
    assert (rest.status_code, rest.content) == (206, BLOB[SLICE + 5 :])
    assert get(f"{site.url}{APP}/blobs/{DIGEST}", Range="bytes=-7").content == BLOB[-7:]
    beyond = get(f"{site.url}{APP}/blobs/{DIGEST}", Range=f"bytes={len(BLOB)}-")
    assert (beyond.status_code, beyond.json()["errors"][0]["code"]) == (416, "SIZE_INVALID")
    far = get(f"{site.url}{APP}/blobs/{DIGEST}", Range=f"bytes={10 * len(BLOB)}-")
    assert far.status_code == 416


def test_whose_repository_a_mirror_was_asked_for_is_a_part_of_the_question(site: Site) -> None:
    digest = site.add("ghcr.io/lab/mirrored", "1.0", [b"mirrored"])
    path = f"{site.url}/v2/lab/mirrored"
    things = ["manifests/1.0", f"manifests/{digest}", f"blobs/{digest_of(b'mirrored')}", "tags/list?n=1"]
    for thing in things:
        join = "&" if "?" in thing else "?"
        for _ in range(2):
            assert get(f"{path}/{thing}{join}ns=ghcr.io").status_code == 200, thing
            assert get(f"{path}/{thing}").status_code == 404, thing
            assert get(f"{path}/{thing}{join}ns=quay.io").status_code == 404, thing
        assert get(f"{path}/{thing}{join}ns=no%20host").status_code == 404
    assert len(site.sent("manifests/1.0.ns=ghcr.io")) == 1
    assert 'rel="next"' not in get(f"{path}/tags/list?n=1&ns=ghcr.io").headers.get("Link", "")


def test_pages_of_lists_are_kept_page_by_page(site: Site) -> None:
    site.add("lab/app", "2.0", [BLOB])
    for _ in range(2):
        first = get(f"{site.url}{APP}/tags/list?n=1")
        assert first.json()["tags"] == ["1.0"]
        follow = first.links["next"]["url"]
        assert get(f"{site.url}{follow}").json()["tags"] == ["2.0"]
        assert get(f"{site.url}{APP}/tags/list").json()["tags"] == ["1.0", "2.0"]
        assert get(f"{site.url}/v2/_catalog?n=1").json() == {"repositories": ["lab/app"]}
    wrong = get(f"{site.url}{APP}/tags/list?n=x")
    assert (wrong.status_code, wrong.json()["errors"][0]["code"]) == (400, "PAGINATION_NUMBER_INVALID")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("PUT", f"{APP}/manifests/1.0", 405, "UNSUPPORTED"),
        ("GET", "/v2/lab/APP/manifests/1.0", 400, "NAME_INVALID"),
        ("GET", f"{APP}/blobs/sha256:1", 400, "DIGEST_INVALID"),
        ("GET", f"{APP}/manifests/sha256:1", 400, "DIGEST_INVALID"),
        ("GET", "/", 404, "UNSUPPORTED"),
        ("GET", f"/v2/{'a' * 600}/manifests/1", 414, "NAME_INVALID"),
        ("GET", f"{APP}/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/lab/none/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", f"{APP}/tags/list?last={'b/' * 3000}", 400, "PAGINATION_NUMBER_INVALID"),
        ("GET", f"{APP}/tags/list?ns=no/host", 404, "NAME_UNKNOWN"),
        ("GET", "/_permission", 404, "UNSUPPORTED"),
        ("GET", f"/_head{APP}/blobs/{DIGEST}", 404, "BLOB_UNKNOWN"),
    ],
)
def test_errors_are_as_the_origins(method: str, path: str, status: int, code: str, lasting: Site) -> None:
    for server in (lasting.edges[0], lasting.origins[0]):
        answer = requests.request(method, f"{server.url}{path}", data=b"x" if method == "PUT" else None, timeout=10)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_body_that_nobody_asked_for_goes_no_further(lasting: Site) -> None:
    for path in ("manifests/1.0", f"blobs/{DIGEST}", f"manifests/{digest_of(b'none')}", f"blobs/{digest_of(b'none')}"):
        plain = get(f"{lasting.url}{APP}/{path}")
        answer = requests.get(f"{lasting.url}{APP}/{path}", data=b"x" * 1000, timeout=10)
        assert (answer.status_code, answer.content) == (plain.status_code, plain.content)


def test_an_edge_says_at_health_whether_it_wants_requests(bare: Site) -> None:
    bare.origin()
    drained = bare.folder / "drained"
    edge = bare.edge(edge_drain_file=str(drained))
    assert get(f"{edge.url}/health").json() == {"status": "ready"}
    drained.touch()
    answer = get(f"{edge.url}/health")
    assert (answer.status_code, answer.json()) == (503, {"status": "drained"})
    assert get(f"{edge.url}{APP}/manifests/1.0").status_code == 200


def test_a_blob_without_bytes_is_a_blob(site: Site) -> None:
    site.add("lab/empty", "1.0", [b""])
    for method in ("HEAD", "GET", "GET"):
        empty = requests.request(method, f"{site.url}/v2/lab/empty/blobs/{digest_of(b'')}", timeout=10)
        assert (empty.status_code, empty.content, empty.headers["Content-Length"]) == (200, b"", "0")


def test_while_the_origins_are_away_what_was_pulled_goes_on(site: Site) -> None:
    paths = ["manifests/1.0", f"blobs/{DIGEST}", "tags/list", f"referrers/{DIGEST}"]
    warm = {path: get(f"{site.url}{APP}/{path}") for path in paths}
    for origin in site.origins:
        origin.kill()
    wait_until_due()
    for path, before in warm.items():
        begun = time.monotonic()
        now = get(f"{site.url}{APP}/{path}")
        assert (now.status_code, now.content) == (before.status_code, before.content), path
        assert time.monotonic() - begun < 2
    assert requests.head(f"{site.url}{APP}/blobs/{DIGEST}", timeout=10).status_code == 200
    assert get(f"{site.url}/v2/").json() == {}
    for path in ("manifests/2.0", f"blobs/{digest_of(b'unknown')}"):
        unknown = get(f"{site.url}{APP}/{path}")
        assert unknown.json()["errors"][0]["code"] == "UNAVAILABLE"
        assert unknown.headers["Retry-After"] == "5"
        assert unknown.headers["Cache-Control"] == "no-store"


def test_an_origin_that_ends_in_the_midst_of_a_blob_is_not_noticed(bare: Site) -> None:
    slow = "limit_rate 4m;"
    first = bare.origin(slow)
    second = bare.origin()
    edge = bare.edge(edge_upstreams=[first.url], edge_upstreams_backup=[second.url])
    # The first slice takes a second.
    killer = threading.Timer(1.4, first.kill)
    killer.start()
    blob = get(f"{edge.url}{APP}/blobs/{DIGEST}")
    killer.join()
    assert blob.content == BLOB
    assert 0 < sum(row[3] for row in first.sent("/blobs/")) < len(BLOB)
    assert sum(row[3] for row in second.sent("/blobs/")) > 0


def test_an_edge_starts_again_with_its_cache(site: Site) -> None:
    assert get(f"{site.url}{APP}/blobs/{DIGEST}").content == BLOB
    get(f"{site.url}{APP}/manifests/1.0")
    site.edges[0].kill()
    for origin in site.origins:
        origin.kill()
    site.edges[0].start()
    assert get(f"{site.url}{APP}/blobs/{DIGEST}").content == BLOB
    assert get(f"{site.url}{APP}/manifests/1.0").status_code == 200


def tag_digest(site: Site) -> str | None:
    return get(f"{site.url}{APP}/manifests/1.0").headers.get("Docker-Content-Digest")


def test_a_moved_tag_is_seen_when_it_is_due_and_an_unmoved_one_costs_no_body(site: Site) -> None:
    before = tag_digest(site)
    wait_until_due()
    assert tag_digest(site) == before
    assert [row[2] for row in site.sent("/manifests/1.0")] == [200, 304]
    moved = site.add("lab/app", "1.0", [b"new"])
    assert tag_digest(site) == before
    wait_until_due()
    assert tag_digest(site) == moved


def test_a_moved_tag_is_seen_at_once_after_a_purge(bare: Site) -> None:
    bare.origin()
    edge = bare.edge()
    before = tag_digest(bare)
    moved = bare.add("lab/app", "1.0", [b"new"])
    assert tag_digest(bare) == before
    purged = get(f"{edge.url}{APP}/manifests/1.0", X_Seawall_Purge="1")
    assert purged.headers["Docker-Content-Digest"] == moved
    assert tag_digest(bare) == moved
    for tree in bare.trees:
        (tree / "v2/lab/app/manifests/1.0").unlink()
    assert tag_digest(bare) == moved
    time.sleep(1.1)  # As long as an origin may go on with a link that is gone.
    assert get(f"{edge.url}{APP}/manifests/1.0", X_Seawall_Purge="1").status_code == 404
    bare.origins[0].kill()
    wait_until_due()
    # What was withdrawn does not come back because the origin is away.
    assert get(f"{edge.url}{APP}/manifests/1.0").status_code == 404


def test_a_stranger_purges_nothing(bare: Site) -> None:
    bare.origin()
    edge = bare.edge(edge_purge_from=["192.0.2.1"])
    before = tag_digest(bare)
    bare.add("lab/app", "1.0", [b"new"])
    assert get(f"{edge.url}{APP}/manifests/1.0", X_Seawall_Purge="1").headers["Docker-Content-Digest"] == before


def test_what_is_withdrawn_is_gone_when_it_is_due_and_comes_back_when_it_is_published(site: Site) -> None:
    before = tag_digest(site)
    assert get(f"{site.url}{APP}/blobs/{DIGEST}").content == BLOB
    for tree in site.trees:
        (tree / "v2/lab/app/manifests/1.0").unlink()
        (tree / "v2/lab/app/blobs" / DIGEST).unlink()
    wait_until_due()
    for _ in range(3):
        for path in ("manifests/1.0", f"blobs/{DIGEST}"):
            assert get(f"{site.url}{APP}/{path}").status_code == 404
            assert requests.head(f"{site.url}{APP}/{path}", timeout=10).status_code == 404
    site.add("lab/app", "1.0", [BLOB])
    wait_until_due()
    assert tag_digest(site) == before
    assert get(f"{site.url}{APP}/blobs/{DIGEST}").content == BLOB


def test_an_error_is_not_remembered(site: Site) -> None:
    for path in ("manifests/new", f"blobs/{digest_of(b'new')}"):
        assert get(f"{site.url}{APP}/{path}").status_code == 404
    site.add("lab/app", "new", [b"new"])
    for path in ("manifests/new", f"blobs/{digest_of(b'new')}"):
        assert get(f"{site.url}{APP}/{path}").status_code == 200


@contextmanager
def answering(answer: Callable[[socket.socket, str], None], port: int = 18099) -> Iterator[str]:
    """An upstream of few words: *answer* is given each connection, and the request that came over it."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                request = b""
                while b"\r\n\r\n" not in request:
                    piece = self.request.recv(65536)
                    if not piece:
                        return
                    request += piece
                answer(self.request, request.decode())

    class Upstream(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Upstream(("127.0.0.1", port), Handler) as upstream:
        thread = threading.Thread(target=upstream.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            upstream.shutdown()
            thread.join()


def head_of(status: str, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "Connection: close", "", "")).encode()


SMALL = b"0123456789" * 10


@pytest.mark.parametrize("way", ["length", "chunks", "end"])
def test_a_body_that_breaks_off_is_never_kept_however_its_end_is_told(way: str, tmp_path: Path) -> None:
    whole = False

    def answer(connection: socket.socket, request: str) -> None:
        headers = ["Content-Type: application/octet-stream"]
        if way == "length" or request.startswith("HEAD"):
            headers.append(f"Content-Length: {len(SMALL)}")
        elif way == "chunks":
            headers.append("Transfer-Encoding: chunked")
        status = "200 OK"
        if "Range:" in request:
            status = "206 Partial Content"
            headers.append(f"Content-Range: bytes 0-{len(SMALL) - 1}/{len(SMALL)}")
        connection.sendall(head_of(status, *headers))
        if request.startswith("HEAD"):
            return
        if way == "chunks":
            connection.sendall(f"{len(SMALL):x}\r\n".encode())
        connection.sendall(SMALL if whole else SMALL[:40])
        if way == "chunks" and whole:
            connection.sendall(b"\r\n0\r\n\r\n")

    with answering(answer) as upstream, running(make_edge(tmp_path / "edge", 18181, [upstream])) as edge:
        paths = [f"blobs/{digest_of(SMALL)}", f"manifests/{digest_of(SMALL)}", "manifests/1.0"]
        for path in paths[1:] if way == "end" else paths:
            whole = False
            if way == "end":
                # Nobody can tell; but it is not remembered.
                get(f"{edge.url}{APP}/{path}")
            else:
                with pytest.raises(requests.RequestException):
                    get(f"{edge.url}{APP}/{path}").raise_for_status()
            whole = True
            assert get(f"{edge.url}{APP}/{path}").content == SMALL


def test_what_a_bucket_does_wrong_is_put_right(tmp_path: Path) -> None:
    """A bucket that may not be listed: what is missing is forbidden; the digest is in a header of its own."""
    manifest = b'{"schemaVersion":2}'
    asked: list[str] = []

    def answer(connection: socket.socket, request: str) -> None:
        line = request.partition("\r\n")[0]
        asked.append(request)
        found = {
            "/images/v2/docker.io/lab/app/manifests/1.0": ("application/vnd.oci.image.manifest.v1+json", manifest),
            f"/images/v2/docker.io/lab/app/blobs/{digest_of(SMALL)}": ("binary/octet-stream", SMALL),
        }.get(line.split()[1])
        amazon = ("x-amz-request-id: 1", "x-amz-id-2: 2", "Server: AmazonS3")
        if found is None:
            error = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
            connection.sendall(
                head_of("403 Forbidden", "Content-Type: application/xml", f"Content-Length: {len(error)}", *amazon)
                + error
            )
            return
        content_type, body = found
        part = "Range:" in request
        headers = [f"Content-Type: {content_type}", f"Content-Length: {len(body)}", 'ETag: "x-2"', *amazon]
        headers += [f"x-amz-meta-docker-content-digest: {digest_of(body)}"]
        headers += [f"Content-Range: bytes 0-{len(body) - 1}/{len(body)}"] if part else []
        connection.sendall(head_of("206 Partial Content" if part else "200 OK", *headers))
        connection.sendall(b"" if line.startswith("HEAD") else body)

    with answering(answer) as upstream:
        bucket = make_edge(tmp_path / "edge", 18181, [f"{upstream}/images"], edge_upstream_kind="bucket")
        with running(bucket) as edge:
            path = f"{edge.url}/v2/docker.io/lab/app"
            assert get(f"{edge.url}/v2/").json() == {}
            by_tag = get(f"{path}/manifests/1.0", Authorization="Basic secret")
            assert by_tag.content == manifest
            assert by_tag.headers["Docker-Content-Digest"] == digest_of(manifest)
            assert by_tag.headers["Content-Type"] == "application/vnd.oci.image.manifest.v1+json"
            assert by_tag.headers["Cache-Control"] == "public, max-age=60"
            assert not [name for name in by_tag.headers if name.lower().startswith("x-amz")]
            blob = get(f"{edge.url}/v2/lab/app/blobs/{digest_of(SMALL)}?ns=docker.io")
            assert blob.content == SMALL
            assert blob.headers["Docker-Content-Digest"] == digest_of(SMALL)
            assert blob.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            for missing in ("manifests/2.0", f"blobs/{DIGEST}", f"manifests/{DIGEST}"):
                unknown = get(f"{path}/{missing}")
                assert unknown.status_code == 404
                assert unknown.json()["errors"][0]["code"].endswith("_UNKNOWN")
                assert requests.head(f"{path}/{missing}", timeout=10).status_code == 404
            assert get(f"{edge.url}/v2/lab/app/manifests/1.0?ns=ghcr.io").status_code == 404
        assert not [request for request in asked if "secret" in request]


SECRET = "d41d8cd98f00b204e9800998ecf8427e-lab"
PRIVATE = make_blob(SLICE + 1000, seed=2)


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_private_namespaces_stay_private_whether_the_edge_was_told_of_them_or_not(told: bool, bare: Site) -> None:
    hashed = run(["htpasswd", "-nbBC", "5", "alice", "knows"]).stdout.strip().partition(":")[2]
    private = bare.add("team-a/app", "1.0", [PRIVATE, BLOB])
    secrets = bare.folder / "seawall-private"
    secrets.mkdir(parents=True)
    (secrets / "passwords").write_text(f"alice:{hashed}\n")
    bare.origin(
        origin_namespaces=[{"prefix": "team-a", "access": "basic", "users": ["alice"]}],
        origin_users={"alice": hashed},
        origin_token_secret=SECRET,
        __origin_secrets=str(secrets),
        origin_password_rate=500,
    )
    edge = bare.edge(edge_private_prefixes=["team-a"] if told else [])
    team = f"{edge.url}/v2/team-a/app"
    paths = ["manifests/1.0", f"manifests/{private}", f"blobs/{digest_of(PRIVATE)}", f"blobs/{DIGEST}", "tags/list"]
    alice = "Basic " + base64.b64encode(b"alice:knows").decode()
    for _ in range(2):
        for path in paths:
            assert get(f"{team}/{path}").status_code == 401, path
            assert get(f"{team}/{path}").headers["WWW-Authenticate"].count("Bearer realm=") == 1
            assert requests.head(f"{team}/{path}", timeout=10).status_code == 401
            assert get(f"{team}/{path}", Authorization="Bearer anonymous").status_code == 401
            mine = get(f"{team}/{path}", Authorization=alice)
            assert mine.status_code == 200, path
            assert mine.headers["Cache-Control"].startswith("private"), path
        assert get(f"{team}/blobs/{digest_of(PRIVATE)}", Authorization=alice).content == PRIVATE
        part = get(f"{team}/blobs/{digest_of(PRIVATE)}", Authorization=alice, Range="bytes=5-9")
        assert (part.status_code, part.content) == (206, PRIVATE[5:10])
        # The bytes of a public one may come out of the cache, but only after the origin has let this client in.
        assert get(f"{team}/blobs/{DIGEST}", Authorization=alice).content == BLOB
        # What is public is public, with whatever credentials.
        assert get(f"{edge.url}{APP}/blobs/{DIGEST}", Authorization="Bearer anonymous").content == BLOB
        assert get(f"{edge.url}{APP}/blobs/{digest_of(PRIVATE)}", Authorization=alice).status_code == 404
    kept = [path for path in (edge.folder / "cache").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if b"team-a" in path.read_bytes() or PRIVATE[:100] in path.read_bytes()]
    if told:
        challenge = get(f"{edge.url}/v2/")
        assert challenge.status_code == 401
        realm = challenge.headers["WWW-Authenticate"].split('"')[1]
        assert realm.startswith(edge.url)
        token = get(realm, Authorization=alice).json()["token"]
        assert get(f"{team}/manifests/1.0", Authorization=f"Bearer {token}").status_code == 200
        bare.origins[0].kill()
        assert get(f"{edge.url}/v2/").status_code == 200


def test_edges_that_know_each_other_fetch_each_slice_once(bare: Site) -> None:
    bare.origin()
    peers = [f"http://127.0.0.1:{18181 + number * 10}" for number in range(3)]
    for number in range(3):
        bare.edge(edge_peers=peers, edge_name=f"edge{number}")
    for edge in bare.edges:
        assert get(f"{edge.url}{APP}/blobs/{DIGEST}").content == BLOB
    assert sum(row[3] for row in bare.sent("/blobs/")) == len(BLOB)
    more = [make_blob(1000, seed) for seed in range(10, 20)]
    bare.add("lab/more", "1.0", more)
    # One of them ends; whose digests they were are everybody's.
    bare.edges[1].kill()
    for edge in (bare.edges[0], bare.edges[2]):
        for blob in more:
            assert get(f"{edge.url}/v2/lab/more/blobs/{digest_of(blob)}").content == blob


def test_an_edge_behind_an_edge_hands_on_what_it_is_asked_and_a_purge(bare: Site) -> None:
    bare.origin()
    inner = bare.edge()
    outer = bare.edge(edge_upstreams=[inner.url])
    before = get(f"{outer.url}{APP}/manifests/1.0").headers["Docker-Content-Digest"]
    assert get(f"{outer.url}{APP}/blobs/{DIGEST}").content == BLOB
    moved = bare.add("lab/app", "1.0", [b"new"])
    assert get(f"{outer.url}{APP}/manifests/1.0").headers["Docker-Content-Digest"] == before
    get(f"{outer.url}{APP}/manifests/1.0", X_Seawall_Purge="1")
    for edge in (outer, inner):
        assert get(f"{edge.url}{APP}/manifests/1.0").headers["Docker-Content-Digest"] == moved


def test_upstreams_and_clients_over_tls_are_sure_of_whom_they_speak_with(bare: Site) -> None:
    authority, other = trustme.CA(), trustme.CA()
    for name, signer in (("right", authority), ("other", other)):
        signer.cert_pem.write_to_path(str(bare.folder / f"{name}.pem"))
    certificate = authority.issue_cert("images.example", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(bare.folder / "chain.pem"))
    certificate.private_key_pem.write_to_path(str(bare.folder / "key.pem"))
    pems = [str(bare.folder / "chain.pem"), str(bare.folder / "key.pem")]
    bare.stack.enter_context(pytest.MonkeyPatch.context()).setenv("SSL_CERT_FILE", str(bare.folder / "right.pem"))
    bare.origin(origin_tls_certificate=pems[0], origin_tls_certificate_key=pems[1])
    given = {"edge_upstream_host": "images.example", "edge_upstream_ca": str(bare.folder / "right.pem")}
    tls = bare.edge(**given, edge_tls_certificate=pems[0], edge_tls_certificate_key=pems[1])
    foreign = bare.edge(**given | {"edge_upstream_ca": str(bare.folder / "other.pem")})
    misnamed = bare.edge(**given | {"edge_upstream_host": "elsewhere.example"})
    for path in ("manifests/1.0", f"blobs/{DIGEST}"):
        served = requests.get(f"{tls.url}{APP}/{path}", verify=str(bare.folder / "right.pem"), timeout=10)
        assert served.status_code == 200
        assert served.headers["Strict-Transport-Security"] == "max-age=31536000"
        for edge in (foreign, misnamed):
            assert get(f"{edge.url}{APP}/{path}").status_code == 503


def test_a_real_bucket_behind_it_is_a_registry(store: Store, tmp_path: Path) -> None:
    digest = add_image(tmp_path / "tree", "lab/app", "1.0", [BLOB])
    repository = tmp_path / "tree/v2/lab/app"
    kinds = {"manifests": OCI_MANIFEST.media_type, "blobs": "binary/octet-stream", "tags": "application/json"}
    for path in (*repository.glob("manifests/*"), *repository.glob("blobs/*"), repository / "tags/list"):
        store.client().put_object(
            Bucket="images",
            Key=f"site/v2/lab/app/{path.parent.name}/{path.name}",
            Body=path.read_bytes(),
            ContentType=kinds[path.parent.name],
            Metadata={"docker-content-digest": digest} if path.name == "1.0" else {},
        )
    made = make_edge(tmp_path / "edge", 18181, [f"{store.url}/images/site"], edge_upstream_kind="bucket")
    with running(made) as edge:
        with pytest.raises(SystemExit) as ended:
            main(["verify", edge.url, "lab/app:1.0"])
        assert ended.value.code == 0
        assert get(f"{edge.url}{APP}/tags/list").json()["tags"] == ["1.0"]


def test_a_full_disk_costs_no_answer(bare: Site) -> None:
    bare.origin()
    disk = bare.folder / "disk"
    disk.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)])
    try:
        edge = bare.edge(edge_cache_dir=str(disk / "cache"), edge_cache_size="4m", edge_cache_min_free="0")
        for _ in range(3):
            assert get(f"{edge.url}{APP}/blobs/{DIGEST}").content == BLOB
            assert get(f"{edge.url}{APP}/manifests/1.0").status_code == 200
        filling = disk / "of somebody else"
        with suppress(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for tag in ("new", "newer"):
            bare.add("lab/app", tag, [make_blob(SLICE + 5, seed=len(tag))])
            assert get(f"{edge.url}{APP}/manifests/{tag}").status_code == 200
            blob = make_blob(SLICE + 5, seed=len(tag))
            assert get(f"{edge.url}{APP}/blobs/{digest_of(blob)}").content == blob
        assert get(f"{edge.url}{APP}/manifests/none").status_code == 404
        filling.unlink()
        bare.origins[0].forget()
        for _ in range(2):
            assert get(f"{edge.url}{APP}/manifests/newer").status_code == 200
        assert len(bare.sent("/manifests/newer")) == 1
    finally:
        bare.stack.close()
        run(["umount", str(disk)])


def test_what_is_wrong_is_taken_away_by_a_scrub_and_fetched_anew(
    bare: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = bare.origin()
    edge = bare.edge()
    content = bare.trees[0] / "content/blobs/sha256" / DIGEST[7:9] / DIGEST[7:]
    times = content.stat()
    content.write_bytes(BLOB[: SLICE + 9] + b"!" + BLOB[SLICE + 10 :])
    os.utime(content, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert get(f"{edge.url}{APP}/manifests/1.0").status_code == 200
    assert get(f"{edge.url}{APP}/blobs/{DIGEST}").content != BLOB
    content.write_bytes(BLOB)
    assert get(f"{edge.url}{APP}/blobs/{DIGEST}").content != BLOB
    cache = edge.folder / "cache"
    with pytest.raises(SystemExit) as ended:
        main(["scrub", str(cache)])
    assert ended.value.code == 0
    assert "3 faults" in capsys.readouterr().out
    time.sleep(1.1)  # nginx may go on with a file that is gone for as long.
    assert get(f"{edge.url}{APP}/blobs/{DIGEST}").content == BLOB
    with pytest.raises(SystemExit):
        main(["scrub", str(cache)])
    # The blob, and the manifest.
    assert "2 manifests and blobs" in capsys.readouterr().out
    assert origin.sent("/blobs/")


CLIENTS = 50
LARGE = 500_000_000


def test_fifty_clients_ask_for_one_cold_blob_and_the_origin_sends_it_once(bare: Site) -> None:
    """500 MB of zeros: as many as the owner named."""
    zeros = bytes(LARGE)
    digest = digest_of(zeros)
    add_image(bare.trees[0], "lab/large", "1.0", [zeros])
    del zeros
    origin = bare.origin()
    bare.edge()
    failures: list[str] = []
    thrown_away = bytearray(4 * MEGABYTE)
    request = f"GET /v2/lab/large/blobs/{digest} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n"

    def pull() -> None:
        with socket.create_connection(("127.0.0.1", 18181), timeout=120) as client:
            client.sendall(request.encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += client.recv(4096)
            head, _, begun = answer.partition(b"\r\n\r\n")
            size = len(begun)
            # The kernel throws away what comes: fifty clients must not be what is slow here.
            while count := client.recv_into(thrown_away, 0, socket.MSG_TRUNC) if size < LARGE else 0:
                size += count
            if size != LARGE or f"Content-Length: {LARGE}".encode() not in head:
                failures.append(f"{size}: {head.decode()}")

    clients = [threading.Thread(target=pull) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert failures == []
    rows = origin.sent("/blobs/")
    assert sum(row[3] for row in rows) == LARGE
    assert [row[0] for row in rows].count("HEAD") == 1


EDGE = "198.18.0.41"


@dataclass
class Deployed:
    """A host that Ansible made an edge, and the origin behind it, which serves two images."""

    host: Host
    site: Site
    rehearsed: Run
    first: Run
    second: Run


@pytest.fixture(scope="module")
def deployed(
    engine: Engine,
    host_image: Image,
    lab_network: Network,
    samples: Samples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployed")
    for sample in (samples.layers, samples.oci_index):
        with pytest.raises(SystemExit) as ended:
            main(["add", str(folder / "tree"), f"docker://{sample.reference}", bare_name(sample), "--plain-http"])
        assert ended.value.code == 0
    with ExitStack() as stack:
        site = Site(folder, [folder / "tree"], stack=stack, first_port=18781)
        site.origin()
        host = stack.enter_context(Host.start(engine, host_image, "edge1", EDGE))
        variables = {"edge_upstreams": [f"http://{lab_network.gateway}:18781"], "edge_tag_max_age": 1}
        (folder / "inventory").mkdir()
        rollout = Rollout(make_inventory(folder / "inventory", host, variables, group="edge"), engine)
        playbook = "playbooks/edge.yml"
        rehearsed = rollout.play(playbook, "--check", "--diff")
        yield Deployed(host, site, rehearsed, rollout.play(playbook), rollout.play(playbook))


def bare_name(sample: Sample) -> str:
    return f"{sample.repository}:{sample.tag}"


def test_a_rollout_says_what_it_will_do_does_it_and_is_done(deployed: Deployed, samples: Samples) -> None:
    assert deployed.rehearsed.code == 0
    assert deployed.rehearsed.changed > 0
    assert deployed.first.code == 0
    assert deployed.second.code == 0
    assert deployed.second.changed == 0
    assert get(f"http://{EDGE}/health").json() == {"status": "ready"}
    for sample in (samples.layers, samples.oci_index):
        with pytest.raises(SystemExit) as ended:
            main(["verify", f"http://{EDGE}", bare_name(sample)])
        assert ended.value.code == 0


# How to pull, and how to have nothing left of it.
COMMANDS = {
    "podman": ("podman pull --tls-verify=false {image}", "podman rmi --all --force"),
    "containerd": (
        "ctr images pull --plain-http --snapshotter=native {image}",
        "ctr images ls --quiet | xargs --no-run-if-empty ctr images rm --sync",
    ),
    "skopeo": (
        "skopeo --insecure-policy copy --src-tls-verify=false docker://{image} dir:/tmp/copied",
        "rm -rf /tmp/copied",
    ),
}


def test_clients_pull_from_it_and_go_on_without_the_origin_and_after_a_restart(
    deployed: Deployed, client_bookworm: Host, client_engine: Engine, samples: Samples
) -> None:
    images = [f"{EDGE}/{bare_name(sample)}" for sample in (samples.layers, samples.oci_index)]

    def pull_all() -> None:
        for pull, empty in COMMANDS.values():
            for image in images:
                client_bookworm.run("sh", "-c", f"{empty} && {pull.format(image=image)} && {empty}")
        client_engine.docker("pull", images[0])
        assert client_engine.docker("run", "--rm", images[0]) == samples.layers.output()
        client_engine.docker("image", "rm", "--force", images[0])

    pull_all()
    origin = deployed.site.origins[0]
    blobs = [row for row in origin.sent("/blobs/") if row[0] == "GET"]
    assert len({row[1] for row in blobs}) == len(blobs)
    origin.kill()
    try:
        wait_until_due()
        pull_all()
        deployed.host.run("systemctl", "restart", "nginx")
        pull_all()
    finally:
        origin.start()


def test_the_timer_has_the_cache_scrubbed(deployed: Deployed, samples: Samples) -> None:
    host = deployed.host
    assert host.run("systemctl", "is-active", "seawall-scrub.timer").stdout.strip() == "active"
    manifest = f"http://{EDGE}/v2/{samples.layers.repository}/manifests/{samples.layers.digest}"
    right = get(manifest).content
    find = ["grep", "-rlF", f"KEY: /v2/{samples.layers.repository}/manifests/{samples.layers.digest}"]
    path = host.run(*find, "/var/lib/nginx/seawall").stdout.strip()
    host.run("sh", "-c", f"printf '!' | dd of={path} bs=1 seek=$(($(stat -c %s {path}) - 1)) conv=notrunc")
    host.run("systemctl", "start", "seawall-scrub.service")
    assert host.run("test", "-e", path, check=False).returncode == 1
    assert "1 fault" in host.run("journalctl", "--unit=seawall-scrub", "--no-pager").stdout
    time.sleep(1.1)
    assert get(manifest).content == right
