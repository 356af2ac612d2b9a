"""Descriptions of images in a tree: sizes, platforms, media types."""

from collections.abc import Iterator
from dataclasses import dataclass

from seawall.errors import InputError
from seawall.manifest import Descriptor, Manifest, Platform, config_platform
from seawall.reference import Reference
from seawall.tree import StoredManifest, Tree

_CONFIG_MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageDescription:
    """One image: a manifest and the blobs that it names."""

    manifest: Manifest
    platform: Platform | None

    @property
    def size(self) -> int:
        """Bytes of the manifest and its blobs."""
        return len(self.manifest.content) + sum(blob.size for blob in self.manifest.blobs)


@dataclass(frozen=True, slots=True)
class Description:
    """What a reference names, with all that is below it."""

    reference: Reference
    manifest: Manifest
    images: tuple[ImageDescription, ...]
    """The image itself, or those that the index lists."""

    @property
    def size(self) -> int:
        """Bytes that the tree holds for this reference, each blob once."""
        contents = {self.manifest.digest: len(self.manifest.content)}
        contents |= {image.manifest.digest: len(image.manifest.content) for image in self.images}
        contents |= {blob.digest: blob.size for blob in self.manifest.blobs}
        contents |= {blob.digest: blob.size for image in self.images for blob in image.manifest.blobs}
        return sum(contents.values())

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that it runs on; attestations, which index as unknown/unknown, are none."""
        named = {str(image.platform) for image in self.images if image.platform}
        return tuple(sorted(named - {"unknown/unknown"}))


def describe(tree: Tree, reference: Reference) -> Description:
    """Return what *reference* names in *tree*.

    Raises:
        InputError: the tree has no such reference.
        TreeError: the tree is damaged there.
    """
    manifest = tree.read_manifest(tree.named_manifest(reference))
    return Description(reference, manifest, tuple(_images(tree, manifest, None)))


def describe_all(tree: Tree) -> Iterator[Description]:
    """Yield the description of every tag of *tree*, in order."""
    for reference, _ in tree.references():
        yield describe(tree, reference)


def _images(tree: Tree, manifest: Manifest, platform: Platform | None) -> Iterator[ImageDescription]:
    if not manifest.kind.is_index:
        yield ImageDescription(manifest, platform or _own_platform(tree, manifest.config))
    for child in manifest.children:
        stored = _stored(tree, child)
        yield from _images(tree, tree.read_manifest(stored), child.platform)


def _stored(tree: Tree, child: Descriptor) -> StoredManifest:
    stored = tree.stored_manifest(child.digest)
    if stored is None:
        raise InputError(str(child.digest), f"is missing from {tree.root}", f"run seawall verify {tree.root}")
    return stored


def _own_platform(tree: Tree, config: Descriptor | None) -> Platform | None:
    if config is None or config.size > _CONFIG_MAX_BYTES or tree.blob_size(config.digest) != config.size:
        return None
    return config_platform(tree.read(tree.blob_path(config.digest)))
