"""Whether a tree has nothing to do for a lock: told from the bytes of both, without reading the lock as one.

Most syncs find nothing to do, and what reads, checks and plans takes longer to start than they take. A lock that is
byte for byte what was last applied was checked then.
"""

from pathlib import Path

import yaml

from seawall.lists import stale_lists
from seawall.tree import LOCKS, PENDING, RELEASES, Tree


def applied_name(lock_file: Path, tree: Tree) -> str | None:
    """Return the name under which *lock_file*, as it stands, is what *tree* had applied last; None where it is not."""
    try:
        size = lock_file.stat().st_size
        same = [path for path in (tree.root / LOCKS).glob("*.lock") if path.stat().st_size == size]
        content = lock_file.read_bytes() if same else b""
        return next((path.stem for path in same if path.read_bytes() == content), None)
    except OSError:
        # Whoever reads them next says what is wrong.
        return None


def settled_tags(name: str, tree: Tree) -> int | None:
    """Return how many tags the lock *name* has, where *tree* serves all of it as it was last applied.

    None where something is to be done, or may be: then a plan tells.

    Raises:
        TreeError: the disk refuses to answer.
    """
    if (tree.root / RELEASES / PENDING).exists():
        return None
    content = tree.read(tree.root / LOCKS / f"{name}.lock")
    # Every scalar as text, as it is read elsewhere too; this loader makes nothing else.
    images = yaml.load(content, Loader=yaml.CBaseLoader).get("images", [])  # noqa: S506
    tags: dict[tuple[str, str], str] = {}
    roots: set[tuple[str, str]] = set()
    for image in images:
        referrers = [row for rows in image.get("referrers", {}).values() for row in rows]
        roots |= {(image["name"], row["digest"]) for row in (*referrers, *image["tags"].values())}
        tags |= {(image["name"], row["tag"]): row["digest"] for row in referrers if "tag" in row}
        tags |= {(image["name"], tag): pin["digest"] for tag, pin in image["tags"].items()}
    for (repository, target), digest in (*tags.items(), *((root, root[1]) for root in roots)):
        stored = tree.linked_manifest(repository, target)
        if stored is None or str(stored.digest) != digest:
            return None
    return None if stale_lists(tree, {repository for repository, _ in tags}) else len(tags)
