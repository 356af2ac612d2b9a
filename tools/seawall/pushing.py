"""Pushing: one image, sent to a tree elsewhere that may have parts of it already.

First everything is read that decides: the manifests of the image, and what the other side lacks. Then it is planned by
pure functions, and only then sent.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from seawall.digest import Digest
from seawall.errors import SourceError
from seawall.lock import Pin
from seawall.manifest import Descriptor, Manifest, parse_manifest
from seawall.reference import Reference
from seawall.source import Source
from seawall.sync import INDEX_DEPTH


@dataclass(frozen=True, slots=True)
class Package:
    """An image with all that it is made of, and the tag that it is to have."""

    reference: Reference
    manifests: tuple[Manifest, ...]
    """Each after those that it lists; so the last is what the tag names."""

    @property
    def digest(self) -> Digest:
        """What the tag is to point at."""
        return self.manifests[-1].digest

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All that the manifests name, each once."""
        return tuple({blob.digest: blob for manifest in self.manifests for blob in manifest.blobs}.values())


@dataclass(frozen=True, slots=True)
class Shipment:
    """What has to be sent for a package to be there."""

    package: Package
    manifests: tuple[Manifest, ...]
    """Those that are not there yet, in the order of the package."""
    blobs: tuple[Descriptor, ...]
    """Those that are not there yet, largest first, so that the last ones to end are small."""
    before: Digest | None
    """What the tag points at now; None where there is no such tag."""

    @property
    def size(self) -> int:
        """Bytes that are to be sent."""
        return sum(len(manifest.content) for manifest in self.manifests) + sum(blob.size for blob in self.blobs)

    @property
    def moves(self) -> bool:
        """Whether the tag is to move."""
        return self.before != self.package.digest

    @property
    def is_empty(self) -> bool:
        """True where all is there already, and the tag points at it."""
        return not (self.manifests or self.blobs or self.moves)


OpenBlob = Callable[[Descriptor], Iterator[bytes]]
"""Returns the bytes of a blob of the image, in pieces of at most 1 MiB."""


def gather(reference: Reference, pin: Pin, source: Source, where: str) -> Package:
    """Return the package of the image that *pin* names in *source*, to be pushed as *reference*; *where* names it.

    Raises:
        SourceError: the source lacks a part, or misrepresents one.
        SeawallError: the source does not answer.
    """
    found: dict[Digest, Manifest] = {}

    def visit(descriptor: Descriptor, depth: int) -> None:
        if descriptor.digest in found:
            return
        at = f"{where}@{descriptor.digest}"
        if depth > INDEX_DEPTH:
            raise SourceError(at, f"is an index more than {INDEX_DEPTH} deep", "push what it lists instead")
        content, media_type = source.manifest(descriptor.digest)
        manifest = parse_manifest(content, at, media_type or descriptor.media_type)
        if (manifest.digest, len(content)) != (descriptor.digest, descriptor.size):
            raise SourceError(at, f"source sent another manifest ({manifest.digest})", "do not trust this source")
        for child in manifest.children:
            visit(child, depth + 1)
        found[manifest.digest] = manifest

    visit(Descriptor(pin.media_type, pin.digest, pin.size), 1)
    return Package(reference, tuple(found.values()))


def plan_push(
    package: Package, manifests: Collection[Digest], blobs: Collection[Digest], before: Digest | None
) -> Shipment:
    """Return what has to be sent of *package* to where *manifests* and *blobs* are, and the tag points at *before*."""
    lacking = (blob for blob in package.blobs if blob.digest not in blobs)
    return Shipment(
        package,
        tuple(manifest for manifest in package.manifests if manifest.digest not in manifests),
        tuple(sorted(lacking, key=lambda blob: (-blob.size, blob.digest))),
        before,
    )
