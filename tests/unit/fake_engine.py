"""A Docker engine in this process, as far as the tool asks it, which misbehaves where a test wants it to.

with FakeEngine(folder / "docker.sock") as engine:
    engine.add(make_saved("team/app:1.0"))
    ...  # with DOCKER_HOST=engine.url
"""

import gzip
import io
import json
import socketserver
import sys
import tarfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import zstandard

from seawall.digest import Digest
from unit.archives import SavedImage, make_tar, saved_files


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    engine: "FakeEngine"

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away in the middle is what some tests are about.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@dataclass
class FakeEngine:
    """Images by their IDs, and the names of them."""

    socket: Path
    api: str = "1.41"
    keeps_manifests: bool = False
    platform: tuple[str, str] = ("linux", "amd64")
    images: dict[str, SavedImage] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    loaded: list[dict[str, bytes]] = field(default_factory=list)
    """The files of each archive that was loaded."""
    asked: list[str] = field(default_factory=list)
    cut_export_after: int | None = None
    refuse: str = ""
    """What it says instead of loading anything."""
    _server: _Server | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def add(self, image: SavedImage) -> str:
        self.images[str(image.id)] = image
        self.names |= dict.fromkeys(image.names, str(image.id))
        return str(image.id)

    def layers(self) -> set[tuple[str, ...]]:
        found = set()
        for image in self.images.values():
            diff_ids = [str(Digest.of(layer)) for layer in image.layers]
            found |= {tuple(diff_ids[: end + 1]) for end in range(len(diff_ids))}
        return found

    def find(self, name: str) -> str | None:
        name = name.removeprefix("docker.io/library/").removeprefix("docker.io/")
        return name if name in self.images else self.names.get(name)

    def load(self, content: bytes) -> str:
        """Take an archive as docker load does; return what it says, or raise ValueError."""
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        if not content.endswith(bytes(1024)):
            raise ValueError("unexpected EOF")
        if self.refuse:
            raise ValueError(self.refuse)
        self.loaded.append(files)
        [row] = json.loads(files["manifest.json"])
        config = files[row["Config"]]
        known = {tuple_[-1]: tuple_ for tuple_ in self.layers()}
        layers = []
        diff_ids = json.loads(config)["rootfs"]["diff_ids"]
        for end, (diff_id, name) in enumerate(zip(diff_ids, row["Layers"], strict=True)):
            if name not in files and tuple(diff_ids[: end + 1]) in self.layers():
                layer = next(one for i in self.images.values() for one in i.layers if str(Digest.of(one)) == diff_id)
            else:
                layer = self._plain(files[name])
            if str(Digest.of(layer)) != diff_id:
                raise ValueError(f"invalid diffID, {known.get(diff_id)}")
            layers.append(layer)
        names = tuple(name.removeprefix("docker.io/library/") for name in row["RepoTags"] or ())
        image = SavedImage(config, tuple(layers), tuple(name.removeprefix("docker.io/") for name in names))
        if self.keeps_manifests:
            [described] = json.loads(files["index.json"])["manifests"]
            self.images[described["digest"]] = image
            self.names |= dict.fromkeys(image.names, described["digest"])
            return str(described["digest"])
        return self.add(image)

    def _plain(self, content: bytes) -> bytes:
        if content.startswith(b"\x1f\x8b"):
            return gzip.decompress(content)
        if content.startswith(b"\x28\xb5\x2f\xfd") and self.api >= "1.42":
            return zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True).read()
        return content

    def __enter__(self) -> Self:
        self._server = _Server(str(self.socket), _Handler)
        self._server.engine = self
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        pass

    def do_GET(self) -> None:
        engine, path = self.server.engine, self._path()
        engine.asked.append(f"GET {path}")
        if path == "/version":
            system, architecture = engine.platform
            self._answer(200, {"ApiVersion": engine.api, "MinAPIVersion": "1.12", "Os": system, "Arch": architecture})
        elif path == "/info":
            kind = "io.containerd.snapshotter.v1" if engine.keeps_manifests else "none"
            self._answer(200, {"DriverStatus": [["driver-type", kind]], "Architecture": "x86_64"})
        elif path == "/images/json":
            rows = [
                {"Id": id_, "RepoTags": [name for name, of in engine.names.items() if of == id_] or ["<none>:<none>"]}
                for id_ in engine.images
            ]
            self._answer(200, rows)
        else:
            name, _, verb = path.removeprefix("/images/").rpartition("/")
            id_ = engine.find(name)
            if id_ is None:
                self._answer(404, {"message": f"No such image: {name}"})
            elif verb == "json":
                diff_ids = [str(Digest.of(layer)) for layer in engine.images[id_].layers]
                self._answer(200, {"Id": id_, "RootFS": {"Type": "layers", "Layers": diff_ids}})
            else:
                self._export(engine.images[id_])

    def do_POST(self) -> None:
        engine, path = self.server.engine, self._path()
        engine.asked.append(f"POST {path}")
        if path != "/images/load":
            name = path.removeprefix("/images/").removesuffix("/tag")
            query = dict(pair.split("=") for pair in urlsplit(self.path).query.split("&"))
            wanted = f"{unquote(query['repo'])}:{query['tag']}".removeprefix("docker.io/library/")
            engine.names[wanted.removeprefix("docker.io/")] = str(engine.find(name))
            self._answer(201, None)
            return
        try:
            text = {"stream": f"Loaded image ID: {engine.load(self._body())}\n"}
        except (ValueError, KeyError, tarfile.TarError, EOFError) as error:
            text = {"error": str(error)}
        self._answer(200, text)

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        return path if not path.startswith("/v1.") else "/" + path.split("/", 2)[2]

    def _body(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        return content

    def _export(self, image: SavedImage) -> None:
        content = make_tar(saved_files(image))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = self.server.engine.cut_export_after
        sent = content[:cut]
        self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
        if cut is None:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def _answer(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode() if document is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
