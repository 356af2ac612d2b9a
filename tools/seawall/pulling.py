"""Pulling: one image out of a tree anywhere, into the local engine, with no registry between.

The engine is handed an archive as ``docker load`` takes it, made while it is sent: ``manifest.json``, which every
engine since Docker 1.10 reads, and the same files as an OCI layout, which engines read that keep images in containerd.
Layers go as they are, compressed; the engine unpacks them.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from seawall.compression import decompressed
from seawall.digest import Digest
from seawall.engine import EngineTraits
from seawall.errors import InputError, NotFoundError, SourceError, TransientError
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, Manifest, Platform, config_platform, parse_manifest
from seawall.reference import Reference, check_repository, check_tag, full_name, split_tag
from seawall.source import Source
from seawall.spool import Extent, Spool

_DEPTH = 4
_TRIES = 3
_DISTRUST = "do not trust this tree; verify it there"
_OTHER = "pull an image"
_CONTAINERD_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"

OpenRepository = Callable[[str], Source]
"""Returns the source that is a repository of the tree."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image of one platform, with what a tree has to say of it."""

    reference: Reference
    """What it is called in the tree."""
    source: Source
    manifest: Manifest
    config: bytes
    diff_ids: tuple[str, ...]
    """The digests of what the layers unpack to, from the lowest up."""

    @property
    def platform(self) -> Platform | None:
        """What it runs on, as its config says."""
        return config_platform(self.config)

    @property
    def config_digest(self) -> Digest:
        """The digest of the config, which is what most engines call the image."""
        return Digest.of(self.config)


def parse_wanted(text: str) -> tuple[Reference, ...]:
    """Return what ``REPO[:TAG]`` or ``REPO@DIGEST`` may be in a tree: as it stands, and in full as an engine means it.

    Raises:
        InputError: it is malformed.
    """
    name, at, digest = text.partition("@")
    repository, tag = (name, "") if at else split_tag(name)
    check_repository(repository, text)
    names = dict.fromkeys((repository, full_name(repository, text)))
    if at:
        return tuple(Reference(one, digest=Digest.parse(digest, text)) for one in names)
    return tuple(Reference(one, tag=check_tag(tag or "latest", text)) for one in names)


def engine_name(reference: Reference, wanted: str) -> str:
    """Return the name, in full and with its tag, that the image gets in the engine; ``""`` for none.

    Args:
        reference: what it is called in the tree.
        wanted: ``NAME[:TAG]`` as a person gave it; empty for that of the tree.

    Raises:
        InputError: *wanted* is malformed.
    """
    if not wanted:
        return f"{full_name(reference.repository, str(reference))}:{reference.tag}" if reference.tag else ""
    name, tag = split_tag(wanted)
    return f"{full_name(name, wanted)}:{check_tag(tag or 'latest', wanted)}"


def find_image(
    wanted: Iterable[Reference], open_repository: OpenRepository, platform: Platform | None, own: Callable[[], Platform]
) -> FoundImage:
    """Return the first of *wanted* that the tree has, for one platform.

    Args:
        wanted: what it may be called.
        open_repository: gives the repositories of the tree.
        platform: what it is to run on; what the engine runs where it is None.
        own: asks the engine what it runs; asked only if that matters.

    Raises:
        SourceError: the tree has none of them, not for this platform, or misrepresents it.
    """
    wanted = tuple(wanted)
    for reference in wanted:
        source = open_repository(reference.repository)
        try:
            descriptor = _descriptor(reference, source)
        except NotFoundError:
            continue
        return _read_image(reference, source, descriptor, platform or own())
    names = " nor ".join(map(str, wanted))
    raise NotFoundError(names, "the tree has no such image", "see seawall ls")


def _descriptor(reference: Reference, source: Source) -> Descriptor:
    if reference.tag is not None:
        return source.resolve(reference.tag)
    digest = reference.digest
    if digest is None:
        raise InputError(str(reference), "names no tag and no digest", "write REPO:TAG or REPO@sha256:...")
    content, media_type = source.manifest(digest)
    return parse_manifest(content, str(reference), media_type).descriptor


