"""The images file (``images.yml``): what a person wants a tree to carry."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from seawall.compression import Compression
from seawall.credentials import CredentialsFrom
from seawall.document import read_document
from seawall.errors import InputError
from seawall.place import PathPlace
from seawall.reference import (
    DockerArchiveLocation,
    EngineLocation,
    FileLocation,
    Location,
    MadeLocation,
    Reference,
    RegistryLocation,
    TreeLocation,
    check_own_tag,
    check_repository,
    check_tag,
    parse_location,
)
from seawall.subset import check_platform
from seawall.tag_filter import TagFilter

LOCK_NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"

_NAMES_SHOWN = 10
_ADD_NAME = "add name: REPOSITORY"


def _tag(text: str) -> str:
    try:
        return check_tag(text, "tags")
    except InputError as error:
        raise ValueError(error) from error


def _glob(value: Any) -> Any:
    return {"glob": value} if isinstance(value, str) else value


def _sort_of(value: Any) -> str:
    is_name = isinstance(value, str) and not set(value) & set("*?")
    return "name" if is_name else "filter"


Tag = Annotated[
    str,
    pydantic.AfterValidator(_tag),
    pydantic.Field(json_schema_extra={"pattern": "^[A-Za-z0-9_*?][A-Za-z0-9_.*?-]*$"}),
]
WantedTag = Annotated[
    Annotated[Tag, pydantic.Tag("name")]
    | Annotated[TagFilter, pydantic.BeforeValidator(_glob), pydantic.Tag("filter")],
    pydantic.Discriminator(_sort_of),
]
"""A tag by its name, or a filter; text with ``*`` or ``?`` in it is a filter by that glob."""


PlatformName = Annotated[
    str,
    pydantic.AfterValidator(check_platform),
    pydantic.Field(json_schema_extra={"pattern": "^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$"}),
]
Immutable = Annotated[
    Annotated[bool, pydantic.Tag("flag")] | Annotated[tuple[WantedTag, ...], pydantic.Tag("list")],
    pydantic.Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "flag"),
]


class ImageEntry(pydantic.BaseModel):
    """One entry of the images file: a source, the repository it fills, and the tags to carry."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    source: str
    """``docker://HOST/REPOSITORY``, ``docker-daemon:NAME``, ``docker-archive:FILE[:NAME]``, ``oci:DIR``,
    ``oci-archive:FILE``, or a repository of another tree: ``PATH/v2/REPOSITORY``, ``ssh://HOST/PATH/v2/REPOSITORY``,
    ``https://HOST/v2/REPOSITORY``, ``s3://BUCKET/v2/REPOSITORY`` (paths are relative to the images file)."""
    name: str = ""
    """The repository in the tree; if left out, the source's full name, or its name in the other tree."""
    tags: tuple[WantedTag, ...] = pydantic.Field(min_length=1)
    """The tags to carry, by name or by filter."""
    platforms: tuple[PlatformName, ...] = pydantic.Field((), min_length=1)
    """Carry only these, ``linux/amd64`` or ``linux/arm/v7``; all if left out."""
    immutable: Immutable = False
    """True, or those of the carried tags that must never move."""
    compression: Compression | None = None
    """How layers are compressed that come uncompressed: ``gzip`` (the default of ``docker-daemon:`` and
    ``docker-archive:``) or ``zstd``. ``oci:`` and ``oci-archive:`` stay as they are if it is left out."""
    referrers: bool = False
    """Also carry what refers to the images: signatures, attestations, SBOMs."""
    plain_http: bool = False
    """Talk HTTP to the source's registry, not HTTPS."""
    credentials: CredentialsFrom | None = None
    """Where the credentials for the source's registry are found; those of docker login if left out."""

    @pydantic.model_validator(mode="after")
    def _names_what_it_carries(self) -> "ImageEntry":
        try:
            location = parse_location(self.source, "source")
            check_compression(location, self.compression)
            check_referrers(location, self.compression, wanted=self.referrers)
            if self.name:
                check_repository(self.name, "name")
            else:
                default_name(location)
            for tag in self.names:
                check_own_tag(Reference(self.repository, tag))
            check_credentials(self.credentials, location)
        except InputError as error:
            raise ValueError(InputError("", f"{error.where}: {error.what}", error.todo)) from error
        if len(set(self.tags)) != len(self.tags):
            raise ValueError(InputError("", "lists a tag twice under 'tags'", "list each tag once"))
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The tags that are carried by their names."""
        return tuple(wanted for wanted in self.tags if isinstance(wanted, str))

    @property
    def filters(self) -> tuple[TagFilter, ...]:
        """The filters that pick the other tags."""
        return tuple(wanted for wanted in self.tags if isinstance(wanted, TagFilter))

    @property
    def location(self) -> Location:
        """Where the images come from."""
        return parse_location(self.source, "source")

    @property
    def repository(self) -> str:
        """The repository in the tree."""
        return self.name or default_name(self.location)


def check_credentials(credentials: CredentialsFrom | None, location: Location) -> None:
    """Check that *location* is one that takes *credentials*, if there are any.

    Raises:
        InputError: it is no registry.
    """
    if credentials is not None and not isinstance(location, RegistryLocation):
        raise InputError("credentials", f"are given, and {location} wants none", "leave them out")


def default_name(location: Location) -> str:
    """Return the repository in the tree that *location* fills where no name is given: the source's full name.

    Raises:
        InputError: it has no name, or one that a tree cannot hold.
    """
    if isinstance(location, RegistryLocation):
        name = f"{location.host}/{location.repository}"
    elif isinstance(location, TreeLocation):
        name = location.repository
    elif isinstance(location, DockerArchiveLocation | EngineLocation) and location.name:
        name = location.name
    else:
        transport = str(location).partition(":")[0]
        raise InputError("name", f"is missing, and this {transport}: source has no name of its own", _ADD_NAME)
    try:
        return check_repository(name, "source")
    except InputError:
        raise InputError(
            "name",
            f"is missing, and {name} cannot be a repository name",
            f"{_ADD_NAME} (without a port or upper-case letters)",
        ) from None


def check_compression(location: Location, compression: Compression | None) -> None:
    """Check that *compression* may be given for *location*.

    Raises:
        InputError: the layers of a registry and of a tree stay as they are.
    """
    if compression is not None and isinstance(location, RegistryLocation | TreeLocation):
        raise InputError("compression", f"is given, and the layers of {location} stay as they are", "leave it out")


def check_referrers(location: Location, compression: Compression | None, *, wanted: bool) -> None:
    """Check that what refers to the images of *location* may be *wanted*.

    Raises:
        InputError: their manifests are made here, and nothing refers to what nobody knows.
    """
    if wanted and (compression is not None or isinstance(location, MadeLocation)):
        what = f"are wanted, and nothing refers to manifests that are made here of what {location} has"
        raise InputError("referrers", what, "leave them out")


class ImagesFile(pydantic.BaseModel):
    """The whole images file."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    version: Literal["1"]
    """The version of this format."""
    name: str = pydantic.Field(pattern=LOCK_NAME_PATTERN)
    """The lock's name: a lock withdraws from a tree only what the lock of the same name put there."""
    images: tuple[ImageEntry, ...]
    """What to carry."""

    def chosen(self, only: Iterable[str]) -> frozenset[str]:
        """Return the repositories of the tree that are in *only*, or all that it fills where that names none.

        Raises:
            InputError: it fills no such repository.
        """
        filled = frozenset(entry.repository for entry in self.images)
        chosen = frozenset(only)
        for name in sorted(chosen - filled):
            shown = ", ".join(sorted(filled)[:_NAMES_SHOWN]) + (", …" if len(filled) > _NAMES_SHOWN else "")
            raise InputError(name, "is no repository that the images file fills", f"give one of {shown or 'its names'}")
        return chosen or filled

    @pydantic.model_validator(mode="after")
    def _carries_each_tag_once(self) -> "ImagesFile":
        seen: set[tuple[str, str]] = set()
        for entry in self.images:
            for tag in entry.names:
                if (entry.repository, tag) in seen:
                    raise ValueError(
                        InputError("", f"carries {entry.repository}:{tag} in two entries", "keep it in one of them")
                    )
                seen.add((entry.repository, tag))
        return self


def read_images(path: Path) -> ImagesFile:
    """Return the images file *path*.

    Raises:
        InputError: it is malformed; the error names file, line and field.
    """
    return read_document(path, ImagesFile)


def absolute(location: Location, base: Path) -> Location:
    """Return *location* with a relative path taken from the folder *base*."""
    if isinstance(location, FileLocation):
        return replace(location, path=base / location.path)
    if isinstance(location, TreeLocation) and isinstance(location.place, PathPlace):
        return replace(location, place=PathPlace(base / location.place.path))
    return location


def is_relative(location: Location) -> bool:
    """Return whether *location* is another one when taken from another folder."""
    return location != absolute(location, Path("/"))
