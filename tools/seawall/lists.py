"""The lists of a tree: the tags of each repository, and the catalog; what has to be written when they change.

The tree's file ``private`` names prefixes of repositories, one a line; the catalog leaves out what is at or below one.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from seawall.errors import TreeError
from seawall.listing import (
    END,
    FIRST_PAGE,
    PAGE_SIZES,
    Entries,
    ListingChange,
    Shape,
    change,
    difference,
    page_names,
    whole,
)
from seawall.tree import PRIVATE, Tree, relative_target

_NOTHING = Entries({}, {}, frozenset())


@dataclass(frozen=True, slots=True)
class ListChange:
    """What to do to one list."""

    folder: Path
    shape: Shape
    change: ListingChange


@dataclass(frozen=True, slots=True)
class StaleLists:
    """Lists that are not as the tree's tags and repositories make them."""

    repositories: tuple[str, ...] = ()
    """Whose tag lists."""
    catalog: bool = False

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self.repositories or self.catalog)


NONE_STALE = StaleLists()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something in a list that is not as its names make it."""

    path: str
    """Relative to the list's folder."""
    kind: str
    """``missing``, ``stale`` or ``foreign``."""


def tag_list_change(tree: Tree, repository: str, tags: Collection[str], *, anew: bool = False) -> ListChange | None:
    """Return what makes the tag list of *repository* say *tags*, or None where it does.

    Args:
        tree: the tree, whose links are the tags that the list has now.
        repository: the repository.
        tags: what the list is to say.
        anew: trust nothing that is there: a run was interrupted, or somebody wants to be sure.

    Raises:
        TreeError: the disk refuses to answer.
    """
    folder, shape = tree.tag_list_path(repository), Shape.of_tags(repository)
    wanted = sorted(tags)
    # An earlier version wrote one file, and no pages.
    if anew or not (folder / FIRST_PAGE).is_symlink():
        return _anew(folder, shape, wanted)
    listed = tree.targets(repository)[0]
    return ListChange(folder, shape, change(listed, wanted, shape)) if listed != wanted else None


def catalog_change(
    tree: Tree, come: Iterable[str] = (), gone: Collection[str] = (), *, anew: bool = False
) -> ListChange | None:
    """Return what makes the catalog name every repository of *tree* that has a tag list and is not private.

    Args:
        tree: the tree.
        come: repositories that get their first tag list, or have one.
        gone: repositories that are about to be removed.
        anew: trust nothing that is there.

    Raises:
        TreeError: the disk refuses to answer.
    """
    folder, shape = tree.catalog_path, Shape.of_repositories()
    private = private_prefixes(tree)
    public = {repository for repository in come if not is_private(repository, private)}
    current = not anew and _is_current(tree)
    if current and not gone and all((folder / shape.to(repository)).exists() for repository in public):
        return None
    listed = _catalog(tree) if current else None
    if listed is not None:
        wanted = sorted({*listed, *public}.difference(gone))
        return ListChange(folder, shape, change(listed, wanted, shape)) if wanted != list(listed) else None
    return _anew(folder, shape, sorted({*_listed_repositories(tree, private), *public}.difference(gone)))


def is_catalog_unfinished(tree: Tree) -> bool:
    """Return whether a run was killed while it wrote the catalog."""
    return tree.catalog_path.is_dir() and not (tree.catalog_path / PRIVATE).exists()


def stale_lists(tree: Tree, repositories: Iterable[str]) -> StaleLists:
    """Return which lists of *repositories* are an earlier version's, and whether the catalog has to be written anew.

    It is a glance, whatever the tree holds: :func:`find_stale_lists` reads all.
    """
    firsts = {repository: tree.tag_list_path(repository) / FIRST_PAGE for repository in repositories}
    unpaged = sorted(name for name, first in firsts.items() if first.exists() and not first.is_symlink())
    return StaleLists(tuple(unpaged), catalog=tree.root.exists() and not _is_current(tree))


def find_stale_lists(tree: Tree) -> StaleLists:
    """Return every list of *tree* that is not, file by file, as its tags and repositories make it.

    Raises:
        TreeError: the disk refuses to answer.
    """
    stale = []
    for repository in sorted(tree.repositories()):
        tags = tree.targets(repository)[0]
        has_list = (tree.tag_list_path(repository) / FIRST_PAGE).exists()
        if (tags or has_list) and any(tag_list_mismatches(tree, repository, tags)):
            stale.append(repository)
    return StaleLists(tuple(stale), catalog=not _is_current(tree) or any(catalog_mismatches(tree)))


