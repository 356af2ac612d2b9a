"""A bucket in this process, as much of S3 as a push or a publish needs, that can lack what some stores lack.

It is no proof that either works with a store: a real one is asked end to end. It shows in which order objects are
written, and what happens where a store, or somebody else who pushes, comes in between.
"""

import hashlib
import threading
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_NOW = "2026-11-21T20:00:00.000Z"


class FakeStore:
    """Serves one bucket on 127.0.0.1."""

    def __init__(self, handler: "type[Handler] | None" = None) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        """Contents and headers by key."""
        self.written: list[str] = []
        """Every key that was written, in order."""
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.knows_conditions = True
        self.wants_bare_etags = False
        """Compares an ETag as it is stored, without the quotes that it tells it with: as Ceph's gateway does."""
        self.before_put: Callable[[str], None] = lambda _: None
        """Called with each key before it is written."""
        self.removed: list[str] = []
        """Every key that was removed, in order."""
        self.copied: list[str] = []
        """Every key that was copied to, in order."""
        self.asked: list[str] = []
        """Every request: its method, and what it is for."""
        self.lock = threading.RLock()
        store = self

        class Bound(handler or Handler):  # type: ignore[misc]
            def __init__(self, *arguments: object) -> None:
                self.store = store
                super().__init__(*arguments)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    store: FakeStore
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.key = unquote(parts.path).split("/", 2)[2] if parts.path.count("/") > 1 else ""
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.store.lock:
            self.store.asked.append(f"{self.command} {self.key}")
            if self.command == "PUT" and "uploadId" in self.query:
                self.store.before_put(self.key)
                self.store.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
                self._answer(200, b"", {"ETag": _md5(self.body)})
            elif self.command == "PUT" and "x-amz-copy-source" in self.headers:
                self._copy(unquote(self.headers["x-amz-copy-source"]).lstrip("/").partition("/")[2])
            elif self.command == "PUT":
                self._put()
            elif self.command == "POST" and "uploads" in self.query:
                self.store.uploads[self.key] = {}
                self._answer(200, f"<R><UploadId>{escape(self.key)}</UploadId></R>".encode())
            elif self.command == "POST":
                parts_ = self.store.uploads.pop(self.query["uploadId"])
                self._keep(b"".join(parts_[number] for number in sorted(parts_)))
                self._answer(200, b"<R><ETag>x</ETag></R>")
            elif self.command == "DELETE" and "uploadId" in self.query:
                self.store.uploads.pop(self.query["uploadId"])
                self._answer(204, b"")
            elif self.command == "DELETE":
                self.store.objects.pop(self.key, None)
                self.store.removed.append(self.key)
                self._answer(204, b"")
            elif {"list-type", "uploads", "uploadId"} & self.query.keys():
                self._list()
            elif self.key in self.store.objects:
                content, headers = self.store.objects[self.key]
                self._answer(200, content, headers | {"ETag": _md5(content), "Last-Modified": formatdate(usegmt=True)})
            else:
                self._refuse(404, "NoSuchKey")

    def _list(self) -> None:
        """List objects, uploads, or the parts of one."""
        if "uploadId" in self.query:
            parts = sorted(self.store.uploads[self.query["uploadId"]].items())
            rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{_md5(c)}</ETag></Part>" for n, c in parts)
        elif "uploads" in self.query:
            rows = "".join(
                f"<Upload><Key>{escape(key)}</Key><UploadId>{escape(key)}</UploadId><Initiated>{_NOW}</Initiated></Upload>"
                for key in self.store.uploads
            )
        else:
            rows = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>{_md5(content)}</ETag>"
                f"<LastModified>{_NOW}</LastModified></Contents>"
                for key, (content, _) in sorted(self.store.objects.items())
                if key.startswith(self.query["prefix"])
            )
        self._answer(200, f"<R><IsTruncated>false</IsTruncated>{rows}</R>".encode())

    def _copy(self, source: str) -> None:
        if source not in self.store.objects:
            self._refuse(404, "NoSuchKey")
            return
        self.store.objects[self.key] = self.store.objects[source]
        self.store.written.append(self.key)
        self.store.copied.append(self.key)
        self._answer(200, b"<R><ETag>x</ETag></R>")

    def _put(self) -> None:
        self.store.before_put(self.key)
        there = self.store.objects.get(self.key)
        wanted = self.headers.get("If-Match")
        is_conditional = wanted or self.headers.get("If-None-Match")
        etag = _md5(there[0]) if there else None
        holds = wanted == (etag.strip('"') if etag and self.store.wants_bare_etags else etag)
        if is_conditional and not self.store.knows_conditions:
            self._refuse(501, "NotImplemented")
        elif is_conditional and (not holds or (there and not wanted)):
            self._refuse(412, "PreconditionFailed")
        else:
            self._keep(self.body)
            self._answer(200, b"", {"ETag": _md5(self.body)})

    def _keep(self, content: bytes) -> None:
        kept = {"Content-Type", "Cache-Control", "x-amz-meta-docker-content-digest"}
        headers = {name: self.headers[name] for name in kept if name in self.headers}
        self.store.objects[self.key] = (content, headers)
        self.store.written.append(self.key)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _md5(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
