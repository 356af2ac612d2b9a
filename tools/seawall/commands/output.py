"""What several commands print in the same words."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seawall.digest import Digest
from seawall.quota import Quota

if TYPE_CHECKING:
    # Only their names are wanted, and not every command that prints has them to print.
    from seawall.describe import Description
    from seawall.lock import Move
    from seawall.release import TagMove


def print_json(document: Any) -> None:
    """Print *document* for machines."""
    click.echo(json.dumps(document, indent=1))


def tell(line: str) -> None:
    """Print *line* on stderr, beside the result."""
    click.echo(line, err=True)


def count(number: int, what: str) -> str:
    """Return *number* and *what*, in the plural where it is not one."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def short(digest: Digest | None) -> str:
    """Return as much of *digest* as a person needs to know it again."""
    return f"sha256:{digest.hex[:12]}" if digest else "(none)"


def text(digest: Digest | None) -> str | None:
    """Return *digest* as JSON has it."""
    return str(digest) if digest else None


def verdict(faults: int) -> str:
    """Return what so many *faults* of a check come to."""
    return "all holds" if not faults else count(faults, "fault")


def move_row(move: "Move") -> dict[str, Any]:
    """Return a difference of two locks as JSON has it."""
    return {"reference": str(move.reference), "before": text(move.old), "after": text(move.new)}


def tag_move_row(move: "TagMove") -> dict[str, Any]:
    """Return a move of a release as JSON has it."""
    return {"reference": str(move.reference), "before": text(move.before), "after": text(move.after)}


def tag_move_line(move: "TagMove") -> str:
    """Return a move of a release as a dry run prints it."""
    return f"move {move.reference} {short(move.before)} -> {short(move.after)}"


def unchanged_row(*, dry_run: bool) -> dict[str, Any]:
    """Return as JSON that a tree was filled with nothing, because it has all."""
    row: dict[str, Any] = {"changed": False, "dry_run": dry_run, "release": None, "requests": 0}
    return row | {"fetched": [], "stored": [], "moved": [], "referrers": []}


def unchanged_line(root: Path, tags: int, lock: str | None) -> str:
    """Return a line which says that the tree at *root* serves all *tags* already; *lock* names them, if one does."""
    return f"{root}: unchanged, serves {count(tags, 'tag')}" + (f" of the lock {lock!r}" if lock else "")


def print_quotas(quotas: dict[str, Quota]) -> None:
    """Print what registries say of their quotas of requests."""
    for host, quota in quotas.items():
        click.echo(f"{host}: {quota}")


def quota_rows(quotas: dict[str, Quota]) -> list[dict[str, Any]]:
    """Return quotas, by host, as JSON has them."""
    return [
        {"host": host, "remaining": q.remaining, "limit": q.limit, "window": q.window, "reset": q.reset}
        for host, q in quotas.items()
    ]


def description_row(description: "Description") -> dict[str, Any]:
    """Return a tag of a tree as JSON has it."""
    return {
        "reference": str(description.reference),
        "digest": str(description.manifest.digest),
        "kind": str(description.manifest.kind),
        "mediaType": description.manifest.kind.media_type,
        "platforms": list(description.platforms),
        "size": description.size,
    }
