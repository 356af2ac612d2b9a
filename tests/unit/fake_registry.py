"""A registry in this process that speaks the distribution API, and misbehaves where a test asks it to.

    with FakeRegistry() as registry:
        image = registry.add_image("team/app", "1.0")
        registry.misbehave(Fault(on=image.layers[0].digest, die_after=10, times=1))
        ...  # pull from docker://{registry.host}/team/app
        assert registry.asked("GET", "/blobs/")

Requests are served by threads; leaving the ``with`` block ends them all, also those in the middle of a stall.
"""

import base64
import gzip
import hashlib
import json
import re
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from seawall.digest import Digest
from seawall.manifest import Descriptor, Manifest, Platform, parse_manifest
from seawall.media_type import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, ManifestKind

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64", "v8")

_CONFIG_TYPES = {
    OCI_MANIFEST: "application/vnd.oci.image.config.v1+json",
    DOCKER_MANIFEST: "application/vnd.docker.container.image.v1+json",
}
_LAYER_TYPES = {
    OCI_MANIFEST: "application/vnd.oci.image.layer.v1.tar+gzip",
    DOCKER_MANIFEST: "application/vnd.docker.image.rootfs.diff.tar.gzip",
}


@dataclass(frozen=True)
class FakeImage:
    """A manifest of one of the four kinds with all that it needs, the same bytes for the same arguments."""

    manifest: Manifest
    platform: Platform | None = None
    blobs: Mapping[Digest, bytes] = field(default_factory=dict)
    """Contents of the blobs that the manifest names."""
    images: tuple["FakeImage", ...] = ()
    """What an index lists."""

    @property
    def digest(self) -> Digest:
        return self.manifest.digest

    @property
    def content(self) -> bytes:
        return self.manifest.content

    @property
    def descriptor(self) -> Descriptor:
        return self.manifest.descriptor

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        return self.manifest.layers


def make_layer(seed: str, size: int = 1000) -> bytes:
    """Return *size* bytes that nothing compresses, the same for the same *seed*."""
    return hashlib.shake_256(seed.encode()).digest(size)


def make_image(
    seed: str = "app",
    *,
    kind: ManifestKind = OCI_MANIFEST,
    platform: Platform = AMD64,
    layers: Iterable[bytes] | None = None,
) -> FakeImage:
    """Return an image; by default it has two layers that are made from *seed* and *platform*."""
    contents = [make_layer(f"{seed} {platform} {n}") for n in range(2)] if layers is None else list(layers)
    config = _json(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            **({"variant": platform.variant} if platform.variant else {}),
            "config": {"Cmd": [seed]},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in contents]},
        }
    )
    document = {
        "schemaVersion": 2,
        "mediaType": kind.media_type,
        "config": _describe(config, _CONFIG_TYPES[kind]),
        "layers": [_describe(layer, _LAYER_TYPES[kind]) for layer in contents],
    }
    blobs = {Digest.of(content): content for content in (config, *contents)}
    return FakeImage(_manifest(document), platform, blobs)


def make_index(images: Iterable[FakeImage], *, kind: ManifestKind = OCI_INDEX) -> FakeImage:
    """Return an index of *images*."""
    images = tuple(images)
    rows: list[dict[str, Any]] = []
    for image in images:
        row = _describe(image.content, image.manifest.kind.media_type)
        if image.platform:
            parts = ("os", image.platform.os), ("architecture", image.platform.architecture)
            row["platform"] = dict((*parts, ("variant", image.platform.variant)))
        rows.append(row)
    return FakeImage(_manifest({"schemaVersion": 2, "mediaType": kind.media_type, "manifests": rows}), images=images)


def make_artifact(
    seed: str,
    subject: FakeImage,
    *,
    artifact_type: str | None = "application/vnd.example.signature",
    config_type: str = "application/vnd.oci.empty.v1+json",
    annotations: Mapping[str, str] | None = None,
) -> FakeImage:
    """Return what refers to *subject*, as a signature or an SBOM does."""
    content = make_layer(seed, 100)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST.media_type,
        "config": _describe(b"{}", config_type),
        "layers": [_describe(content, "application/vnd.example.blob")],
        "subject": _describe(subject.content, subject.manifest.kind.media_type),
        **({"artifactType": artifact_type} if artifact_type else {}),
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return FakeImage(_manifest(document), blobs={Digest.of(blob): blob for blob in (b"{}", content)})


