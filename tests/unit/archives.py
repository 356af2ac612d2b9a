"""Archives as docker save, skopeo and liars write them."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seawall.digest import Digest
from unit.fake_registry import AMD64, FakeImage


def make_tar(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """Return a tar archive of *files*; a TarInfo stands for a member that is no plain file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def make_link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@dataclass(frozen=True)
class SavedImage:
    """An image whose layers are not compressed, as an engine keeps it."""

    config: bytes
    layers: tuple[bytes, ...]
    names: tuple[str, ...] = ("team/app:1.0",)

    @property
    def id(self) -> Digest:
        return Digest.of(self.config)

    def row(self, layer_names: Iterable[str], config: str = "") -> dict[str, Any]:
        names = list(self.names) or None
        return {"Config": config or f"{self.id.hex}.json", "RepoTags": names, "Layers": list(layer_names)}


def make_saved(*names: str, seed: str = "app", layers: int = 2, size: int = 40_000) -> SavedImage:
    """Return an image with tars as layers, which compress somewhat; the same bytes for the same arguments."""
    contents = tuple(
        make_tar({f"etc/{seed}-{number}": b"".join(f"{seed} {number} {n}\n".encode() for n in range(size // 16))})
        for number in range(layers)
    )
    diff_ids = [str(Digest.of(layer)) for layer in contents]
    document = {
        "architecture": AMD64.architecture,
        "os": AMD64.os,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    return SavedImage(json.dumps(document).encode(), contents, names or ("team/app:1.0",))


def saved_files(*images: SavedImage) -> dict[str, bytes | tarfile.TarInfo]:
    """Return the members that Docker before 25 writes; manifest.json stands last but one."""
    files: dict[str, bytes | tarfile.TarInfo] = {}
    rows = []
    for image in images:
        names = []
        for number, layer in enumerate(image.layers):
            folder = Digest.of(f"{image.id}{number}".encode()).hex
            files[f"{folder}/VERSION"] = b"1.0"
            files[f"{folder}/json"] = b'{"id":"..."}'
            # Docker saves a layer once, and links to it from its other places.
            same = next((name for name, content in files.items() if content == layer), None)
            names.append(f"{folder}/layer.tar")
            files[names[-1]] = make_link(names[-1], f"../{same}") if same else layer
        files[f"{image.id.hex}.json"] = image.config
        rows.append(image.row(names))
    return {**files, "manifest.json": json.dumps(rows).encode(), "repositories": b"{}"}


def modern_files(*images: SavedImage) -> dict[str, bytes | tarfile.TarInfo]:
    """Return the members that Docker writes from 25 on: an OCI layout, with a manifest.json in it."""
    blobs = {f"blobs/sha256/{Digest.of(content).hex}": content for i in images for content in (i.config, *i.layers)}
    rows = [
        image.row((f"blobs/sha256/{Digest.of(layer).hex}" for layer in image.layers), f"blobs/sha256/{image.id.hex}")
        for image in images
    ]
    return {
        **blobs,
        "index.json": b'{"schemaVersion":2,"manifests":[]}',
        "manifest.json": json.dumps(rows).encode(),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    }


def layout_files(tag: str, image: FakeImage) -> dict[str, bytes | tarfile.TarInfo]:
    """Return the files of an OCI image layout that holds *image*."""
    row = {
        "mediaType": image.manifest.kind.media_type,
        "digest": str(image.digest),
        "size": len(image.content),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    contents = {**image.blobs, image.digest: image.content}
    return {
        **{f"blobs/sha256/{digest.hex}": content for digest, content in contents.items()},
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [row]}).encode(),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    }


def write_archive(path: Path, files: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    path.write_bytes(make_tar(files))
    return path
