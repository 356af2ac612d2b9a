"""Repositories, tags and references, and where images come from.

The grammar is that of the OCI Distribution Specification 1.1 ("Pulling manifests"); sources are
spelled as in containers-transports(5).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from seawall.digest import Digest
from seawall.errors import InputError

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_RESERVED = frozenset({"blobs", "manifests", "referrers", "tags"})
_REPOSITORY_MAX = 255

DOCKER_HUB = "docker.io"


def check_repository(text: str, where: str) -> str:
    """Return *text* if it names a repository that a tree can hold.

    Raises:
        InputError: it does not follow the specification's grammar, is longer than 255 characters, or
            has a path component that the tree itself uses (``blobs``, ``manifests``, ``referrers``, ``tags``).
    """
    if _REPOSITORY.fullmatch(text) is None or len(text) > _REPOSITORY_MAX:
        raise InputError(
            where,
            f"{text[:300]!r} is not a repository name",
            "use lower-case letters, digits and single . _ - between them, components separated by /, "
            f"at most {_REPOSITORY_MAX} characters",
        )
    reserved = _RESERVED.intersection(text.split("/"))
    if reserved:
        raise InputError(
            where,
            f"repository {text!r} has the component {min(reserved)!r}, which the tree uses itself",
            "give the image another name",
        )
    return text


def check_tag(text: str, where: str) -> str:
    """Return *text* if it is a tag.

    Raises:
        InputError: it does not follow the specification's grammar.
    """
    if not is_tag(text):
        raise InputError(
            where,
            f"{text[:200]!r} is not a tag",
            "use a letter, digit or _ first, then those, . or -, at most 128 characters",
        )
    return text


def is_tag(text: str) -> bool:
    """Return whether *text* follows the grammar of a tag."""
    return _TAG.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Return whether *text* is written as a registry's host, with or without a port."""
    return _HOST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """An image in a tree: a repository, and a tag or a digest."""

    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Return the reference that ``REPO:TAG`` or ``REPO@sha256:...`` spells.

        Raises:
            InputError: it names neither a tag nor a digest, or is malformed.
        """
        repository, at, digest = text.partition("@")
        if at:
            return cls(check_repository(repository, text), digest=Digest.parse(digest, text))
        repository, colon, tag = text.rpartition(":")
        if not colon:
            raise InputError(text, "names no tag and no digest", "write REPO:TAG or REPO@sha256:...")
        return cls(check_repository(repository, text), tag=check_tag(tag, text))

    @property
    def target(self) -> str:
        """What stands behind ``/manifests/`` in a URL or a path: the tag or the digest."""
        return self.tag if self.tag is not None else str(self.digest)

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag is not None else f"{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True, order=True)
class RegistryLocation:
    """``docker://HOST/REPOSITORY``: a repository of a registry that speaks the distribution API."""

    host: str
    """Host, and port if one is given: ``docker.io``, ``registry.example:5000``, ``[::1]:5000``."""
    repository: str

    def __str__(self) -> str:
        return f"docker://{self.host}/{self.repository}"


@dataclass(frozen=True, slots=True, order=True)
class LayoutLocation:
    """``oci:DIR``: a directory in the OCI image layout."""

    path: Path

    def __str__(self) -> str:
        return f"oci:{self.path}"


Location = RegistryLocation | LayoutLocation


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image of a source, spelled as in containers-transports(5)."""

    location: Location
    tag: str | None
    digest: Digest | None = None

    def __str__(self) -> str:
        return f"{self.location}@{self.digest}" if self.digest else f"{self.location}:{self.tag}"


def parse_image_source(text: str) -> ImageSource:
    """Return the image that ``docker://HOST/REPO[:TAG][@DIGEST]`` or ``oci:DIR:TAG`` spells.

    As in containers-transports(5), a registry's image without tag and digest is the one with the tag ``latest``. A
    digest counts more than a tag beside it.

    Raises:
        InputError: it is malformed, or names no image.
    """
    name, at, digest = text.partition("@") if text.startswith("docker:") else (text, "", "")
    before, colon, tag = name.rpartition(":")
    if not colon or "/" in tag or before in {"docker", "oci"}:
        before, tag = name, ""
    location = parse_location(before, text)
    if isinstance(location, LayoutLocation) and not tag:
        raise InputError(text, "names no image of the layout", "write oci:DIR:TAG")
    if tag:
        check_tag(tag, text)
    if at:
        return ImageSource(location, tag or None, Digest.parse(digest, text))
    return ImageSource(location, tag or "latest")


_STAGED = "staged-"


def staged_tag(digest: Digest) -> str:
    """Return the tag under which the image *digest* is staged: made from it, so that it never names another.

    It is not ``sha256-<hex>``, which is where clients look for what refers to an image (OCI Distribution
    Specification 1.1, "Referrers Tag Schema").
    """
    return f"{_STAGED}{digest.hex}"


def check_staged(reference: Reference, digest: Digest) -> None:
    """Check that *reference* may point at *digest*: any may, but for a staged one, which names its own for good.

    Raises:
        InputError: it may not.
    """
    own = (reference.tag or "").removeprefix(_STAGED)
    if own != reference.tag and re.fullmatch(r"[0-9a-f]{64}", own) and own != digest.hex:
        raise InputError(str(reference), f"is the name of sha256:{own} for good", "give another tag")


def parse_location(text: str, where: str) -> Location:
    """Return the source that *text* spells, without a tag: tags are listed beside it.

    A name without a host is Docker Hub's, and one without a namespace is in ``library``, as
    containers-transports(5) has it: ``docker://alpine`` is ``docker://docker.io/library/alpine``.

    Raises:
        InputError: the transport is not known, or what follows it is malformed.
    """
    transport, colon, rest = text.partition(":")
    if transport == "docker" and rest.startswith("//"):
        return _parse_registry(rest[2:], text, where)
    if transport == "oci" and rest:
        return LayoutLocation(Path(rest))
    what = f"{text!r} names no image source" if colon else f"{text!r} has no transport"
    raise InputError(where, what, "write docker://HOST/REPOSITORY or oci:DIR")


def _parse_registry(name: str, text: str, where: str) -> RegistryLocation:
    host, slash, repository = name.partition("/")
    if not slash or not (set(host) & {".", ":"} or host == "localhost" or host != host.lower()):
        host, repository = DOCKER_HUB, name
    if host in (DOCKER_HUB, "index.docker.io") and "/" not in repository:
        host, repository = DOCKER_HUB, f"library/{repository}"
    if _HOST.fullmatch(host) is None:
        raise InputError(where, f"{host!r} in {text!r} is not a host", "write docker://HOST[:PORT]/REPOSITORY")
    if "@" in repository or ":" in repository:
        raise InputError(where, f"{text!r} has a tag or digest", "list the tags under 'tags'")
    if _REPOSITORY.fullmatch(repository) is None:
        raise InputError(
            where, f"{repository!r} in {text!r} is not a repository name", "write docker://HOST[:PORT]/REPOSITORY"
        )
    return RegistryLocation(host, repository)