def make_docker_list(images: Iterable[FakeImage]) -> FakeImage:
    """Return a Docker manifest list of *images*."""
    return make_index(images, kind=DOCKER_LIST)


@dataclass
class Fault:
    """One way to misbehave, and when. The first fault that applies to a request is the one that strikes."""

    on: object = ""
    """A part of the paths it strikes: a digest, ``/blobs/``, ``/manifests/1.0``, ``/token``."""
    method: str | None = None
    """The one method it strikes."""
    ranged: bool = False
    """Strikes only where a range is asked for."""
    when: Callable[["Received"], bool] | None = None
    """Strikes only where this holds of the request."""
    times: int | None = None
    """How often it strikes before all is well again; None for always."""

    status: int | None = None
    """Answers this status (with an error body, where *body* gives no other)."""
    redirect_to: str | None = None
    """Sends the client there: a URL, or the ``url`` of another registry for the same path on it."""
    body: bytes | None = None
    """Answers with this body."""
    wrong_bytes: bool = False
    """Answers with other bytes, of the same length."""
    without_ranges: bool = False
    """Knows no ranges: answers with the whole body."""
    gzip: bool = False
    """Encodes the body, and says so."""
    endless: bool = False
    """Follows the body with more of it, chunked, until the client goes away."""
    chunked: bool = False
    """Sends the body chunked, without a Content-Length."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sends these headers, in place of the true ones."""
    without: tuple[str, ...] = ()
    """Leaves these headers away."""
    announce: int = 0
    """Bytes that Content-Length is larger (or smaller) than the body; the connection is closed after it."""

    die_after: int | None = None
    """Cuts the connection after so many bytes of the body; -1 before any answer."""
    stall: float = 0.0
    """Seconds of silence: before the answer, or where *die_after* cuts it."""
    drip: float = 0.0
    """Seconds of silence after each byte of the body."""
    drip_headers: float = 0.0
    """Seconds of silence after each byte of the headers."""
    drip_size: float = 0.0
    """Sends the body chunked, and never comes to the end of the first chunk's size; seconds after each digit."""


@dataclass(frozen=True)
class Received:
    """A request as it came in."""

    method: str
    path: str
    """With its query."""
    headers: Message
    body: bytes = b""

    @property
    def authorization(self) -> str | None:
        return self.headers["Authorization"]

    @property
    def range(self) -> str | None:
        return self.headers["Range"]


@dataclass
class Store:
    """What registries serve; several may share one, like a registry and the CDN that it redirects to."""

    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    """Bytes and media type by repository and tag or digest."""
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """Contents by repository and digest."""


