"""The lock (``images.lock``): every tag pinned to a digest, and how it comes about."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml

from seawall.compression import Compression
from seawall.credentials import CredentialsFrom
from seawall.digest import Digest
from seawall.document import parse_document, read_document
from seawall.errors import InputError
from seawall.images import LOCK_NAME_PATTERN, ImageEntry, PlatformName, Tag, check_compression, check_credentials
from seawall.media_type import BY_MEDIA_TYPE
from seawall.reference import Location, MadeLocation, Reference, check_repository, parse_location
from seawall.replacement import replacing
from seawall.tag_filter import TagFilter, select

HEADER = '# Written by "seawall lock": review it and commit it, but edit the images file instead.\n'


def _digest(text: object) -> Digest:
    if isinstance(text, Digest):
        return text
    try:
        return Digest.parse(str(text))
    except InputError as error:
        raise ValueError(error) from error


def _manifest_media_type(text: str) -> str:
    if text not in BY_MEDIA_TYPE:
        raise ValueError(InputError("", f"{text[:100]!r} is not that of a manifest", "run seawall lock again"))
    return text


class Pin(pydantic.BaseModel):
    """What a tag is pinned to: a descriptor as in the OCI Image Specification 1.1, descriptor.md."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_by_name=True, validate_by_alias=True
    )

    digest: Annotated[Digest, pydantic.BeforeValidator(_digest)]
    media_type: Annotated[str, pydantic.AfterValidator(_manifest_media_type)] = pydantic.Field(alias="mediaType")
    size: int = pydantic.Field(ge=1)
    """Bytes."""
    source_digest: Annotated[Digest, pydantic.BeforeValidator(_digest)] | None = pydantic.Field(
        None, alias="sourceDigest"
    )
    """What the source has there, where the pin is an index of fewer platforms that is made from it."""
    immutable: bool = False
    """Whether the tag must never be pinned to anything else."""


class Referrer(pydantic.BaseModel):
    """What refers to a manifest, pinned: a descriptor, and what it refers to."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_by_name=True, validate_by_alias=True
    )

    digest: Annotated[Digest, pydantic.BeforeValidator(_digest)]
    media_type: Annotated[str, pydantic.AfterValidator(_manifest_media_type)] = pydantic.Field(alias="mediaType")
    size: int = pydantic.Field(ge=1)
    """Bytes."""
    subject: Annotated[Digest, pydantic.BeforeValidator(_digest)]
    tag: Tag | None = None
    """Its tag, where that is how it refers, as cosign's do; None where the manifest says itself what it refers to."""

    @property
    def pin(self) -> Pin:
        """The same without what it refers to."""
        return Pin(digest=self.digest, media_type=self.media_type, size=self.size)


class LockedFilter(pydantic.BaseModel):
    """A filter, with the tags that it found when the source was last asked."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    wanted: TagFilter
    found: tuple[Tag, ...] = pydantic.Field(min_length=1)


class LockedImage(pydantic.BaseModel):
    """One source and the tags that it fills a repository with."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    """The repository in the tree."""
    source: str
    plain_http: bool = False
    compression: Compression | None = None
    """How layers are compressed that come uncompressed, where that was said."""
    credentials: CredentialsFrom | None = None
    """Where the credentials are found, which a sync needs to know; never what they are."""
    platforms: tuple[PlatformName, ...] = ()
    """The platforms that are carried; all where there are none."""
    filters: tuple[LockedFilter, ...] = ()
    """Why there are tags that nobody named; a filter that stands here as it is wanted is not asked again."""
    tags: dict[Tag, Pin] = pydantic.Field(min_length=1)
    referrers: dict[Annotated[Digest, pydantic.BeforeValidator(_digest)], tuple[Referrer, ...]] = {}
    """By what a tag is pinned to: all that refers to it, to what it lists, or to one of these referrers.

    What is not in it was not asked for, which is not the same as that nothing refers to it.
    """

    @pydantic.model_validator(mode="after")
    def _is_well_formed(self) -> "LockedImage":
        try:
            check_repository(self.name, "name")
            location = parse_location(self.source, "source")
            check_compression(location, self.compression)
            check_credentials(self.credentials, location)
        except InputError as error:
            raise ValueError(InputError("", f"{error.where}: {error.what}", error.todo)) from error
        if not self.platforms and any(pin.source_digest for pin in self.tags.values()):
            raise ValueError(InputError("", "has a sourceDigest and no platforms", "run seawall lock again"))
        return self

    @property
    def location(self) -> Location:
        """Where the images come from."""
        return parse_location(self.source, "source")

    @property
    def is_made(self) -> bool:
        """True where manifests are made of what the source has, and known after it was asked by tag."""
        return self.compression is not None or isinstance(self.location, MadeLocation)

    @property
    def pins(self) -> dict[str, Pin]:
        """Every tag that the repository gets, those of referrers too, with what it is pinned to."""
        return {row.tag: row.pin for rows in self.referrers.values() for row in rows if row.tag} | self.tags

    @property
    def roots(self) -> tuple[Pin, ...]:
        """Every manifest that the repository gets for its own sake, each once: referrers, and what tags name."""
        referrers = (row.pin for rows in self.referrers.values() for row in rows)
        return tuple({pin.digest: pin for pin in (*referrers, *self.tags.values())}.values())


class Lock(pydantic.BaseModel):
    """The whole lock."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    version: Literal["1"] = "1"
    name: str = pydantic.Field(pattern=LOCK_NAME_PATTERN)
    images: tuple[LockedImage, ...] = ()

    @pydantic.model_validator(mode="after")
    def _pins_each_tag_once(self) -> "Lock":
        seen: set[Reference] = set()
        for image in self.images:
            for tag in image.tags:
                reference = Reference(image.name, tag)
                if reference in seen:
                    raise ValueError(InputError("", f"pins {reference} twice", "run seawall lock again"))
                seen.add(reference)
        try:
            check_attached(self.images)
        except InputError as error:
            raise ValueError(InputError("", f"{error.where} {error.what}", error.todo)) from error
        return self

    @property
    def pins(self) -> dict[Reference, Pin]:
        """Every tag that the lock names, those of referrers too, with what it is pinned to."""
        return {Reference(image.name, tag): pin for image in self.images for tag, pin in image.pins.items()}

    @property
    def digests(self) -> dict[Reference, Digest]:
        """All that the lock names, with the digest that it is pinned to: tags, and referrers that have none."""
        untagged = {
            Reference(image.name, digest=row.digest): row.digest
            for image in self.images
            for rows in image.referrers.values()
            for row in rows
            if row.tag is None
        }
        return untagged | {reference: pin.digest for reference, pin in self.pins.items()}

    @property
    def listed(self) -> dict[tuple[str, Digest], frozenset[Digest]]:
        """By repository and subject, the referrers that have to be in the list of what refers to it."""
        found: dict[tuple[str, Digest], set[Digest]] = {}
        for image in self.images:
            for row in (row for rows in image.referrers.values() for row in rows if row.tag is None):
                found.setdefault((image.name, row.subject), set()).add(row.digest)
        return {key: frozenset(digests) for key, digests in found.items()}