def _read_image(reference: Reference, source: Source, descriptor: Descriptor, platform: Platform) -> FoundImage:
    for _ in range(_DEPTH):
        content, media_type = source.manifest(descriptor.digest)
        manifest = parse_manifest(content, str(reference), media_type or descriptor.media_type)
        if manifest.digest != descriptor.digest:
            raise SourceError(str(reference), f"the tree sent another manifest ({manifest.digest})", _DISTRUST)
        if not manifest.kind.is_index:
            return _for_platform(
                FoundImage(reference, source, manifest, *_read_config(reference, source, manifest)), platform
            )
        descriptor = _chosen(manifest, platform, str(reference))
    raise SourceError(str(reference), f"is an index more than {_DEPTH} deep", "pull what it lists instead")


def _chosen(index: Manifest, platform: Platform, where: str) -> Descriptor:
    """Return the first manifest of *index* that runs on *platform*."""
    for child in index.children:
        if child.platform is not None and child.platform.fits(platform):
            return child
    has = ", ".join(sorted({str(child.platform) for child in index.children if child.platform} - {"unknown/unknown"}))
    raise SourceError(where, f"has no image for {platform}", f"give another --platform: it has {has or 'none'}")


def _read_config(reference: Reference, source: Source, manifest: Manifest) -> tuple[bytes, tuple[str, ...]]:
    where = str(reference)
    if manifest.config is None or manifest.config.size > MANIFEST_MAX_BYTES:
        raise SourceError(where, "has no config, or one that is too large", _DISTRUST)
    config = b"".join(checked(manifest.config, source))
    try:
        diff_ids = json.loads(config)["rootfs"]["diff_ids"] or []
    except (ValueError, RecursionError, KeyError, TypeError):
        raise SourceError(where, "is no image that an engine runs: its config names no layers", _OTHER) from None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(manifest.layers):
        raise SourceError(where, "has a config that names other layers than the manifest", _DISTRUST)
    if any(layer.is_foreign for layer in manifest.layers):
        raise SourceError(where, "has layers that must not be distributed", "pull it from its own registry")
    return config, tuple(str(Digest.parse(str(diff_id), where)) for diff_id in diff_ids)


def _for_platform(image: FoundImage, platform: Platform) -> FoundImage:
    if image.platform is not None and not image.platform.fits(platform):
        raise SourceError(
            str(image.reference), f"is for {image.platform}, not for {platform}", f"give --platform {image.platform}"
        )
    return image


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What brings an image into the engine."""

    image: FoundImage
    image_id: str
    """What the engine calls it then."""
    name: str
    """The name that it gets, in full; ``""`` for none."""
    is_there: bool
    """True where the engine has it already."""
    is_named: bool
    """True where it already has that name, too, or is to get none."""
    present: int
    """How many of its layers, from the lowest up, the engine has of other images."""

    @property
    def is_empty(self) -> bool:
        """True where there is nothing to do."""
        return self.is_there and self.is_named

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """The layers that are sent, each once."""
        if self.is_there:
            return ()
        return tuple({layer.digest: layer for layer in self.image.manifest.layers[self.present :]}.values())

    @property
    def size(self) -> int:
        """Bytes of layers that are sent."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class EngineState:
    """What a plan needs to know of an engine."""

    traits: EngineTraits
    is_there: bool
    is_named: bool
    layers: Collection[tuple[str, ...]]
    """The layers of each image that it has; empty where they do not matter."""


def image_id(image: FoundImage, traits: EngineTraits) -> str:
    """Return what an engine of *traits* calls *image*."""
    return str(image.manifest.digest if traits.keeps_manifests else image.config_digest)


def plan_pull(image: FoundImage, name: str, state: EngineState) -> PullPlan:
    """Return what brings *image* as *name* into an engine in *state*.

    ``docker load`` asks for no layer that the engine has in the same place of another image: what is below it counts.
    An engine that keeps images in containerd wants them all.
    """
    present = 0 if state.traits.keeps_manifests else _common(image.diff_ids, state.layers)
    return PullPlan(image, image_id(image, state.traits), name, state.is_there, state.is_named or not name, present)


