"""Trees of images that were made up on the spot, and a look at what a store serves of them."""

import hashlib
import json
import random
from collections.abc import Sequence

import requests

from seawall.digest import Digest
from seawall.manifest import Descriptor, parse_manifest
from seawall.progress import Silent
from seawall.release import TagMove
from seawall.releasing import Change, make_release
from seawall.tree import StoredManifest, Tree
from seawall.writer import hold

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def add_image(tree: Tree, repository: str, sizes: Sequence[int], dice: random.Random) -> str:
    """Point REPOSITORY:1 of *tree* at an image with a config and layers of *sizes* bytes; return its digest."""
    with hold(tree) as writer:
        rows = []
        for size in sizes:
            content = dice.randbytes(size)
            blob = Descriptor(LAYER, Digest.of(content), size)
            writer.add_blob(blob, iter([content]), lambda _: None)
            rows.append({"mediaType": LAYER, "digest": str(blob.digest), "size": size})
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {**rows[0], "mediaType": CONFIG},
            "layers": rows[1:],
        }
        manifest = parse_manifest(json.dumps(document).encode(), repository)
        writer.add_manifest(manifest)
        writer.settle()
        for row in rows:
            writer.link_blob(repository, Digest.parse(str(row["digest"])))
        stored = StoredManifest(manifest.digest, manifest.kind)
        writer.link_manifest(repository, str(manifest.digest), stored)
        before = tree.linked_manifest(repository, "1")
        move = TagMove(repository, "1", before.digest if before else None, manifest.digest)
        make_release(Change("made", (move,), {manifest.digest: stored}), writer, Silent())
    return str(manifest.digest)


def served(url: str, repository: str) -> str:
    """Return what REPOSITORY:1 names at *url*, having fetched and hashed every byte of it."""
    base = f"{url}/v2/{repository}"
    with requests.Session() as session:
        manifest = session.get(f"{base}/manifests/1", timeout=10)
        digest = f"sha256:{hashlib.sha256(manifest.content).hexdigest()}"
        assert session.get(f"{base}/manifests/{digest}", timeout=10).content == manifest.content
        for row in [manifest.json()["config"], *manifest.json()["layers"]]:
            blob = session.get(f"{base}/blobs/{row['digest']}", timeout=60)
            assert f"sha256:{hashlib.sha256(blob.content).hexdigest()}" == row["digest"], row
        assert session.get(f"{base}/tags/list", timeout=10).json()["tags"] == ["1"]
    return digest
