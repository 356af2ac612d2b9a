"""Adding: one image put into a tree by hand, by the means of a sync but without a lock."""

from dataclasses import dataclass

from seawall.compression import Compression
from seawall.digest import Digest
from seawall.errors import InputError
from seawall.images import check_compression, check_referrers, default_name
from seawall.lock import Lock, LockedImage, Pin
from seawall.manifest import parse_manifest
from seawall.pinning import resolve
from seawall.reference import ImageSource, Reference, check_own_tag, check_repository, check_tag, staged_tag
from seawall.referrers import Referring
from seawall.source import Source
from seawall.sources import Sources


@dataclass(frozen=True, slots=True)
class Wanted:
    """How an image is added."""

    plain_http: bool = False
    """Talk HTTP to a registry."""
    compression: Compression | None = None
    """How layers are compressed that come uncompressed; None for what the source's kind has by default."""
    referrers: bool = False
    """Add what refers to it, too."""


PLAIN = Wanted()


def parse_name(text: str) -> tuple[str, str]:
    """Return repository and tag that ``REPO[:TAG]`` spells; the tag is empty where none is given.

    Raises:
        InputError: it is malformed.
    """
    repository, colon, tag = text.partition(":")
    return check_repository(repository, text), check_tag(tag, text) if colon else ""


def pin_addition(image: ImageSource, name: str, sources: Sources, wanted: Wanted = PLAIN) -> tuple[Lock, Reference]:
    """Return what adds *image*, for :func:`~seawall.sync.prepare`, and the tag that it gets.

    Args:
        image: the image.
        name: ``REPO[:TAG]`` in the tree; what is left out is as in the source.
        sources: answer for it.
        wanted: how it is added.

    Raises:
        InputError: *name* is malformed, or says too little.
        SeawallError: the source does not answer, or has not the image.
    """
    repository, tag = parse_name(name) if name else (_repository(image), "")
    tag = tag or image.tag or ""
    if not tag:
        raise InputError(str(image), "has no tag", f"say which one it gets in the tree: {repository}:TAG")
    return _pinned(image, (repository, tag), sources, wanted)


def pin_staged(image: ImageSource, repository: str, sources: Sources, wanted: Wanted = PLAIN) -> tuple[Lock, Reference]:
    """Return what stages *image*, for :func:`~seawall.sync.prepare`, and the tag that it gets, made from its digest.

    Args:
        image: the image.
        repository: where in the tree; empty for the source's full name.
        sources: answer for it.
        wanted: how it is added.

    Raises:
        InputError: *repository* is malformed, or missing where the source has no name.
        SeawallError: the source does not answer, or has not the image.
    """
    repository = check_repository(repository, repository) if repository else _repository(image)
    return _pinned(image, (repository, ""), sources, wanted)


def _pinned(image: ImageSource, name: tuple[str, str], sources: Sources, wanted: Wanted) -> tuple[Lock, Reference]:
    check_compression(image.location, wanted.compression)
    check_referrers(image.location, wanted.compression, wanted=wanted.referrers)
    if name[1]:
        check_own_tag(Reference(*name))
    source = sources.at(image.location, plain_http=wanted.plain_http, compression=wanted.compression)
    pin = _pin(source, image.digest, str(image)) if image.digest else resolve(source, image.tag or "", str(image))
    repository, tag = name[0], name[1] or staged_tag(pin.digest)
    locked = LockedImage(
        name=repository,
        source=str(image.location),
        plain_http=wanted.plain_http,
        compression=wanted.compression,
        tags={tag: pin},
        referrers={pin.digest: Referring(source, str(image.location)).find(pin)} if wanted.referrers else {},
    )
    return Lock(name="by-hand", images=(locked,)), Reference(repository, tag)


def _pin(source: Source, digest: Digest, where: str) -> Pin:
    content, media_type = source.manifest(digest)
    manifest = parse_manifest(content, where, media_type)
    return Pin(digest=digest, media_type=manifest.kind.media_type, size=len(content))


def _repository(image: ImageSource) -> str:
    try:
        return default_name(image.location)
    except InputError as error:
        raise InputError(str(image), "has no name that a tree can use", "give one after it") from error