def check_attached(images: Iterable[LockedImage]) -> None:
    """Check that nothing comes to be attached under one tag of a repository in two ways.

    Raises:
        InputError: something does.
    """
    seen: dict[Reference, Digest] = {}
    for image in images:
        for tag, pin in image.pins.items():
            reference = Reference(image.name, tag)
            if seen.setdefault(reference, pin.digest) != pin.digest:
                raise InputError(
                    str(reference), "would be two things: two sources have it differently", "carry it from one of them"
                )


def read_lock(path: Path) -> Lock:
    """Return the lock *path*.

    Raises:
        InputError: it is malformed; the error names file, line and field.
    """
    return read_document(path, Lock)


def parse_lock(content: bytes, where: str) -> Lock:
    """Return the lock whose text is *content*; *where* names it in errors.

    Raises:
        InputError: it is malformed.
    """
    return parse_document(content, where, Lock)


def lock_text(lock: Lock) -> str:
    """Return *lock* as it is written to a file: in one order, so that a moved tag is a diff of its own lines."""
    images = []
    for image in sorted(lock.images, key=_key):
        row: dict[str, object] = {"name": image.name, "source": image.source}
        if image.plain_http:
            row["plain_http"] = True
        if image.credentials:
            row["credentials"] = image.credentials.model_dump(exclude_defaults=True)
        if image.compression:
            row["compression"] = image.compression
        if image.platforms:
            row["platforms"] = list(image.platforms)
        if image.filters:
            row["filters"] = [
                {"wanted": locked.wanted.model_dump(exclude_defaults=True), "found": list(locked.found)}
                for locked in sorted(image.filters, key=str)
            ]
        row["tags"] = {
            tag: {"digest": str(pin.digest), "mediaType": pin.media_type, "size": pin.size}
            | ({"sourceDigest": str(pin.source_digest)} if pin.source_digest else {})
            | ({"immutable": True} if pin.immutable else {})
            for tag, pin in sorted(image.tags.items())
        }
        if image.referrers:
            row["referrers"] = {
                str(digest): [_referrer_row(referrer) for referrer in referrers]
                for digest, referrers in sorted(image.referrers.items())
            }
        images.append(row)
    document = {"version": 1, "name": lock.name, "images": images}
    return HEADER + yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=1000)


def _referrer_row(referrer: Referrer) -> dict[str, object]:
    row: dict[str, object] = {"subject": str(referrer.subject)}
    if referrer.tag:
        row["tag"] = referrer.tag
    return row | {"digest": str(referrer.digest), "mediaType": referrer.media_type, "size": referrer.size}


def write_lock(path: Path, lock: Lock) -> bool:
    """Write *lock* to *path*, whole or not at all; return whether that changed anything.

    Raises:
        InputError: *path* cannot be written.
    """
    content = lock_text(lock).encode()
    if path.is_file() and path.read_bytes() == content:
        return False
    with replacing(path) as file:
        file.write(content)
    return True


@dataclass(frozen=True, slots=True)
class Move:
    """A tag that a new lock pins otherwise than the old one, or that two places have differently."""

    reference: Reference
    old: Digest | None
    """None for a tag that is new in the lock."""
    new: Digest | None
    """None for a tag that the lock names no more."""


