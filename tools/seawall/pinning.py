"""Pinning: ask sources what the tags of an images file point at now."""

from concurrent.futures import ThreadPoolExecutor

from seawall.images import ImageEntry, ImagesFile
from seawall.lock import Lock, Pin, kept_pins, make_lock
from seawall.manifest import parse_manifest
from seawall.media_type import BY_MEDIA_TYPE
from seawall.reference import Reference
from seawall.source import Source
from seawall.sources import Sources


def pin(images: ImagesFile, old: Lock | None, sources: Sources, *, upgrade: bool, jobs: int) -> Lock:
    """Return the lock of *images*.

    Args:
        images: what to carry.
        old: the lock so far; what it pins stays pinned, and costs no request.
        sources: answer for the tags.
        upgrade: pin every tag anew, to what it points at now.
        jobs: tags that are asked for at a time.

    Raises:
        SeawallError: a source does not answer, or has not the tag.
    """
    pins = {} if upgrade else kept_pins(images, old)
    missing = [
        (entry, tag) for entry in images.images for tag in entry.tags if Reference(entry.repository, tag) not in pins
    ]
    with ThreadPoolExecutor(jobs, thread_name_prefix="pin") as pool:
        asked = pool.map(lambda item: _ask(item[0], item[1], sources), missing)
        found = {Reference(entry.repository, tag): pin for (entry, tag), pin in zip(missing, asked, strict=True)}
    return make_lock(images, {**pins, **found})


def _ask(entry: ImageEntry, tag: str, sources: Sources) -> Pin:
    return resolve(sources.of(entry), tag, f"{entry.source}:{tag}")


def resolve(source: Source, tag: str, where: str) -> Pin:
    """Return the pin of what *tag* names now in *source*; *where* names it in errors.

    Raises:
        SeawallError: the source does not answer, or has not got it.
    """
    descriptor = source.resolve(tag)
    media_type = descriptor.media_type
    if media_type not in BY_MEDIA_TYPE:
        # Some servers name a type that is no manifest's; the manifest itself knows better, or is refused.
        content, media_type = source.manifest(descriptor.digest)
        media_type = parse_manifest(content, where, media_type).kind.media_type
    return Pin(digest=descriptor.digest, media_type=media_type, size=descriptor.size)
