"""Repositories, tags and references, and where images come from.

The grammar is that of the OCI Distribution Specification 1.1 ("Pulling manifests"); sources are
spelled as in containers-transports(5), those in another tree by their address there.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from seawall.digest import Digest
from seawall.errors import InputError
from seawall.place import Place, is_place, parse_place, shown, split_address

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
HUB_API = "registry-1.docker.io"
"""The host that answers for Docker Hub."""

_ARCHIVES = frozenset({"docker-archive", "oci-archive"})
_IMAGE_ID = re.compile(r"docker-daemon:sha256:[0-9a-f]{64}")


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


@dataclass(frozen=True, slots=True, order=True)
class LayoutArchiveLocation:
    """``oci-archive:FILE``: a tar archive of a directory in the OCI image layout."""

    path: Path

    def __str__(self) -> str:
        return f"oci-archive:{self.path}"


@dataclass(frozen=True, slots=True, order=True)
class DockerArchiveLocation:
    """``docker-archive:FILE[:NAME]``: the images NAME of what ``docker save`` wrote, or all of them."""

    path: Path
    name: str = ""
    """In full: ``docker.io/library/alpine``."""

    def __str__(self) -> str:
        return f"docker-archive:{self.path}:{self.name}" if self.name else f"docker-archive:{self.path}"


@dataclass(frozen=True, slots=True, order=True)
class EngineLocation:
    """``docker-daemon:NAME``: the images NAME of the local Docker engine."""

    name: str
    """In full: ``docker.io/library/alpine``; or the ID of an image: ``sha256:<hex>``."""

    @property
    def is_id(self) -> bool:
        """True where one image is named by its ID, and so has no tag."""
        return self.name.startswith("sha256:")

    def __str__(self) -> str:
        return f"docker-daemon:{self.name}"


@dataclass(frozen=True, slots=True)
class TreeLocation:
    """``PLACE/v2/REPOSITORY``: a repository of another tree."""

    place: Place
    repository: str

    def __str__(self) -> str:
        return f"{self.place}/v2/{self.repository}"


Location = (
    RegistryLocation | LayoutLocation | LayoutArchiveLocation | DockerArchiveLocation | EngineLocation | TreeLocation
)
FileLocation = LayoutLocation | LayoutArchiveLocation | DockerArchiveLocation
"""Locations whose path may be relative."""
MadeLocation = DockerArchiveLocation | EngineLocation
"""Locations that have no manifests: they are made of what is there."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image of a source, spelled as in containers-transports(5)."""

    location: Location
    tag: str | None
    digest: Digest | None = None

    def __str__(self) -> str:
        if self.digest:
            return f"{self.location}@{self.digest}"
        return f"{self.location}:{self.tag}" if self.tag else str(self.location)


def parse_image_source(text: str) -> ImageSource:
    """Return the image that a text spells.

    ``docker://HOST/REPO[:TAG][@DIGEST]``, ``docker-daemon:NAME[:TAG]``, ``docker-archive:FILE[:NAME:TAG]``,
    ``oci:DIR:TAG`` or ``oci-archive:FILE[:TAG]``, all as in containers-transports(5): a registry's or an engine's image
    without tag and digest is the one with the tag ``latest``, and an archive's without a name is the only one in it.
    An address in a tree, ``PLACE/v2/REPO[:TAG][@DIGEST]``, is read as a registry's. A digest counts more than a tag
    beside it.

    Raises:
        InputError: it is malformed, or names no image.
    """
    if is_place(text):
        return _parse_tree_image(text)
    transport = text.partition(":")[0]
    if transport in _ARCHIVES:
        return _parse_archived(text)
    if transport == "docker-daemon" and _IMAGE_ID.fullmatch(text):
        return ImageSource(parse_location(text, text), None)
    name, at, digest = text.partition("@") if transport == "docker" else (text, "", "")
    before, colon, tag = name.rpartition(":")
    if not colon or "/" in tag or before in {"docker", "docker-daemon", "oci"}:
        before, tag = name, ""
    location = parse_location(before, text)
    if isinstance(location, LayoutLocation) and not tag:
        raise InputError(text, "names no image of the layout", "write oci:DIR:TAG")
    if tag:
        check_tag(tag, text)
    if at:
        return ImageSource(location, tag or None, Digest.parse(digest, text))
    return ImageSource(location, tag or "latest")


def _parse_archived(text: str) -> ImageSource:
    transport, _, rest = text.partition(":")
    file, colon, name = rest.partition(":")
    if colon and not name:
        raise InputError(text, "ends in a colon", "leave it out, or name an image behind it")
    if transport == "oci-archive":
        tag = check_tag(name, text) if name else None
        return ImageSource(parse_location(f"{transport}:{file}", text), tag)
    name, tag = split_tag(name)
    location = parse_location(f"{transport}:{file}{colon}{name}", text)
    return ImageSource(location, check_tag(tag or "latest", text) if name else None)


def split_tag(text: str) -> tuple[str, str]:
    """Return the name and the tag, or ``""``, of an image as an engine shows it: ``host:5000/app:1.0``."""
    name, colon, tag = text.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (text, "")


