"""The list of what refers to a manifest (OCI Distribution Specification 1.1, "Listing Referrers").

Its bytes are a function of the set of manifests that it names: whoever makes it anew, in whatever order, comes to the
same.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seawall.digest import Digest
from seawall.errors import InputError, SourceError
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, Manifest, parse_manifest
from seawall.media_type import BY_MEDIA_TYPE, OCI_INDEX


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """What a list says of one manifest."""

    digest: Digest
    text: str
    """The descriptor, as JSON with sorted keys."""


@dataclass(frozen=True, slots=True)
class ReferrerList:
    """The list of what refers to one manifest, in one repository."""

    repository: str
    subject: Digest
    index: Manifest
    """The list itself: an OCI index."""


def row_of(manifest: Manifest) -> Row:
    """Return what a list says of *manifest*: its descriptor, with its annotations and the type of artifact.

    The type is the ``artifactType`` of the manifest; of an image that has none, the media type of its config ("Listing
    Referrers").
    """
    document = json.loads(manifest.content)
    row: dict[str, object] = {
        "mediaType": manifest.kind.media_type,
        "digest": str(manifest.digest),
        "size": len(manifest.content),
    }
    artifact_type = document.get("artifactType")
    if isinstance(artifact_type, str) and artifact_type:
        row["artifactType"] = artifact_type
    elif manifest.config is not None:
        row["artifactType"] = manifest.config.media_type
    annotations = document.get("annotations")
    if isinstance(annotations, dict) and annotations:
        row["annotations"] = {key: value for key, value in annotations.items() if isinstance(value, str)}
    return Row(manifest.digest, _text(row))


def make_list(repository: str, subject: Digest, rows: Iterable[Row]) -> ReferrerList:
    """Return the list of *rows*: in order of digest, each once.

    Raises:
        SourceError: it would be larger than a manifest may be.
    """
    named = {row.digest: row.text for row in rows}
    content = ",".join(named[digest] for digest in sorted(named))
    text = f'{{"schemaVersion":2,"mediaType":"{OCI_INDEX.media_type}","manifests":[{content}]}}'
    where = f"{repository}@{subject}"
    if len(text.encode()) > MANIFEST_MAX_BYTES:
        what = f"the list of the {len(named)} manifests that refer to it is larger than {MANIFEST_MAX_BYTES} bytes"
        raise SourceError(where, what, "leave referrers out, or carry fewer")
    return ReferrerList(repository, subject, parse_manifest(text.encode(), where))


def merged(
    there: Mapping[tuple[str, Digest], tuple[Row, ...]], more: Iterable[tuple[str, Manifest]]
) -> tuple[ReferrerList, ...]:
    """Return the lists that change where *more* manifests come into repositories; those without a subject are in none.

    Args:
        there: by repository and subject, what the lists name so far.
        more: repositories with manifests that they come to serve.

    Raises:
        SourceError: a list would be larger than a manifest may be.
    """
    new: dict[tuple[str, Digest], dict[Digest, Row]] = {}
    for repository, manifest in more:
        if manifest.subject is not None:
            new.setdefault((repository, manifest.subject), {})[manifest.digest] = row_of(manifest)
    return tuple(
        make_list(repository, subject, (*there.get((repository, subject), ()), *rows.values()))
        for (repository, subject), rows in sorted(new.items())
        if not set(rows.values()) <= set(there.get((repository, subject), ()))
    )


def newly_listed(
    lists: Iterable[ReferrerList], there: Mapping[tuple[str, Digest], tuple[Row, ...]]
) -> tuple[tuple[str, Digest], ...]:
    """Return what *lists* name that was not *there*, each with its repository."""
    return tuple(
        sorted(
            (one.repository, child.digest)
            for one in lists
            for child in one.index.children
            if child.digest not in {row.digest for row in there.get((one.repository, one.subject), ())}
        )
    )


def read_rows(content: bytes) -> tuple[Row, ...] | None:
    """Return what the list *content*, of a tree, names; None where it is not one that this module makes."""
    rows = _rows(content)
    if rows is None:
        return None
    try:
        return tuple(sorted(Row(Digest.parse(row["digest"]), _text(row)) for row in rows))
    except (InputError, LookupError, TypeError, ValueError):
        return None


def claimed(content: bytes, where: str) -> tuple[Descriptor, ...]:
    """Return what somebody else's list *content* names, as far as a tree can serve it.

    Digests of another algorithm and media types that are no manifest's are left out. Whether a manifest really refers
    to what the list is about, only the manifest itself can say.

    Raises:
        SourceError: it is no list; *where* names it.
    """
    rows = _rows(content) if len(content) <= MANIFEST_MAX_BYTES else None
    if rows is None:
        raise SourceError(where, "is not a list of referrers", "check that the source serves container images")
    found: dict[Digest, Descriptor] = {}
    for row in rows:
        descriptor = _descriptor(row)
        if descriptor is not None:
            found.setdefault(descriptor.digest, descriptor)
    return tuple(found.values())


def _descriptor(row: Any) -> Descriptor | None:
    try:
        kind, digest, size = BY_MEDIA_TYPE[row["mediaType"]], Digest.parse(row["digest"]), row["size"]
    except (InputError, LookupError, TypeError):
        return None
    return Descriptor(kind.media_type, digest, size) if isinstance(size, int) else None


def _rows(content: bytes) -> list[Any] | None:
    try:
        rows = json.loads(content)["manifests"] or []
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return rows if isinstance(rows, list) else None


def _text(row: Mapping[str, object]) -> str:
    return json.dumps(row, sort_keys=True, separators=(",", ":"))
