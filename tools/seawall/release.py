"""Release records: what each change of a tree moved, so that it can be followed and undone."""

import json
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
    lock: str
    """The name of the lock that was applied."""
    moves: tuple[TagMove, ...]

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
        return replace(self, moves=kept)


def release_text(release: Release) -> str:
    """Return *release* as its file has it."""
    document = {
        "version": 1,
        "release": release.number,
        "time": release.time,
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
            lock=str(document["lock"]),
            moves=tuple(
                TagMove(row["repository"], row["tag"], _digest(row["before"]), _digest(row["after"]))
                for row in document["tags"]
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TreeError(where, f"is no release record ({error})", "restore it from a copy of the tree") from None


def _digest(value: Any) -> Digest | None:
    return None if value is None else Digest.parse(value)