@dataclass(frozen=True, slots=True)
class Carried:
    """An entry of the images file, with what its filters found."""

    entry: ImageEntry
    filters: tuple[LockedFilter, ...] = ()
    referrers: Mapping[Digest, tuple[Referrer, ...]] = field(default_factory=dict)
    """As :attr:`LockedImage.referrers`."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Every tag that the entry carries, each once, sorted."""
        found = (tag for locked in self.filters for tag in locked.found)
        return tuple(sorted({*self.entry.names, *found}))

    @property
    def immutable(self) -> frozenset[str]:
        """Those of the tags that must never move.

        Raises:
            InputError: a tag is named immutable that is not carried.
        """
        wanted = self.entry.immutable
        if isinstance(wanted, bool):
            return frozenset(self.tags if wanted else ())
        for name in wanted:
            if isinstance(name, str) and name not in self.tags:
                raise InputError(self.entry.source, f"immutable names {name}, which is not carried", "correct it")
        return frozenset(tag for one in wanted for tag in ([one] if isinstance(one, str) else select(one, self.tags)))

    @property
    def references(self) -> tuple[Reference, ...]:
        """The same as references of the tree."""
        return tuple(Reference(self.entry.repository, tag) for tag in self.tags)


def kept_filters(entry: ImageEntry, old: Lock | None) -> dict[TagFilter, LockedFilter]:
    """Return those filters of *entry* that stand in *old* as they are wanted, for the same repository and source."""
    known = {
        locked.wanted: locked
        for image in (old.images if old else ())
        if (image.name, image.source) == (entry.repository, str(entry.location))
        for locked in image.filters
    }
    return {wanted: known[wanted] for wanted in entry.filters if wanted in known}


def kept_pins(carried: Iterable[Carried], old: Lock | None) -> dict[Reference, Pin]:
    """Return the pins of *old* that still stand: of tags *carried* from the same source, made in the same way."""
    if old is None:
        return {}
    origins = {
        Reference(image.name, tag): (image.source, image.platforms, image.compression)
        for image in old.images
        for tag in image.tags
    }
    pins = old.pins
    return {
        reference: pins[reference]
        for one in carried
        for reference in one.references
        if origins.get(reference) == (str(one.entry.location), one.entry.platforms, one.entry.compression)
    }


def kept_referrers(entry: ImageEntry, old: Lock | None) -> dict[Digest, tuple[Referrer, ...]]:
    """Return what *old* says refers to what it pins for *entry*: for the same repository, source and platforms."""
    return {
        digest: rows
        for image in (old.images if old else ())
        if (image.name, image.source, image.platforms) == (entry.repository, str(entry.location), entry.platforms)
        for digest, rows in image.referrers.items()
    }


def make_lock(name: str, carried: Iterable[Carried], pins: Mapping[Reference, Pin]) -> Lock:
    """Return the lock *name* of what is *carried*, all of whose tags are in *pins*."""
    locked: dict[tuple[str, str, tuple[str, ...], str, str], LockedImage] = {}
    for one in carried:
        image = _locked(one, pins)
        key = _key(image)
        before = locked.get(key)
        if before is not None:
            filters = tuple(sorted((*before.filters, *image.filters), key=str))
            image = image.model_copy(
                update={
                    "tags": {**before.tags, **image.tags},
                    "filters": filters,
                    "referrers": {**before.referrers, **image.referrers},
                }
            )
        locked[key] = image
    ordered = tuple(locked[key] for key in sorted(locked))
    check_attached(ordered)
    return Lock(name=name, images=ordered)


def _key(image: LockedImage) -> tuple[str, str, tuple[str, ...], str, str]:
    """Return what tells *image* from the others of a lock, and puts it into its place among them."""
    return image.name, image.source, image.platforms, image.compression or "", str(image.credentials or "")


def _locked(one: Carried, pins: Mapping[Reference, Pin]) -> LockedImage:
    immutable = one.immutable
    return LockedImage(
        name=one.entry.repository,
        source=str(one.entry.location),
        plain_http=one.entry.plain_http,
        compression=one.entry.compression,
        credentials=one.entry.credentials,
        platforms=one.entry.platforms,
        filters=tuple(sorted(one.filters, key=str)),
        tags={
            tag: pins[reference].model_copy(update={"immutable": tag in immutable})
            for tag, reference in zip(one.tags, one.references, strict=True)
        },
        referrers=dict(one.referrers),
    )


def moves(old: Lock | None, new: Lock) -> tuple[Move, ...]:
    """Return what *new* pins otherwise than *old*, in order of reference."""
    return differences(old.digests if old else {}, new.digests)


def differences(before: Mapping[Reference, Digest], after: Mapping[Reference, Digest]) -> tuple[Move, ...]:
    """Return the tags that do not point at the same in *before* and *after*, in order of reference."""
    return tuple(
        Move(reference, before.get(reference), after.get(reference))
        for reference in sorted({*before, *after}, key=str)
        if before.get(reference) != after.get(reference)
    )