def _parse_tree_image(text: str) -> ImageSource:
    where = shown(text)
    place, rest = split_address(text, where)
    name, at, digest = rest.partition("@")
    repository, colon, tag = name.partition(":")
    location = parse_location(f"{place.rstrip('/')}/v2/{repository}", where)
    if colon:
        check_tag(tag, where)
    if at:
        return ImageSource(location, tag or None, Digest.parse(digest, where))
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


_LIST = re.compile(r"sha256-([0-9a-f]{64})")
_ATTACHED = re.compile(r"sha256-([0-9a-f]{64})\.(?:sig|att|sbom)")
_ENDINGS = ("sig", "att", "sbom")


def list_tag(subject: Digest) -> str:
    """Return the tag of the list of what refers to *subject*.

    OCI Distribution Specification 1.1, "Referrers Tag Schema".
    """
    return f"sha256-{subject.hex}"


def listed_subject(tag: str) -> Digest | None:
    """Return what the list is about whose tag is *tag*; None for any other tag."""
    match = _LIST.fullmatch(tag)
    return Digest(match.group(1)) if match else None


def attached_tags(subject: Digest) -> tuple[str, ...]:
    """Return the tags under which cosign looks for what it attached to *subject*: signature, attestation, SBOM."""
    return tuple(f"sha256-{subject.hex}.{ending}" for ending in _ENDINGS)


def attached_subject(tag: str) -> Digest | None:
    """Return what cosign attached *tag* to; None for any other tag."""
    match = _ATTACHED.fullmatch(tag)
    return Digest(match.group(1)) if match else None


def check_own_tag(reference: Reference) -> None:
    """Check that the tag of *reference* is not one that a tree writes itself, for its lists of referrers.

    Raises:
        InputError: it is.
    """
    subject = listed_subject(reference.tag or "")
    if subject is not None:
        raise InputError(
            str(reference),
            f"is where a tree keeps its own list of what refers to {subject}",
            "leave the tag out; referrers are carried with the image that they are about",
        )


def parse_location(text: str, where: str) -> Location:
    """Return the source that *text* spells, without a tag: tags are listed beside it.

    A name without a host is Docker Hub's, and one without a namespace is in ``library``, as
    containers-transports(5) has it: ``docker://alpine`` is ``docker://docker.io/library/alpine``.

    Raises:
        InputError: the transport is not known, or what follows it is malformed.
    """
    if is_place(text):
        return _parse_tree(text, where)
    transport, colon, rest = text.partition(":")
    if transport == "docker" and rest.startswith("//"):
        return _parse_registry(rest[2:], text, where)
    if transport == "oci" and rest:
        return LayoutLocation(Path(rest))
    if transport == "docker-daemon" and rest:
        return EngineLocation(rest if _IMAGE_ID.fullmatch(text) else full_name(rest, where))
    if transport in _ARCHIVES and rest and not rest.startswith(":"):
        return _parse_archive(transport, rest, where)
    what = f"{text!r} names no image source" if colon else f"{text!r} has no transport"
    raise InputError(
        where,
        what,
        "write docker://HOST/REPOSITORY, docker-daemon:NAME, docker-archive:FILE[:NAME], oci:DIR, oci-archive:FILE or "
        "an address in a tree, PLACE/v2/REPOSITORY",
    )


def _parse_archive(transport: str, rest: str, where: str) -> Location:
    file, colon, name = rest.partition(":")
    if transport == "docker-archive":
        return DockerArchiveLocation(Path(file), full_name(name, where) if colon else "")
    if colon:
        raise InputError(where, f"{rest!r} has a tag", "list the tags under 'tags'")
    return LayoutArchiveLocation(Path(file))


def full_name(name: str, where: str) -> str:
    """Return the name in full, with host and namespace, of what an engine calls *name*: it says ``alpine``.

    Raises:
        InputError: it is no name, or has a tag or a digest.
    """
    location = _parse_registry(name, name, where)
    return f"{location.host}/{location.repository}"


def _parse_tree(text: str, where: str) -> TreeLocation:
    place, repository = split_address(text, where)
    if "@" in repository or ":" in repository:
        raise InputError(where, f"{shown(text)!r} has a tag or digest", "list the tags under 'tags'")
    return TreeLocation(parse_place(place, where), check_repository(repository, where))


def api_host(location: RegistryLocation) -> str:
    """Return the host, and port if one is given, that is asked for *location*."""
    return HUB_API if location.host in {DOCKER_HUB, "index.docker.io"} else location.host


def join_location(name: str, where: str) -> RegistryLocation:
    """Return the repository that ``HOST/REPOSITORY`` names, whose host is always its first part.

    Raises:
        InputError: it is malformed.
    """
    host, _, repository = name.partition("/")
    if _HOST.fullmatch(host) is None or _REPOSITORY.fullmatch(repository) is None:
        raise InputError(where, f"{name!r} is not HOST[:PORT]/REPOSITORY", "correct it")
    return RegistryLocation(host, repository)


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
