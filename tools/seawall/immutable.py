"""Immutable tags: what must never point at anything else, in a lock or in a tree."""

from collections.abc import Iterable, Mapping, Sequence

from seawall.digest import Digest
from seawall.errors import InputError
from seawall.lock import Lock
from seawall.reference import Reference
from seawall.release import TagMove


def check_lock(old: Lock | None, new: Lock, where: str) -> None:
    """Refuse a *new* lock that moves a tag which it or *old* says is immutable; *where* names the lock.

    A tag that is not carried any more is withdrawn, which is no move.

    Raises:
        InputError: it moves one; the error names the tag, the old and the new digest.
    """
    before = old.pins if old else {}
    after = new.pins
    moved = [
        (reference, before[reference].digest, after[reference].digest)
        for reference in sorted(before.keys() & after.keys(), key=str)
        if before[reference].digest != after[reference].digest
        and (before[reference].immutable or after[reference].immutable)
    ]
    if moved:
        raise _refused(f"{where}: {moved[0][0]}", moved[0][1], moved[0][2], len(moved) - 1)


def check_moves(moves: Sequence[TagMove], applied: Iterable[Lock], lock: Lock | None = None) -> None:
    """Refuse *moves* of tags that one of the *applied* locks, or the *lock* to apply, says are immutable.

    A tag that stands elsewhere than its applied lock has it (after a rollback, say) may be brought back there.

    Raises:
        InputError: one of them is immutable; the error names the tag, the old and the new digest.
    """
    if not moves:
        return
    pinned = _immutable(applied)
    wanted = _immutable([lock] if lock else [])
    refused: list[tuple[Reference, Digest, Digest]] = []
    for move in moves:
        if move.after is None or move.after == pinned.get(move.reference):
            continue
        before = pinned.get(move.reference) or (move.before if move.reference in wanted else None)
        if before is not None:
            refused.append((move.reference, before, move.after))
    if refused:
        raise _refused(str(refused[0][0]), refused[0][1], refused[0][2], len(refused) - 1)


def _immutable(locks: Iterable[Lock]) -> Mapping[Reference, Digest]:
    return {reference: pin.digest for lock in locks for reference, pin in lock.pins.items() if pin.immutable}


def _refused(where: str, before: Digest, after: Digest, others: int) -> InputError:
    more = f", nor may {others} more" if others else ""
    return InputError(
        where,
        f"is immutable and must not move from {before} to {after}{more}",
        "publish the new content under a new tag, or first take 'immutable' away, lock and sync",
    )
