"""Release records: what each change of a tree moved, so that it can be followed and undone."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from seawall.digest import Digest
from seawall.errors import TreeError
from seawall.reference import Reference


@dataclass(frozen=True, slots=True)
class TagMove:
    """A tag that a release moved, added (no *before*) or removed (no *after*)."""

    repository: str
    tag: str
    before: Digest | None
    after: Digest | None

    @property
    def reference(self) -> Reference:
        """The tag as a reference."""
        return Reference(self.repository, self.tag)


@dataclass(frozen=True, slots=True)
class Release:
    """One change of a tree's tags, whole or not at all."""

    number: int
    """Counts up from 1."""
    time: str
    """When it was begun: ISO 8601, UTC, in seconds."""
    by: str
    """What made it: the name of the command."""
    lock: str
    """The name of the lock that was applied; empty where it was none."""
    moves: tuple[TagMove, ...]
    referrers: tuple[tuple[str, Digest], ...] = ()
    """Repositories with manifests that came into their lists of referrers."""

    @property
    def is_empty(self) -> bool:
        """True where it changed nothing."""
        return not (self.moves or self.referrers)

    def over(self, pending: "Release | None") -> "Release":
        """Return this release with an interrupted one, *pending*, taken into it.

        The interrupted run moved some of its tags or none; what counts as *before* is what was there before
        it began, so that undoing this release undoes both.
        """
        if pending is None:
            return self
        own = {move.reference: move for move in self.moves}
        merged = {move.reference: own.get(move.reference, move) for move in pending.moves}
        before = {move.reference: move.before for move in pending.moves}
        moves = (replace(move, before=before.get(move.reference, move.before)) for move in {**own, **merged}.values())
        kept = tuple(sorted((m for m in moves if m.before != m.after), key=lambda move: str(move.reference)))
        return replace(self, moves=kept, referrers=tuple(sorted({*self.referrers, *pending.referrers})))


def repositories_of(moves: Iterable[TagMove], pending: Release | None) -> tuple[str, ...]:
    """Return the repositories whose tags *moves* change, or an interrupted release did."""
    named = {move.repository for move in moves} | {move.repository for move in (pending.moves if pending else ())}
    return tuple(sorted(named))


def undoing(releases: Iterable[Release], tags: Mapping[Reference, Digest]) -> tuple[TagMove, ...]:
    """Return the moves that bring the tags back to how they were before *releases*.

    Args:
        releases: the releases to undo, in any order.
        tags: every tag that they name, with what it points at now; a missing tag is not in it.
    """
    before: dict[Reference, Digest | None] = {}
    for release in sorted(releases, key=lambda release: -release.number):
        before |= {move.reference: move.before for move in release.moves}
    return tuple(
        TagMove(reference.repository, str(reference.tag), tags.get(reference), digest)
        for reference, digest in sorted(before.items(), key=lambda item: str(item[0]))
        if tags.get(reference) != digest
    )


def standing(releases: Iterable[Release]) -> dict[Reference, tuple[int, Digest]]:
    """Return every tag that there is after *releases*, with the number of the one that moved it last, and where to."""
    last: dict[Reference, tuple[int, Digest | None]] = {}
    for release in sorted(releases, key=lambda release: release.number):
        last |= {move.reference: (release.number, move.after) for move in release.moves}
    return {reference: (number, digest) for reference, (number, digest) in last.items() if digest is not None}


def release_text(release: Release) -> str:
    """Return *release* as its file has it."""
    document: dict[str, object] = {
        "version": 1,
        "release": release.number,
        "time": release.time,
        "by": release.by,
        "lock": release.lock,
        "tags": [
            {
                "repository": move.repository,
                "tag": move.tag,
                "before": str(move.before) if move.before else None,
                "after": str(move.after) if move.after else None,
            }
            for move in release.moves
        ],
    }
    if release.referrers:
        document["referrers"] = [
            {"repository": repository, "digest": str(digest)} for repository, digest in release.referrers
        ]
    return json.dumps(document, indent=1) + "\n"


def parse_release(text: str, where: str) -> Release:
    """Return the release that *text* records; *where* names it in errors.

    Raises:
        TreeError: it is malformed.
    """
    try:
        document = json.loads(text)
        return Release(
            number=int(document["release"]),
            time=str(document["time"]),
            by=str(document["by"]),
            lock=str(document["lock"]),
            moves=tuple(
                TagMove(row["repository"], row["tag"], _digest(row["before"]), _digest(row["after"]))
                for row in document["tags"]
            ),
            referrers=tuple(
                (str(row["repository"]), Digest.parse(row["digest"])) for row in document.get("referrers", ())
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TreeError(where, f"is no release record ({error})", "restore it from a copy of the tree") from None


def _digest(value: Any) -> Digest | None:
    return None if value is None else Digest.parse(value)
