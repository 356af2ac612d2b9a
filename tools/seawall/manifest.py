"""Manifests, descriptors and platforms (OCI Image Specification 1.1; Docker image manifest v2, schema 2)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seawall.digest import Digest
from seawall.errors import InputError, SourceError
from seawall.media_type import BY_MEDIA_TYPE, OCI_INDEX, OCI_MANIFEST, ManifestKind

MANIFEST_MAX_BYTES = 4 * 1024 * 1024
"""The largest manifest that is read: what the specification asks registries to accept at least."""

_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9.]+)?")
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """What an image runs on (image-index.md, "platform"); prints as ``os/architecture[/variant]``."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> "Platform":
        """Return the platform that ``os/architecture[/variant]`` spells.

        Raises:
            InputError: it is malformed.
        """
        if _PLATFORM.fullmatch(text) is None:
            raise InputError("platforms", f"{text[:100]!r} is not a platform", "write os/architecture[/variant]")
        return cls(*text.split("/"))

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Platform":
        """Return the platform that an object of an index or a config states."""
        return cls(str(row.get("os", "")), str(row.get("architecture", "")), str(row.get("variant") or ""))

    def fits(self, wanted: "Platform") -> bool:
        """Return whether this is the platform *wanted*, or one of its variants where it names none.

        64-bit ARM without a variant is v8 (image-index.md, "Platform Variants").
        """
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return False
        implied = "v8" if self.architecture == "arm64" else ""
        return not wanted.variant or (self.variant or implied) == wanted.variant

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of another manifest or a blob (descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    """Bytes."""
    platform: Platform | None = None
    urls: tuple[str, ...] = ()

    @property
    def is_foreign(self) -> bool:
        """True for a layer that must not be distributed and that clients fetch from its own URLs.

        layer.md, "Non-Distributable Layers"; Docker calls them foreign layers.
        """
        return bool(self.urls) and ("nondistributable" in self.media_type or ".foreign." in self.media_type)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest with the bytes that its digest covers."""

    kind: ManifestKind
    digest: Digest
    content: bytes
    children: tuple[Descriptor, ...]
    """The manifests that an index lists; empty for an image."""
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    """The layers of an image; of an index, what it lists that is no manifest."""
    subject: Digest | None = None
    """The manifest that this one refers to: it is its signature, its SBOM (manifest.md, "subject")."""

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers that a registry has to serve, each digest once."""
        named = ((self.config,) if self.config else ()) + self.layers
        return tuple({blob.digest: blob for blob in named if not blob.is_foreign}.values())

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor under which others name this manifest."""
        return Descriptor(self.kind.media_type, self.digest, len(self.content))


def parse_manifest(content: bytes, where: str, media_type: str = "") -> Manifest:
    """Return what the manifest *content* says, its bytes kept as they are.

    Args:
        content: the manifest's bytes.
        where: what to name in an error, usually a reference with its source.
        media_type: what the source calls it; the manifest's own ``mediaType`` comes first, because it is
            covered by the digest.

    Raises:
        SourceError: it is no manifest of the four kinds, or malformed.
    """
    if len(content) > MANIFEST_MAX_BYTES:
        raise _refused(where, f"manifest of {len(content)} bytes is larger than {MANIFEST_MAX_BYTES}")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _refused(where, f"manifest is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise _refused(where, "manifest is not a JSON object")
    kind = _kind_of(document, media_type.partition(";")[0].strip(), where)
    try:
        config = None if kind.is_index else _descriptor(_field(document, "config", dict))
        named = _descriptors(document, "manifests" if kind.is_index else "layers")
    except (InputError, TypeError, ValueError, KeyError) as error:
        what = error.what if isinstance(error, InputError) else str(error)
        raise _refused(where, f"manifest is malformed: {what}") from None
    # An index may list what is no manifest (BuildKit's cache lists layers so): clients fetch those as blobs.
    children = tuple(row for row in named if kind.is_index and row.media_type in BY_MEDIA_TYPE)
    layers = tuple(row for row in named if row not in children)
    return Manifest(kind, Digest.of(content), content, children, config, layers, _subject(document))


def _kind_of(document: Mapping[str, Any], media_type: str, where: str) -> ManifestKind:
    named = document.get("mediaType") or media_type
    if not isinstance(named, str):
        raise _refused(where, "manifest's mediaType is not a string")
    if named.startswith(_SCHEMA_1) or document.get("schemaVersion") == 1:
        raise SourceError(
            where,
            "is a Docker schema 1 manifest, which clients no longer accept",
            "push the image again with a current client",
        )
    # One document that is an image and an index at once means different things to different clients
    # (CVE-2021-41190).
    if "manifests" in document and ("layers" in document or "config" in document):
        raise _refused(where, "manifest is an image and an index at once")
    if document.get("schemaVersion") != 2:
        raise _refused(where, f"manifest has schemaVersion {document.get('schemaVersion')!r}, not 2")
    kind = BY_MEDIA_TYPE.get(named)
    if kind is None and (not document.get("mediaType")):
        # OCI leaves mediaType out, and some sources (a plain web server) give no useful Content-Type.
        kind = OCI_INDEX if "manifests" in document else OCI_MANIFEST if "layers" in document else None
    if kind is None:
        raise _refused(where, f"media type {named!r} is not that of a manifest")
    return kind


def _refused(where: str, what: str) -> SourceError:
    return SourceError(where, what, "check that the source serves container images")


def _field(document: Mapping[str, Any], name: str, kind: type) -> Any:
    value = document.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} is missing or of the wrong type")
    return value


def _descriptors(document: Mapping[str, Any], name: str) -> tuple[Descriptor, ...]:
    # An index without children may say null or leave the field out (Go's encoding of an empty list).
    rows = document.get(name) or []
    if not isinstance(rows, list):
        raise TypeError(f"{name} is not a list")
    return tuple(_descriptor(row) for row in rows)


def _subject(document: Mapping[str, Any]) -> Digest | None:
    # Nobody pulls by it, so that one which cannot be served (of another algorithm) is no reason to refuse the image.
    row = document.get("subject")
    try:
        return Digest.parse(row["digest"]) if isinstance(row, dict) else None
    except (InputError, KeyError, TypeError):
        return None


def _descriptor(row: Any) -> Descriptor:
    if not isinstance(row, dict):
        raise TypeError("a descriptor is not an object")
    size = _field(row, "size", int)
    if size < 0:
        raise ValueError("a size is negative")
    platform = row.get("platform")
    urls = row.get("urls") or []
    return Descriptor(
        media_type=_field(row, "mediaType", str),
        digest=Digest.parse(_field(row, "digest", str)),
        size=size,
        platform=Platform.of(platform) if isinstance(platform, dict) else None,
        urls=tuple(url for url in urls if isinstance(url, str)) if isinstance(urls, list) else (),
    )


def config_platform(config: bytes) -> Platform | None:
    """Return the platform that an image's config states (config.md), or None where it states none."""
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not document.get("architecture"):
        return None
    return Platform.of(document)
