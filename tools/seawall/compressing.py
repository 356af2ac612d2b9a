"""Compressing what an OCI layout holds uncompressed: its images with other layers, and so with other digests."""

import hashlib
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import replace

from seawall.compression import Compression, compressed
from seawall.digest import Digest
from seawall.docker_archive import Packing
from seawall.errors import NotFoundError, SourceError
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, Manifest, parse_manifest
from seawall.source import Source
from seawall.spool import Extent

_PLAIN = {
    "application/vnd.oci.image.layer.v1.tar": "application/vnd.oci.image.layer.v1.tar+",
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.docker.image.rootfs.diff.tar.",
}
"""The media types of layers that are not compressed, and what those of compressed ones begin with."""
_CONFIGS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"},
)
_DEPTH = 4
_DISTRUST = "do not trust this source"


class CompressedSource:
    """What *source* holds, with its uncompressed layers compressed; may be used by several threads.

    Configs, and layers that are compressed already, stay as they are. An image is read when its tag is first resolved,
    once in a run.

    Args:
        source: a source whose manifests can be changed: a lock pins what they become here.
        packing: how layers are compressed, and where they are kept.
        where: names the source in errors.
    """

    def __init__(self, source: Source, packing: Packing, where: str) -> None:
        self._source = source
        self._packing = packing
        self._where = where
        self._made: dict[Digest, Manifest] = {}
        self._became: dict[Digest, Descriptor] = {}
        self._layers: dict[Digest, Extent] = {}
        self._mutex = threading.Lock()

    @property
    def requests(self) -> int:
        """How many requests the source has been asked so far."""
        return self._source.requests

    def resolve(self, tag: str) -> Descriptor:
        """Return the descriptor of what *tag* becomes here.

        Raises:
            SourceError: the source lacks it, or misrepresents something.
        """
        with self._mutex:
            return self._converted(self._source.resolve(tag), _DEPTH)

    def tags(self) -> tuple[str, ...]:
        """Return the tags of the source."""
        return self._source.tags()

    def manifest(self, digest: Digest) -> tuple[bytes, str]:
        """Return bytes and media type of the manifest *digest*, of what a tag that was resolved became.

        Raises:
            NotFoundError: there is none.
        """
        if digest not in self._made:
            raise NotFoundError(f"{self._where}@{digest}", "is not what its images become here", "name it by its tag")
        made = self._made[digest]
        return made.content, made.kind.media_type

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:  # noqa: ARG002 - as every source has it
        """Return nothing: the manifests are made here, and nobody can refer to them."""
        return ()

    def blob(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of *blob* from *start* on, in pieces of at most 1 MiB.

        Raises:
            NotFoundError: no image whose tag was resolved has it.
        """
        if blob.digest in self._layers:
            return self._packing.spool.read(self._layers[blob.digest], start)
        if not any(blob.digest == named.digest for made in self._made.values() for named in made.blobs):
            raise NotFoundError(f"{self._where}@{blob.digest}", "is no blob of its images", "run seawall lock again")
        return self._source.blob(blob, start)

    def _converted(self, descriptor: Descriptor, depth: int) -> Descriptor:
        """Return what the manifest *descriptor* of the source becomes, with all that it lists."""
        if descriptor.digest not in self._became:
            manifest = self._read(descriptor)
            if manifest.children and not depth:
                raise SourceError(self._where, f"has an index more than {_DEPTH} deep", "pin what it lists instead")
            rows = {child.digest: self._converted(child, depth - 1) for child in manifest.children}
            if not manifest.kind.is_index:
                self._check_layers(manifest)
                rows = {layer.digest: self._packed(layer) for layer in manifest.layers}
            made = self._rewritten(manifest, rows)
            self._made[made.digest] = made
            self._became[descriptor.digest] = made.descriptor
        return self._became[descriptor.digest]

    def _read(self, descriptor: Descriptor) -> Manifest:
        where = f"{self._where}@{descriptor.digest}"
        content, media_type = self._source.manifest(descriptor.digest)
        manifest = parse_manifest(content, where, media_type or descriptor.media_type)
        if manifest.digest != descriptor.digest:
            raise SourceError(where, f"source sent another manifest ({manifest.digest})", _DISTRUST)
        return manifest

    def _check_layers(self, manifest: Manifest) -> None:
        """Check that the layers which are not compressed are those that the config names (config.md, "rootfs")."""
        config = manifest.config
        if config is None or config.media_type not in _CONFIGS:
            return
        where = f"{self._where}@{config.digest}"
        if config.size > MANIFEST_MAX_BYTES:
            raise SourceError(where, f"is a config of more than {MANIFEST_MAX_BYTES} bytes", _DISTRUST)
        content = b"".join(self._source.blob(config))
        if Digest.of(content) != config.digest:
            raise SourceError(where, "config holds other bytes", _DISTRUST)
        try:
            diff_ids = json.loads(content)["rootfs"]["diff_ids"] or []
        except (ValueError, RecursionError, KeyError, TypeError):
            raise SourceError(where, "is no config of an image", _DISTRUST) from None
        for layer, diff_id in itertools.zip_longest(manifest.layers, diff_ids):
            if layer is None or diff_id is None or (layer.media_type in _PLAIN and str(layer.digest) != diff_id):
                raise SourceError(where, "names other layers than the manifest", _DISTRUST)

    def _packed(self, layer: Descriptor) -> Descriptor:
        """Return what *layer* becomes: itself, or a compressed one."""
        if layer.media_type not in _PLAIN:
            return layer
        hasher = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            for piece in self._source.blob(layer):
                hasher.update(piece)
                yield piece

        extent = self._packing.spool.add(compressed(pieces(), self._packing.compression))
        found = Digest(hasher.hexdigest())
        if found != layer.digest:
            raise SourceError(f"{self._where}@{layer.digest}", f"holds other bytes ({found})", _DISTRUST)
        self._layers[extent.digest] = extent
        return replace(
            layer,
            media_type=_packed_type(layer.media_type, self._packing.compression, self._where),
            digest=extent.digest,
            size=extent.size,
        )

    def _rewritten(self, manifest: Manifest, became: dict[Digest, Descriptor]) -> Manifest:
        """Return *manifest* with what it lists as it *became*; itself where all of that stayed as it was."""
        if all(digest == now.digest for digest, now in became.items()):
            return manifest
        document = json.loads(manifest.content)
        for row in document["manifests" if manifest.kind.is_index else "layers"]:
            now = became.get(Digest.parse(row["digest"]))
            if now is not None:
                row.update(mediaType=now.media_type, digest=str(now.digest), size=now.size)
        content = json.dumps(document, separators=(",", ":")).encode()
        return parse_manifest(content, self._where, manifest.kind.media_type)


def _packed_type(plain: str, compression: Compression, where: str) -> str:
    if compression == "zstd" and ".docker." in plain:
        raise SourceError(where, "has a Docker manifest, which knows no zstd", "take compression: gzip")
    return f"{_PLAIN[plain]}{compression}"