def _common(wanted: tuple[str, ...], others: Iterable[tuple[str, ...]]) -> int:
    def length(other: tuple[str, ...]) -> int:
        same = [a == b for a, b in zip(wanted, other, strict=False)]
        return same.index(False) if False in same else len(same)

    return max(map(length, others), default=0)


def archive(plan: PullPlan, traits: EngineTraits, spool: Spool, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the archive that the engine is to load, every blob checked against its digest as it goes by.

    Layers that the engine has are named in it and left out. Layers that are zstd are unpacked into *spool* first where
    the engine does not read them.

    Raises:
        SourceError: the tree lacks a blob, or sends another one; the archive ends without its end then, and the engine
            loads nothing.
    """
    image = plan.image
    unpacked: dict[Digest, Extent] = {}
    for layer, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True):
        if layer in plan.layers and not traits.reads_zstd and layer.media_type.endswith("zstd"):
            unpacked[layer.digest] = _unpacked(layer, diff_id, image, spool)
    names = [
        _blob_name(unpacked[one.digest].digest if one.digest in unpacked else one.digest)
        for one in image.manifest.layers
    ]
    row = {"Config": _blob_name(image.config_digest), "RepoTags": [plan.name] if plan.name else None, "Layers": names}
    yield from _file("manifest.json", json.dumps([row]).encode())
    if not unpacked:
        yield from _layout(image.manifest, plan.name)
    yield from _file(_blob_name(image.config_digest), image.config)
    for layer in plan.layers:
        extent = unpacked.get(layer.digest)
        size = extent.size if extent else layer.size
        yield _header(_blob_name(extent.digest if extent else layer.digest), size)
        for piece in spool.read(extent) if extent else checked(layer, image.source):
            if extent is None:
                advance(len(piece))
            yield piece
        yield bytes(-size % tarfile.BLOCKSIZE)
        if extent:
            advance(layer.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _layout(manifest: Manifest, name: str) -> Iterator[bytes]:
    """Yield the files that make an OCI image layout of the archive (image-layout.md)."""
    row: dict[str, Any] = {
        "mediaType": manifest.kind.media_type,
        "digest": str(manifest.digest),
        "size": len(manifest.content),
    }
    if name:
        row["annotations"] = {_CONTAINERD_NAME: name, _REF_NAME: split_tag(name)[1]}
    yield from _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    yield from _file("index.json", json.dumps({"schemaVersion": 2, "manifests": [row]}).encode())
    yield from _file(_blob_name(manifest.digest), manifest.content)


def checked(blob: Descriptor, source: Source) -> Iterator[bytes]:
    """Yield the bytes of *blob*, going on from where a line was cut; the last piece comes when all of it is right.

    Raises:
        SourceError: the source lacks it, sends another one, or cannot be reached any more.
    """
    hasher = hashlib.sha256()
    size, tries, held = 0, 0, b""
    while size < blob.size or not tries:
        try:
            for piece in source.blob(blob, size):
                hasher.update(piece)
                size += len(piece)
                if size > blob.size:
                    raise SourceError(str(blob.digest), f"the tree sends more than {blob.size} bytes", _DISTRUST)
                if held:
                    yield held
                held = piece
            break
        except TransientError as error:
            tries += 1
            if tries == _TRIES:
                raise SourceError(str(blob.digest), f"{error.what} ({_TRIES} tries)", "run again") from None
    if (size, hasher.hexdigest()) != (blob.size, blob.digest.hex):
        raise SourceError(str(blob.digest), f"the tree sent other bytes (sha256:{hasher.hexdigest()})", _DISTRUST)
    if held:
        yield held


def _unpacked(layer: Descriptor, diff_id: str, image: FoundImage, spool: Spool) -> Extent:
    where = f"{image.reference} layer {layer.digest}"
    extent = spool.add(decompressed(checked(layer, image.source), "zstd", where))
    if str(extent.digest) != diff_id:
        raise SourceError(where, f"unpacks to {extent.digest}, and the config says {diff_id}", _DISTRUST)
    return extent


def _file(name: str, content: bytes) -> Iterator[bytes]:
    yield _header(name, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    # GNU's numbers hold sizes beyond 8 GiB in one block, and Go's reader knows them.
    return member.tobuf(tarfile.GNU_FORMAT)


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"
