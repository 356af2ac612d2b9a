"""Where the images of a registry are asked for: ``registries.conf`` (containers-registries.conf(5), version 2).

Of its ``[[registry]]`` tables all is obeyed that says where to pull from. Short names, aliases and credential helpers
are for tools that take names without a host, and are left to them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic

from seawall.errors import InputError
from seawall.reference import RegistryLocation, join_location

_SYNTAX = "see containers-registries.conf(5)"


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """Where a repository may be asked for."""

    location: RegistryLocation
    insecure: bool = False
    """Whether it may be asked without TLS, if it does not speak it."""
    tags: bool = True
    """Whether what tags point at may be asked there."""
    digests: bool = True
    """Whether content may be asked there by its digest."""


class _Mirror(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, strict=True)

    location: str = pydantic.Field(min_length=1)
    insecure: bool = False
    pulls: Literal["all", "digest-only", "tag-only"] | None = pydantic.Field(None, alias="pull-from-mirror")


class _Registry(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, strict=True)

    prefix: str = ""
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    by_digest_only: bool = pydantic.Field(default=False, alias="mirror-by-digest-only")
    mirrors: list[_Mirror] = pydantic.Field([], alias="mirror")

    @property
    def root(self) -> str:
        """What the names begin with that this table is about."""
        return self.prefix or self.location


class _Document(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, strict=True)

    registry: list[_Registry] = []


class RegistriesConf:
    """A ``registries.conf``; :meth:`places` is what it is read for.

    Args:
        path: the file, named in errors.
        text: what is in it.

    Raises:
        InputError: it is malformed.
    """

    def __init__(self, path: Path, text: str) -> None:
        # Few runs have such a file, and the others do not wait until its parser is read.
        import tomllib  # noqa: PLC0415

        self._path = path
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(str(path), f"is not TOML ({error})", "correct the syntax") from None
        if "registries" in document:
            raise InputError(str(path), "is in version 1 of the format", "write [[registry]] tables instead")
        try:
            self._registries = tuple(_Document.model_validate(document).registry)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            raise InputError(str(path), f"{name}: {first['msg']}", _SYNTAX) from None
        for registry in self._registries:
            self._check(registry)

    @classmethod
    def load(cls, path: Path | None) -> "RegistriesConf | None":
        """Return the configuration in the file *path*, or None where none is named.

        Raises:
            InputError: it cannot be read, or is malformed.
        """
        if path is None:
            return None
        try:
            return cls(path, path.read_text("utf-8"))
        except OSError as error:
            raise InputError(str(path), f"cannot be read ({error.strerror})", "give a readable file") from None
        except UnicodeDecodeError:
            raise InputError(str(path), "is not UTF-8", "correct it") from None

    def places(self, location: RegistryLocation) -> tuple[RegistryPlace, ...]:
        """Return where *location* is to be asked for: its mirrors in order, and last where it really is.

        Raises:
            InputError: it is blocked, or a location makes no name of a repository.
        """
        name = f"{location.host}/{location.repository}"
        lengths = [(_matching(registry.root, name), registry) for registry in self._registries]
        matching = [(length, len(registry.root), registry) for length, registry in lengths if length]
        if not matching:
            return (RegistryPlace(location),)
        length, _, registry = max(matching, key=lambda row: (row[1], row[0]))
        if registry.blocked:
            raise InputError(str(location), f"is blocked by {self._path}", "take it out of the images file")
        rest = name[length:]
        found = [
            RegistryPlace(
                self._joined(mirror.location, rest),
                mirror.insecure,
                tags=not registry.by_digest_only and mirror.pulls != "digest-only",
                digests=mirror.pulls != "tag-only",
            )
            for mirror in registry.mirrors
        ]
        own = self._joined(registry.location, rest) if registry.location else location
        return (*found, RegistryPlace(own, registry.insecure))

    def _joined(self, root: str, rest: str) -> RegistryLocation:
        return join_location(f"{root.rstrip('/')}{rest}", str(self._path))

    def _check(self, registry: _Registry) -> None:
        """Raise InputError where *registry* contradicts itself, or says what is not understood."""
        where = str(self._path)
        if not registry.root:
            raise InputError(where, "a [[registry]] has neither prefix nor location", _SYNTAX)
        if registry.by_digest_only and any(mirror.pulls for mirror in registry.mirrors):
            what = f"{registry.root} has mirror-by-digest-only, and a mirror of it pull-from-mirror"
            raise InputError(where, what, "keep one of them")
        roots = [registry.root.removeprefix("*."), registry.location, *(one.location for one in registry.mirrors)]
        for root in filter(None, roots):
            if "@" in root or ":" in root.partition("/")[2]:
                raise InputError(
                    where, f"{root!r} names more than a repository", f"leave tag, digest or URL scheme out; {_SYNTAX}"
                )
            join_location(f"{root.rstrip('/')}/x", where)


def _matching(root: str, name: str) -> int:
    """Return how many characters of *name*, ``host/repository``, the prefix *root* covers; 0 where it is not one."""
    host = name.partition("/")[0]
    if root.startswith("*."):
        return len(host) if host.endswith(root[1:]) else 0
    root = root.rstrip("/")
    return len(root) if name == root or name.startswith(f"{root}/") else 0