def private_text(tree: Tree) -> str:
    """Return the text of the tree's file ``private``, empty where there is none."""
    path = tree.root / PRIVATE
    return tree.read(path).decode(errors="replace") if path.exists() else ""


def private_prefixes(tree: Tree) -> tuple[str, ...]:
    """Return the prefixes of the repositories that the catalog leaves out."""
    return parse_prefixes(private_text(tree))


def parse_prefixes(text: str) -> tuple[str, ...]:
    """Return the prefixes that the file ``private`` names with *text*."""
    return tuple(line.strip().strip("/") for line in text.splitlines() if line.strip())


def is_private(repository: str, prefixes: Iterable[str]) -> bool:
    """Return whether *repository* is at or below one of *prefixes*."""
    return any(repository == prefix or repository.startswith(f"{prefix}/") for prefix in prefixes)


def tag_list_mismatches(tree: Tree, repository: str, tags: Collection[str]) -> Iterator[Mismatch]:
    """Yield what in the tag list of *repository* is not as *tags* make it."""
    shape = Shape.of_tags(repository)
    return _mismatches(tree.tag_list_path(repository), shape, whole(sorted(tags), shape), set())


def catalog_mismatches(tree: Tree) -> Iterator[Mismatch]:
    """Yield what in the catalog is not as the repositories make it; nothing where there never was a catalog."""
    if not tree.catalog_path.exists():
        return
    shape = Shape.of_repositories()
    names = sorted(_listed_repositories(tree, private_prefixes(tree)))
    yield from _mismatches(tree.catalog_path, shape, whole(names, shape), {PRIVATE})


def stored_paths(folder: Path) -> Iterator[str]:
    """Yield the path, relative to *folder*, of all that is in a list's folder and is no folder itself."""
    for at, names, files in os.walk(folder):
        yield from (os.path.relpath(f"{at}/{name}", folder) for name in files)
        yield from (os.path.relpath(f"{at}/{name}", folder) for name in names if Path(at, name).is_symlink())


def _anew(folder: Path, shape: Shape, names: list[str]) -> ListChange:
    entries = whole(names, shape)
    todo = difference(_NOTHING, entries)
    stray = sorted({*stored_paths(folder)} - entries.paths - {PRIVATE})
    return ListChange(folder, shape, replace(todo, removed=tuple(stray)))


def _is_current(tree: Tree) -> bool:
    """Return whether the catalog was written whole, and leaves out what it is to."""
    path = tree.catalog_path / PRIVATE
    return path.exists() and tree.read(path).decode(errors="replace") == private_text(tree)


def _catalog(tree: Tree) -> tuple[str, ...] | None:
    """Return what the catalog names; None where it cannot be read to its end."""
    try:
        return _read(tree.catalog_path, Shape.of_repositories())
    except (OSError, ValueError):
        return None


def _read(folder: Path, shape: Shape) -> tuple[str, ...]:
    """Return the names of the list in *folder*, page after page."""
    names: list[str] = []
    size = PAGE_SIZES[-1]
    link = FIRST_PAGE
    while True:
        page = (folder / link).resolve(strict=True)
        names += page_names(page.read_text("utf-8"))
        if page == (folder / shape.to(END, size)).resolve():
            return tuple(names)
        link = shape.after(names[-1], size)


def _listed_repositories(tree: Tree, private: tuple[str, ...]) -> Iterator[str]:
    for repository in tree.repositories():
        if (tree.tag_list_path(repository) / FIRST_PAGE).exists() and not is_private(repository, private):
            yield repository


def _mismatches(folder: Path, shape: Shape, wanted: Entries, others: set[str]) -> Iterator[Mismatch]:
    found = {*stored_paths(folder)} - others
    yield from (Mismatch(path, "foreign") for path in sorted(found - wanted.paths))
    for path in sorted(wanted.paths):
        at = folder / path
        if path not in found:
            yield Mismatch(path, "missing")
        elif path in wanted.links:
            if not at.is_symlink() or at.readlink() != Path(relative_target(at, folder / wanted.links[path])):
                yield Mismatch(path, "stale")
        elif at.is_symlink() or _text(at) != (shape.page(wanted.pages[path]) if path in wanted.pages else ""):
            yield Mismatch(path, "stale")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise TreeError(str(path), f"cannot be read ({error.strerror})", "check the disk and the permissions") from None
