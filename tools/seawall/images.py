"""The images file (``images.yml``): what a person wants a tree to carry."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from seawall.document import read_document
from seawall.errors import InputError
from seawall.reference import LayoutLocation, Location, RegistryLocation, check_repository, check_tag, parse_location

LOCK_NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"


def _tag(text: str) -> str:
    try:
        return check_tag(text, "tags")
    except InputError as error:
        raise ValueError(error) from error


Tag = Annotated[str, pydantic.AfterValidator(_tag)]


class ImageEntry(pydantic.BaseModel):
    """One entry of the images file: a source, the repository it fills, and the tags to carry."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    source: str
    """``docker://HOST/REPOSITORY`` or ``oci:DIR`` (relative to the images file)."""
    name: str = ""
    """The repository in the tree; for ``docker://`` the source's full name if left out."""
    tags: tuple[Tag, ...] = pydantic.Field(min_length=1)
    plain_http: bool = False
    """Talk HTTP to the source's registry, not HTTPS."""

    @pydantic.model_validator(mode="after")
    def _names_what_it_carries(self) -> "ImageEntry":
        try:
            location = parse_location(self.source, "source")
            if self.name:
                check_repository(self.name, "name")
            else:
                default_name(location)
        except InputError as error:
            raise ValueError(InputError("", f"{error.where}: {error.what}", error.todo)) from error
        if len(set(self.tags)) != len(self.tags):
            raise ValueError(InputError("", "lists a tag twice under 'tags'", "list each tag once"))
        return self

    @property
    def location(self) -> Location:
        """Where the images come from."""
        return parse_location(self.source, "source")

    @property
    def repository(self) -> str:
        """The repository in the tree."""
        return self.name or default_name(self.location)


def default_name(location: Location) -> str:
    """Return the repository in the tree that *location* fills where no name is given: the source's full name.

    Raises:
        InputError: it has no name, or one that a tree cannot hold.
    """
    if isinstance(location, LayoutLocation):
        raise InputError("name", "is missing, and an oci: source has no name of its own", "add name: REPOSITORY")
    try:
        return check_repository(f"{location.host}/{location.repository}", "source")
    except InputError:
        raise InputError(
            "name",
            f"is missing, and {location.host}/{location.repository} cannot be a repository name",
            "add name: REPOSITORY (without a port or upper-case letters)",
        ) from None


class ImagesFile(pydantic.BaseModel):
    """The whole images file."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    version: Literal["1"]
    name: str = pydantic.Field(pattern=LOCK_NAME_PATTERN)
    """The lock's name: a lock withdraws from a tree only what the lock of the same name put there."""
    images: tuple[ImageEntry, ...]

    @pydantic.model_validator(mode="after")
    def _carries_each_tag_once(self) -> "ImagesFile":
        seen: set[tuple[str, str]] = set()
        for entry in self.images:
            for tag in entry.tags:
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
    if isinstance(location, RegistryLocation):
        return location
    return LayoutLocation(base / location.path)