class FakeRegistry:
    """A registry on 127.0.0.1; its attributes may be changed while it runs.

    Args:
        auth: ``anonymous``, ``basic`` or ``bearer``.
        username: who may log in; with ``bearer``, None gives a token to everyone.
        password: the password of that account.
        identity_token: a refresh token that is taken in place of the password.
        token_server: another registry that gives the tokens; by default this one does.
        token_lifetime: seconds, as told in ``expires_in``; None leaves it away.
        store: what to serve; by default something of its own.
        tls: speaks HTTPS with this context.
    """

    def __init__(
        self,
        auth: str = "anonymous",
        *,
        username: str | None = None,
        password: str = "",
        identity_token: str | None = None,
        token_server: "FakeRegistry | None" = None,
        token_lifetime: int | None = 300,
        store: Store | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.auth = auth
        self.username = username
        self.password = password
        self.identity_token = identity_token
        self.token_lifetime = token_lifetime
        self.token_field = "token"
        self.tags_page = 1000
        """The most tags that a page of the tag list has, however many are asked for."""
        self.lists_referrers = True
        """Whether there is a referrers API."""
        self.referrers_page = 1000
        """The most referrers that a page of a list has."""
        self.endless_referrers = False
        """Whether every page of a list names a next one."""
        self.claims: dict[Digest, list[Digest]] = {}
        """By subject, what the API and the lists behind tags name without being asked to."""
        self.challenges: list[str] | None = None
        """``WWW-Authenticate`` headers, in place of the true ones."""
        self.store = store or Store()
        self.faults: list[Fault] = []
        self.requests: list[Received] = []
        self.bytes_sent = 0
        """Bytes of bodies."""
        self.tokens: set[str] = set()
        """The tokens that are good; clear it and the clients have to fetch new ones."""
        self._token_server = token_server or self
        self._issued = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = _Server(self)
        self._scheme = "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.cut_connections()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def host(self) -> str:
        """The host and port, as in ``docker://{host}/team/app``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host}"

    def add_image(self, repository: str, tag: str | None = None, image: FakeImage | None = None) -> FakeImage:
        """Serve *image* (by default a small one) in *repository* with all it needs, under *tag* if one is given."""
        image = image or make_image(f"{repository}:{tag}")
        for child in image.images:
            self.add_image(repository, None, child)
        row = (image.content, image.manifest.kind.media_type)
        with self._lock:
            for digest, content in image.blobs.items():
                self.store.blobs[repository, str(digest)] = content
            self.store.manifests[repository, str(image.digest)] = row
            if tag is not None:
                self.store.manifests[repository, tag] = row
        return image

    def add_referrer(self, repository: str, image: FakeImage) -> FakeImage:
        """Serve *image* in *repository*; where there is no referrers API, list it behind the tag of its subject."""
        self.add_image(repository, None, image)
        about = image.manifest.subject
        assert about is not None
        if not self.lists_referrers:
            rows = self._referring(repository, about)
            content = _json({"schemaVersion": 2, "mediaType": OCI_INDEX.media_type, "manifests": rows})
            with self._lock:
                self.store.manifests[repository, f"sha256-{about.hex}"] = (content, OCI_INDEX.media_type)
        return image

    def misbehave(self, fault: Fault) -> Fault:
        """Misbehave from now on as *fault* says."""
        with self._lock:
            self.faults.append(fault)
        return fault

    def behave(self) -> None:
        """Have no faults any more."""
        with self._lock:
            self.faults.clear()

    def asked(self, method: str | None = None, part: object = "") -> list[Received]:
        """Return the requests that came in by *method* with *part* in their path."""
        with self._lock:
            return [r for r in self.requests if method in {None, r.method} and str(part) in r.path]

    # What the handler asks of the registry.

    def strike(self, request: Received) -> Fault:
        """Return the fault to commit on *request*; one without any harm where there is none."""
        with self._lock:
            for fault in self.faults:
                applies = str(fault.on) in request.path and fault.method in {None, request.method}
                applies = applies and (fault.when is None or fault.when(request))
                if applies and (request.range or not fault.ranged) and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return Fault()

    def record(self, request: Received) -> None:
        with self._lock:
            self.requests.append(request)

    def count(self, sent: int) -> None:
        with self._lock:
            self.bytes_sent += sent

    def pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def answer(self, request: Received, *, ranges: bool = True) -> "_Answer":
        """Return the true answer to *request*, that of a server which knows no ranges if so wanted."""
        parts = urlsplit(request.path)
        if parts.path == "/token":
            return self._token(request)
        if not self._may(request):
            return self._challenge(parts.path)
        if parts.path in {"/v2", "/v2/"}:
            return _json_answer(200, {})
        if parts.path == "/v2/_catalog":
            return _json_answer(200, {"repositories": sorted({repository for repository, _ in self.store.manifests})})
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags|referrers)/([^/]+)", parts.path)
        if match is None:
            return _error(404, "NAME_UNKNOWN", "no such thing")
        serve = {
            "manifests": self._manifest,
            "blobs": self._blob,
            "tags": self._tags,
            "referrers": self._referrers,
        }[match[2]]
        is_list = match[2] in {"tags", "referrers"}
        answer = serve(match[1], f"{match[3]}?{parts.query}" if is_list else match[3])
        return _ranged(answer, request) if ranges else answer

    def _manifest(self, repository: str, name: str) -> "_Answer":
        found = self.store.manifests.get((repository, name))
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", f"manifest {name} is not here")
        return _Answer(200, {"Content-Type": found[1]}, found[0], str(Digest.of(found[0])))

    def _blob(self, repository: str, name: str) -> "_Answer":
        blob = self.store.blobs.get((repository, name))
        if blob is None:
            return _error(404, "BLOB_UNKNOWN", f"blob {name} is not here")
        return _Answer(200, {"Content-Type": "application/octet-stream"}, blob, name)

    def _tags(self, repository: str, name: str) -> "_Answer":
        query = parse_qs(name.partition("?")[2])
        known = {tag for repo, tag in self.store.manifests if repo == repository}
        if not known:
            return _error(404, "NAME_UNKNOWN", f"repository {repository} is not here")
        tags = sorted(tag for tag in known if ":" not in tag and tag > query.get("last", [""])[0])
        size = min(self.tags_page, int(query.get("n", [self.tags_page])[0]))
        answer = _json_answer(200, {"name": repository, "tags": tags[:size]})
        if len(tags) > size:
            following = f"/v2/{repository}/tags/list?n={size}&last={tags[size - 1]}"
            answer.headers["Link"] = f'<{following}>; rel="next"'
        return answer

    def _referrers(self, repository: str, name: str) -> "_Answer":
        if not self.lists_referrers:
            return _Answer(404, {"Content-Type": "text/plain"}, b"404 page not found")
        digest, _, text = name.partition("?")
        page = int(parse_qs(text).get("page", ["0"])[0])
        rows = self._referring(repository, Digest.parse(digest))
        size, first = self.referrers_page, self.referrers_page * page
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX.media_type, "manifests": rows[first : first + size]}
        answer = _Answer(200, {"Content-Type": OCI_INDEX.media_type}, _json(document))
        if self.endless_referrers or len(rows) > first + size:
            answer.headers["Link"] = f'</v2/{repository}/referrers/{digest}?page={page + 1}>; rel="next"'
        return answer

    def _referring(self, repository: str, subject: Digest) -> list[dict[str, Any]]:
        rows = []
        for (repo, name), (content, media_type) in sorted(self.store.manifests.items()):
            claimed = Digest.of(content) in self.claims.get(subject, ())
            refers = json.loads(content).get("subject", {}).get("digest") == str(subject)
            if repo == repository and ":" in name and (refers or claimed):
                rows.append(_describe(content, media_type))
        missing = {str(digest) for digest in self.claims.get(subject, ())} - {name for _, name in self.store.manifests}
        rows += [{"mediaType": OCI_MANIFEST.media_type, "digest": name, "size": 100} for name in sorted(missing)]
        return rows

    def _may(self, request: Received) -> bool:
        kind, _, value = (request.authorization or "").partition(" ")
        if self.auth == "basic":
            return kind == "Basic" and value == self._basic()
        return self.auth == "anonymous" or (kind == "Bearer" and value in self._token_server.tokens)

    def _basic(self) -> str:
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def _challenge(self, path: str) -> "_Answer":
        repository = path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")[0]
        basic = 'Basic realm="fake, of course"'
        bearer = (
            f'Bearer realm="{self._token_server.url}/token",service="fake registry, tests",'
            f'scope="repository:{repository}:pull",error="invalid_token"'
        )
        answer = _error(401, "UNAUTHORIZED", "authentication required")
        answer.challenges = [basic if self.auth == "basic" else bearer]
        if self.challenges is not None:
            answer.challenges = self.challenges
        return answer

    def _token(self, request: Received) -> "_Answer":
        form = parse_qs(request.body.decode())
        if request.method == "POST":
            right = form.get("grant_type") == ["refresh_token"] and form.get("refresh_token") == [self.identity_token]
        else:
            right = self.username is None or request.authorization == f"Basic {self._basic()}"
        if not right:
            return _error(401, "UNAUTHORIZED", "incorrect username or password")
        with self._lock:
            self._issued += 1
            token = f"token-{self._issued}-of-{self.port}"
            self.tokens.add(token)
        lifetime = {} if self.token_lifetime is None else {"expires_in": self.token_lifetime}
        return _json_answer(200, {self.token_field: token, **lifetime})


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    digest: str | None = None
    challenges: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"
    _drip_headers = 0.0
    _headers_buffer: list[bytes]

    def do_GET(self) -> None:
        registry = self.server.registry
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        request = Received(self.command, self.path, self.headers, body)
        registry.record(request)
        fault = registry.strike(request)
        if fault.die_after is None:
            registry.pause(fault.stall)
        elif fault.die_after < 0:
            registry.pause(fault.stall)
            self._cut()
            return
        with suppress(OSError):
            answer = registry.answer(request, ranges=not fault.without_ranges)
            self._send(_distorted(answer, fault, self.path), fault)

    do_HEAD = do_POST = do_GET  # noqa: N815 - likewise

    def _send(self, answer: _Answer, fault: Fault) -> None:
        headers = dict(answer.headers)
        if answer.digest is not None:
            headers["Docker-Content-Digest"] = answer.digest
        if fault.endless or fault.chunked or fault.drip_size:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(answer.body) + fault.announce)
        headers |= fault.headers
        self._drip_headers = fault.drip_headers
        self.send_response(answer.status)
        for challenge in answer.challenges:
            self.send_header("WWW-Authenticate", challenge)
        for name, value in headers.items():
            if name.lower() not in {left.lower() for left in fault.without}:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(answer.body, fault)
        if fault.announce:
            self._cut()

    def _send_body(self, body: bytes, fault: Fault) -> None:
        registry = self.server.registry
        if fault.die_after is not None:
            self._write(body[: fault.die_after])
            registry.pause(fault.stall)
            self._cut()
            return
        while fault.drip_size and not registry.is_stopping:
            self.wfile.write(b"0")
            registry.pause(fault.drip_size)
        if fault.drip:
            for byte in body:
                self._write(bytes([byte]))
                registry.pause(fault.drip)
            return
        if not (fault.endless or fault.chunked):
            self._write(body)
            return
        self._write_chunk(body)
        while fault.endless and not registry.is_stopping:
            self._write_chunk(bytes(64 * 1024))
        self.wfile.write(b"0\r\n\r\n")

    def flush_headers(self) -> None:
        if not self._drip_headers:
            super().flush_headers()
            return
        for byte in b"".join(self._headers_buffer):
            self.wfile.write(bytes([byte]))
            self.server.registry.pause(self._drip_headers)
        self._headers_buffer = []

    def _write_chunk(self, chunk: bytes) -> None:
        self.wfile.write(b"%x\r\n" % len(chunk))
        self._write(chunk)
        self.wfile.write(b"\r\n")

    def _write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.server.registry.count(len(data))

    def _cut(self) -> None:
        self.close_connection = True
        self.server.cut(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as http.server has it
        """Keep the output of the tests clean."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def __init__(self, registry: FakeRegistry) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.registry = registry
        self._connections: set[Any] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away, or does not trust the certificate, is what some tests are about.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def cut(self, connection: Any) -> None:
        with suppress(OSError):
            connection.shutdown(2)

    def cut_connections(self) -> None:
        with self._lock:
            connections = tuple(self._connections)
        for connection in connections:
            self.cut(connection)


def _distorted(answer: _Answer, fault: Fault, path: str) -> _Answer:
    if fault.status is not None:
        answer = _error(fault.status, "FAULT", f"status {fault.status} on purpose")
    if fault.redirect_to is not None:
        target = fault.redirect_to
        if re.fullmatch("https?://[^/]+", target):
            target += path
        answer = _Answer(307, {"Location": target}, b"")
    if fault.body is not None:
        answer.body = fault.body
    if fault.wrong_bytes:
        answer.body = bytes(byte ^ 0xFF for byte in answer.body)
    if fault.gzip:
        answer.body = gzip.compress(answer.body, mtime=0)
        answer.headers["Content-Encoding"] = "gzip"
    return answer


def _ranged(answer: _Answer, request: Received) -> _Answer:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers["Range"] or "")
    if match is None or answer.status != 200:
        return answer
    size, first = len(answer.body), int(match[1])
    last = min(int(match[2] or size - 1), size - 1)
    if first > last:
        return _Answer(416, {"Content-Range": f"bytes */{size}"}, b"")
    headers = {**answer.headers, "Content-Range": f"bytes {first}-{last}/{size}"}
    return _Answer(206, headers, answer.body[first : last + 1], answer.digest)


def _error(status: int, code: str, message: str) -> _Answer:
    return _json_answer(status, {"errors": [{"code": code, "message": message}]})


def _json_answer(status: int, document: object) -> _Answer:
    return _Answer(status, {"Content-Type": "application/json"}, _json(document))


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _describe(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def _manifest(document: object) -> Manifest:
    return parse_manifest(_json(document), "a made image")
