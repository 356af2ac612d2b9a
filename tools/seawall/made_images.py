"""Sources whose manifests are made here: a Docker engine, and archives that ``docker save`` wrote."""

import threading
from collections.abc import Iterator

from seawall.digest import Digest
from seawall.docker_archive import (
    ArchivedImage,
    Contents,
    MadeImage,
    Packing,
    archived_images,
    made_image,
    read_contents,
)
from seawall.engine import Engine
from seawall.errors import InputError, NotFoundError, SourceError
from seawall.layout_files import open_regular, plain
from seawall.manifest import Descriptor
from seawall.reference import DockerArchiveLocation, EngineLocation, full_name, split_tag
from seawall.spool import Extent, Spool

_NAMES_SHOWN = 10


class MadeImages:
    """The images that one run made, with their blobs: what the sources below have in common."""

    def __init__(self, name: str, spool: Spool) -> None:
        self._name = name
        self._spool = spool
        self._manifests: dict[Digest, tuple[bytes, str]] = {}
        self._configs: dict[Digest, bytes] = {}
        self._layers: dict[Digest, Extent] = {}

    def _add(self, image: MadeImage) -> Descriptor:
        """Take *image* in; return the descriptor of its manifest."""
        self._configs[Digest.of(image.config)] = image.config
        self._layers |= {layer.extent.digest: layer.extent for layer in image.layers}
        self._manifests[image.manifest.digest] = (image.manifest.content, image.manifest.kind.media_type)
        return image.manifest.descriptor

    def manifest(self, digest: Digest) -> tuple[bytes, str]:
        """Return bytes and media type of the manifest *digest*, of an image whose tag was resolved.

        Raises:
            NotFoundError: there is none.
        """
        if digest not in self._manifests:
            raise NotFoundError(
                f"{self._name}@{digest}", "is not what its images become here", "name it by its tag instead"
            )
        return self._manifests[digest]

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:  # noqa: ARG002 - as every source has it
        """Return nothing: the manifests are made here, and nobody can refer to them."""
        return ()

    def blob(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of *blob* from *start* on, in pieces of at most 1 MiB, of an image whose tag was resolved.

        Raises:
            NotFoundError: there is none.
        """
        if blob.digest in self._layers:
            return self._spool.read(self._layers[blob.digest], start)
        if blob.digest in self._configs:
            return iter((self._configs[blob.digest][start:],))
        raise NotFoundError(f"{self._name}@{blob.digest}", "is no blob of its images", "run seawall lock again")


class EngineSource(MadeImages):
    """Images of the local Docker engine; may be used by several threads.

    An image is exported and compressed when its tag is first resolved, once in a run.
    """

    def __init__(self, location: EngineLocation, engine: Engine, packing: Packing) -> None:
        super().__init__(str(location), packing.spool)
        self._location = location
        self._engine = engine
        self._packing = packing
        self._resolved: dict[str, Descriptor] = {}
        self._mutex = threading.Lock()

    @property
    def requests(self) -> int:
        """How many requests the engine has been asked so far."""
        return self._engine.requests

    def resolve(self, tag: str) -> Descriptor:
        """Return the descriptor of what *tag* becomes here; ``""`` where the location names an image by its ID.

        Raises:
            SourceError: the engine has no such image, or does not answer.
        """
        image_id = self._engine.image_id(f"{self._location.name}:{tag}" if tag else self._location.name)
        with self._mutex:
            if image_id not in self._resolved:
                self._resolved[image_id] = self._add(self._export(image_id))
            return self._resolved[image_id]

    def tags(self) -> tuple[str, ...]:
        """Return the tags that the engine has of this name."""
        return self._engine.tags(self._location.name)

    def _export(self, image_id: str) -> MadeImage:
        where = f"{self._location} ({image_id})"
        with self._engine.export(image_id) as archive:
            contents = read_contents(archive, where, lambda _: True, self._packing)
        images = archived_images(contents)
        if len(images) != 1:
            raise contents.refused(f"the engine sent {len(images)} images, not one")
        return made_image(images[0], contents)


class DockerArchiveSource(MadeImages):
    """Images of an archive that ``docker save`` or skopeo wrote; may be used by several threads.

    An image is read and compressed when its tag is first resolved, once in a run.
    """

    def __init__(self, location: DockerArchiveLocation, packing: Packing) -> None:
        super().__init__(str(location), packing.spool)
        self._location = location
        self._where = str(location.path)
        self._packing = packing
        self._contents: Contents | None = None
        self._resolved: dict[ArchivedImage, Descriptor] = {}
        self._mutex = threading.Lock()

    @property
    def requests(self) -> int:
        """0: a file is not asked over the network."""
        return 0

    def resolve(self, tag: str) -> Descriptor:
        """Return the descriptor of what *tag* becomes here; ``""`` is the only image of the archive.

        Raises:
            SourceError: there is no such image, or the archive is malformed.
        """
        with self._mutex:
            image = self._found(tag)
            if image not in self._resolved:
                contents = self._read(frozenset(map(self._index().resolved, image.layers)))
                self._resolved[image] = self._add(made_image(image, contents))
            return self._resolved[image]

    def tags(self) -> tuple[str, ...]:
        """Return the tags that the archive has of this name.

        Raises:
            SourceError: the archive is malformed, or names several repositories where the location names none.
        """
        with self._mutex:
            return tuple(sorted(self._named()))

    def _found(self, tag: str) -> ArchivedImage:
        where = f"{self._location}:{tag}" if tag else str(self._location)
        if not tag:
            images = archived_images(self._index())
            if len(images) != 1:
                raise SourceError(where, f"holds {len(images)} images", "write which one: docker-archive:FILE:NAME:TAG")
            return images[0]
        named = self._named()
        if tag not in named:
            names = [name for image in archived_images(self._index()) for name in image.names]
            shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
            raise NotFoundError(where, "no such image", f"write one that it has ({shown or 'it has no names'})")
        return named[tag]

    def _named(self) -> dict[str, ArchivedImage]:
        """Return the images of this name, by tag."""
        images = archived_images(self._index())
        rows = [(*self._split(name), image) for image in images for name in image.names]
        if not self._location.name and len({name for name, _, _ in rows}) > 1:
            raise SourceError(
                str(self._location), "holds images of several names", "write which one: docker-archive:FILE:NAME"
            )
        return {tag: image for name, tag, image in rows if self._location.name in {name, ""}}

    def _split(self, text: str) -> tuple[str, str]:
        name, tag = split_tag(text)
        try:
            return full_name(name, self._where), tag
        except InputError as error:
            raise SourceError(self._where, error.what, "save the image again") from None

    def _index(self) -> Contents:
        """Return what the archive has but its layers, read once."""
        if self._contents is None:
            self._contents = self._read(frozenset())
        return self._contents

    def _read(self, layers: frozenset[str]) -> Contents:
        path = self._location.path
        with open_regular(path) as opened, plain(opened, path) as file:
            return read_contents(file, self._where, layers.__contains__, self._packing)
