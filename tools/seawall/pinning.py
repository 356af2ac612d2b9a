"""Pinning: ask sources which tags the filters of an images file pick, and what the tags point at now."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

from seawall.digest import Digest
from seawall.errors import InputError, SourceError
from seawall.images import ImageEntry, ImagesFile
from seawall.lock import (
    Carried,
    Lock,
    LockedFilter,
    Pin,
    Referrer,
    kept_filters,
    kept_pins,
    kept_referrers,
    make_lock,
)
from seawall.manifest import parse_manifest
from seawall.media_type import BY_MEDIA_TYPE
from seawall.reference import Reference, listed_subject
from seawall.referrers import Referring
from seawall.source import Source
from seawall.sources import Sources
from seawall.subset import narrowed, parse_platforms
from seawall.tag_filter import TagFilter, select


def pin(images: ImagesFile, old: Lock | None, sources: Sources, *, upgrade: Collection[str], jobs: int) -> Lock:
    """Return the lock of *images*.

    What *old* pins stays pinned, with what refers to it, and a filter that stands in *old* as it is wanted is not asked
    again: none of it costs a request.

    Args:
        images: what to carry.
        old: the lock so far.
        sources: answer for the tags.
        upgrade: repositories of the tree whose filters are asked again, and whose tags are all pinned anew.
        jobs: sources or tags that are asked for at a time.

    Raises:
        InputError: a filter matches nothing, or two entries come to carry one tag.
        SeawallError: a source does not answer, or has not the tag.
    """
    with ThreadPoolExecutor(jobs, thread_name_prefix="pin") as pool:
        kept = [{} if entry.repository in upgrade else kept_filters(entry, old) for entry in images.images]
        carried = list(pool.map(lambda row: _carried(row[0], row[1], sources), zip(images.images, kept, strict=True)))
        _check_carried_once(carried)
        pins = kept_pins((one for one in carried if one.entry.repository not in upgrade), old)
        missing = [(one.entry, reference) for one in carried for reference in one.references if reference not in pins]
        asked = pool.map(lambda item: _ask(item[0], str(item[1].tag), sources), missing)
        found = {reference: pin for (_, reference), pin in zip(missing, asked, strict=True)}
        pins |= found
        stand = [{} if one.entry.repository in upgrade else kept_referrers(one.entry, old) for one in carried]
        carried = _with_referrers(carried, pins, stand, sources, pool)
    return make_lock(images.name, carried, pins)


def _carried(entry: ImageEntry, kept: dict[TagFilter, LockedFilter], sources: Sources) -> Carried:
    """Return *entry* with what its filters find; the source is asked for its tags once, and only if need be."""
    if len(kept) == len(entry.filters):
        return Carried(entry, tuple(kept.values()))
    # A list behind a tag is not an image: it comes with "referrers", and the tree makes its own.
    tags = [tag for tag in sources.of(entry).tags() if listed_subject(tag) is None]
    return Carried(entry, tuple(kept.get(wanted) or _find(wanted, tags, entry) for wanted in entry.filters))


def _find(wanted: TagFilter, tags: Sequence[str], entry: ImageEntry) -> LockedFilter:
    found = select(wanted, tags)
    if not found:
        todo = "correct it" if not wanted.compares_versions else "correct it; a suffix such as -alpine has to be given"
        raise SourceError(entry.source, f"the filter {wanted} matches none of {len(tags)} tags", todo)
    return LockedFilter(wanted=wanted, found=found)


def _check_carried_once(carried: Sequence[Carried]) -> None:
    seen: set[Reference] = set()
    for one in carried:
        for reference in one.references:
            if reference in seen:
                raise InputError(one.entry.source, f"{reference} is carried by two entries", "keep it in one of them")
            seen.add(reference)


def _with_referrers(
    carried: Sequence[Carried],
    pins: Mapping[Reference, Pin],
    kept: Sequence[Mapping[Digest, tuple[Referrer, ...]]],
    sources: Sources,
    pool: Executor,
) -> list[Carried]:
    """Return what is *carried* with what refers to it, as far as that is wanted.

    The sources are asked for what is not *kept*. A tag that is carried for itself is not carried as a referrer's, too.
    """
    known: dict[tuple[str, str], list[Referrer]] = defaultdict(list)
    for one, rows in zip(carried, kept, strict=True):
        known[one.entry.repository, one.entry.source] += chain.from_iterable(rows.values())
    wanted = [
        {pins[reference].digest: pins[reference] for reference in one.references} if one.entry.referrers else {}
        for one in carried
    ]
    missing = [(number, digest) for number, own in enumerate(wanted) for digest in own if digest not in kept[number]]
    asked = [carried[number].entry for number, _ in missing]
    referring = {
        key: Referring(sources.of(entry), entry.source, known[key])
        for key, entry in {(entry.repository, entry.source): entry for entry in asked}.items()
    }

    def find(item: tuple[int, Digest]) -> tuple[Referrer, ...]:
        entry = carried[item[0]].entry
        return referring[entry.repository, entry.source].find(wanted[item[0]][item[1]], entry.platforms)

    found = dict(zip(missing, pool.map(find, missing), strict=True))
    named = {reference for one in carried for reference in one.references}
    return [
        replace(
            one,
            referrers={
                digest: tuple(
                    row
                    for row in (kept[number][digest] if digest in kept[number] else found[number, digest])
                    if Reference(one.entry.repository, row.tag) not in named
                )
                for digest in wanted[number]
            },
        )
        for number, one in enumerate(carried)
    ]


def _ask(entry: ImageEntry, tag: str, sources: Sources) -> Pin:
    return resolve(sources.of(entry), tag, f"{entry.source}:{tag}", entry.platforms)


def resolve(source: Source, tag: str, where: str, platforms: Sequence[str] = ()) -> Pin:
    """Return the pin of what *tag* names now in *source*, of the named *platforms* or of all.

    Args:
        source: answers for the tag.
        tag: the tag.
        where: names it in errors.
        platforms: which platforms to keep, as ``os/architecture[/variant]``; all where none is given.

    Raises:
        SeawallError: the source does not answer, or has not got it.
    """
    descriptor = source.resolve(tag)
    if descriptor.media_type in BY_MEDIA_TYPE and not platforms:
        return Pin(digest=descriptor.digest, media_type=descriptor.media_type, size=descriptor.size)
    # Some servers name a type that is no manifest's; the manifest itself knows better, or is refused.
    content, media_type = source.manifest(descriptor.digest)
    manifest = parse_manifest(content, where, media_type or descriptor.media_type)
    carried = narrowed(manifest, parse_platforms(platforms), source, where) if platforms else manifest
    return Pin(
        digest=carried.digest,
        media_type=carried.kind.media_type,
        size=len(carried.content),
        source_digest=manifest.digest if carried.digest != manifest.digest else None,
    )
