"""Origins and edges on loopback: real nginx with the configurations that the roles render, without hosts."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from lab.rendered import render, render_edge, run_nginx
from seawall.digest import Digest
from seawall.lists import find_stale_lists
from seawall.manifest import Descriptor, parse_manifest
from seawall.media_type import OCI_MANIFEST
from seawall.releasing import write_stale_lists
from seawall.tree import StoredManifest, Tree
from seawall.writer import hold

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
# What an origin sent, one line an answer: method, path with query, status, bytes of the body.
COUNTED = """\
log_format counted '$request_method $request_uri $status $body_bytes_sent';
access_log {log} counted;
{more}
"""


@dataclass
class Server:
    """An nginx that can be ended and started again."""

    folder: Path
    url: str
    main_file: Path
    running: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        self.running.enter_context(run_nginx(self.main_file, f"{self.url}/health"))

    def kill(self) -> None:
        """Have it end at once: connections under way break off."""
        self.running.close()

    def sent(self, pattern: str = "") -> list[tuple[str, str, int, int]]:
        """What an origin answered with paths in which *pattern* is found: method, path, status and bytes."""
        time.sleep(0.1)  # The line comes after the answer.
        log = self.folder / "counted.log"
        rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [
            (method, path, int(status), int(size)) for method, path, status, size in rows if re.search(pattern, path)
        ]

    def forget(self) -> None:
        """Begin to count anew."""
        (self.folder / "counted.log").write_text("")


@contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


def make_origin(folder: Path, port: int, tree: Path, more: str = "", **variables: Any) -> Server:
    """An origin of *tree* on *port*; *more* are directives of its nginx."""
    folder.mkdir()
    main_file = render(folder, tree, {"origin_listen": [str(port)], **for_tests(folder), **variables})
    (folder / "seawall/counted.conf").write_text(COUNTED.format(log=folder / "counted.log", more=more))
    return Server(folder, url_of(port, variables, "origin"), main_file)


def make_edge(folder: Path, port: int, upstreams: list[str], more: str = "", **variables: Any) -> Server:
    """An edge of *upstreams* on *port*; it takes the two ports after the next thousand as well."""
    folder.mkdir()
    given = {"edge_listen": [str(port)], "edge_upstreams": upstreams, "edge_fill_port": port + 1000}
    main_file = render_edge(folder, {**given, **for_tests(folder), **variables})
    (folder / "seawall/more.conf").write_text(more)
    return Server(folder, url_of(port, variables, "edge"), main_file)


def url_of(port: int, variables: Mapping[str, Any], role: str) -> str:
    scheme = "https" if variables.get(f"{role}_tls_certificate") else "http"
    return f"{scheme}://127.0.0.1:{port}"


def for_tests(folder: Path) -> Mapping[str, Any]:
    """What pytest's folders want, which are closed to all others."""
    return {"nginx_base_user": "root", "nginx_base_log_dir": str(folder), "nginx_base_worker_processes": 2}


def make_blob(size: int, seed: int = 1) -> bytes:
    """Bytes that are the same each time."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def add_image(tree: Path, repository: str, tag: str, layers: list[bytes]) -> str:
    """Put an image of *layers* into *tree*, and return its digest. Where they are tar files, an engine can pull it."""
    # OCI Image Specification 1.1, config.md: what an engine wants to find.
    rootfs = {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    blobs = [(CONFIG, config), *((LAYER, layer) for layer in layers)]
    rows = [{"mediaType": kind, "digest": digest_of(blob), "size": len(blob)} for kind, blob in blobs]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST.media_type,
        "config": rows[0],
        "layers": rows[1:],
    }
    manifest = parse_manifest(json.dumps(document).encode(), "here", OCI_MANIFEST.media_type)
    stored = StoredManifest(manifest.digest, manifest.kind)
    with hold(Tree(tree)) as writer:
        for kind, blob in blobs:
            digest = Digest.of(blob)
            writer.add_blob(Descriptor(kind, digest, len(blob)), [blob], lambda _: None)
            writer.link_blob(repository, digest)
        writer.add_manifest(manifest)
        writer.link_manifest(repository, str(manifest.digest), stored)
        writer.link_manifest(repository, tag, stored)
        write_stale_lists(find_stale_lists(Tree(tree)), writer)
    return str(manifest.digest)


def copy_tree(tree: Path, to: Path) -> Path:
    """What `seawall publish` does: the same bytes, times and links."""
    shutil.copytree(tree, to, symlinks=True)
    return to


def get(url: str, **headers: str) -> requests.Response:
    """Ask as a client asks that keeps nothing."""
    return requests.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}, timeout=60)
