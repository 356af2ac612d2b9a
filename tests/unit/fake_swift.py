"""A Swift container in this process, with TempAuth and Keystone before it, that can fail as none does on demand.

It is no proof that a publish works with Swift: a real one is asked end to end.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit

from unit.fake_store import FakeStore, Handler

KEY = "s3cret-key"
_KEPT = ("Content-Type", "Cache-Control", "Docker-Content-Digest", "Docker-Distribution-Api-Version")
_NOW = "2026-11-21T20:00:00.000000"


class FakeSwift(FakeStore):
    """Serves the container "images" of one account on 127.0.0.1, and any other that is made."""

    def __init__(self) -> None:
        super().__init__(_SwiftHandler)
        self.containers: dict[str, str] = {"images": ".r:*"}
        """Who may read each."""
        self.tokens: set[str] = set()
        self.told: list[str] = []
        """The names of the authentication methods that were used."""
        self.loses_answers = 0
        """How many of the next new objects are kept, while the connection breaks."""
        self.failures = 0
        """How many of the next requests are answered with 503."""

    @property
    def segments(self) -> dict[str, bytes]:
        """What is in the container for segments."""
        return {key: content for key, (content, _) in self.objects.items() if key.startswith("images_segments:")}

    def token(self) -> str:
        self.tokens.add(f"token{len(self.told)}")
        return f"token{len(self.told)}"


class _SwiftHandler(Handler):
    store: FakeSwift

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.store.lock:
            if parts.path.startswith(("/auth/", "/v3")):
                self._authenticate(parts.path)
                return
            _, _, _, container, *rest = (*unquote(parts.path).split("/", 4), "")
            self.key = rest[0] if container == "images" else f"{container}:{rest[0]}"
            self.store.asked.append(f"{self.command} {self.key}")
            if self.headers.get("X-Auth-Token") not in self.store.tokens:
                self._answer(401, b"")
            elif self.store.failures:
                self.store.failures -= 1
                self._answer(503, b"")
            elif not rest[0]:
                self._ask_container(container)
            else:
                self._ask_object(container)

    def _authenticate(self, path: str) -> None:
        url = f"{self.store.url}/v1/AUTH_me"
        if path.startswith("/auth/"):
            self.store.told.append("v1")
            if self.headers.get("X-Auth-Key") == KEY:
                self._answer(200, b"", {"X-Storage-Url": url, "X-Auth-Token": self.store.token()})
                return
        elif self.command == "POST":
            (method,) = json.loads(self.body)["auth"]["identity"]["methods"]
            self.store.told.append(method)
            if KEY in self.body.decode():
                ends = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
                endpoint = {"interface": "public", "region": "here", "region_id": "here", "url": url, "id": "1"}
                catalog = [{"type": "object-store", "id": "2", "name": "swift", "endpoints": [endpoint]}]
                token = {"methods": [method], "expires_at": ends, "user": {"id": "3"}, "catalog": catalog}
                self._answer(201, json.dumps({"token": token}).encode(), {"X-Subject-Token": self.store.token()})
                return
        else:
            links = [{"rel": "self", "href": f"{self.store.url}/v3/"}]
            version = {"id": "v3.14", "status": "stable", "links": links, "media-types": []}
            self._answer(200, json.dumps({"version": version}).encode())
            return
        self._answer(401, b"")

    def _ask_container(self, name: str) -> None:
        if self.command == "PUT":
            self.store.containers[name] = self.headers.get("X-Container-Read", "")
            self._answer(201, b"")
        elif name not in self.store.containers:
            self._answer(404, b"")
        elif self.command == "HEAD":
            self._answer(204, b"", {"X-Container-Read": self.store.containers[name]})
        else:
            start = "" if name == "images" else f"{name}:"
            found = {key.removeprefix(start): kept for key, kept in self.store.objects.items() if key.startswith(start)}
            rows = [
                {
                    "name": key,
                    "bytes": len(content),
                    "hash": _md5(content),
                    "last_modified": _NOW,
                    "content_type": headers.get("Content-Type", ""),
                }
                for key, (content, headers) in sorted(found.items())
                if key.startswith(self.query.get("prefix", "")) and key > self.query.get("marker", "")
            ]
            # A page of few, so that there are several.
            self._answer(200, json.dumps(rows[:50]).encode())

    def _ask_object(self, container: str) -> None:
        store = self.store
        if self.command == "PUT" and container not in store.containers:
            self._answer(404, b"")
        elif self.command == "PUT":
            self._put()
        elif self.command == "DELETE":
            self._answer(204 if store.objects.pop(self.key, None) else 404, b"")
            store.removed.append(self.key)
        elif self.key in store.objects:
            content, headers = store.objects[self.key]
            told = {"ETag": _md5(content), "Last-Modified": formatdate(usegmt=True), **headers}
            self._answer(200, content, told)
        else:
            self._answer(404, b"")

    def _put(self) -> None:
        store = self.store
        store.before_put(self.key)
        source = unquote(self.headers.get("X-Copy-From", "")).removeprefix("images/")
        content = self.body
        if source:
            content = store.objects.get(source, (b"", {}))[0]
            store.copied.append(self.key)
        if "put" in self.query.get("multipart-manifest", ""):
            names = [row["path"].strip("/").replace("/", ":", 1) for row in json.loads(self.body)]
            content = b"".join(store.objects[name][0] for name in names)
        if source and source not in store.objects:
            self._answer(404, b"")
        elif self.headers.get("ETag", _md5(content)) != _md5(content):
            self._answer(422, b"")
        elif self.headers.get("If-None-Match") == "*" and self.key in store.objects:
            self._answer(412, b"")
        else:
            headers = {name: self.headers[name] for name in _KEPT if name in self.headers}
            meta = {name.title(): value for name, value in self.headers.items()}
            headers |= {name: value for name, value in meta.items() if name.startswith("X-Object-Meta-")}
            store.objects[self.key] = (content, headers)
            store.written.append(self.key)
            if store.loses_answers and "If-None-Match" in self.headers:
                store.loses_answers -= 1
                self.close_connection = True
                return
            self._answer(201, b"", {"ETag": _md5(content)})


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
