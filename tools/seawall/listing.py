"""Listings: sorted names, laid out in files so that a plain web server can page through them.

The tags of a repository and the repositories of a tree are listed with ``n`` and ``last`` (OCI Distribution
Specification 1.1, "Listing tags"). A server that only opens files has to find, from *last* alone, what comes after it,
and how far that goes. So each answer is a step from link to link, and where a link leads is part of the answer::

    list                  -> to/<end>:10000   the first page, which a server that knows no more than files serves
    after/<name>:<size>   -> to/<end>:<size>  the page of at most so many names that begins after <name>
    after/<name>:n        -> to/<next>:       the name after it
    after/<name>:l, :r    -> to/<child>:      a search tree, for a *last* that is not listed (any more)
    to/<name>:                                an empty file, there to be pointed at
    to/<end>:<size>                           a page in JSON; <end>, its last name, is where the following one begins

What comes before the first name is spelled as nothing at all, what comes after the last one as ``-``, which no name is.
Where names have slashes, one more stands before the colon: a name may then be another's beginning.

All of it is a function of the names alone, so two trees that list the same have the same files (and the same ETags),
however they came to it. Pages end where a name's hash says so, and the search tree is a treap with the same hash as the
priority. A name more or less therefore changes what is near it, and nothing else.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

START = ""
END = "-"
PAGE_SIZES = (100, 1000, 10_000)
"""Most names of a page, one kind of page each; a listing that fits is one page."""
FIRST_PAGE = "list"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a listing is of."""

    head: str
    """How a page begins, up to its first name."""
    separator: str = ""
    """What stands between a name and the colon."""

    @classmethod
    def of_tags(cls, repository: str) -> "Shape":
        """Return the shape of the tag list of *repository*."""
        return cls(f'{{"name":{json.dumps(repository)},"tags":[')

    @classmethod
    def of_repositories(cls) -> "Shape":
        """Return the shape of the catalog."""
        return cls('{"repositories":[', "/")

    def after(self, name: str, kind: str | int) -> str:
        """Return the path of a link that leads on from *name*."""
        return f"after/{name}{self.separator if name else ''}:{kind}"

    def to(self, name: str, size: int | None = None) -> str:
        """Return the path of what links to *name* lead to: its file or, with *size*, the page that it ends."""
        return f"to/{name}{self.separator}:{size or ''}"

    def page(self, names: Sequence[str]) -> str:
        """Return the text of a page of *names*."""
        return f"{self.head}{','.join(map(json.dumps, names))}]}}"


@dataclass(frozen=True, slots=True)
class Entries:
    """Files and links of a listing, by their paths in its folder."""

    links: dict[str, str]
    """Path of each link, and of what it leads to."""
    pages: dict[str, tuple[str, ...]]
    """Path of each page, and its names."""
    names: frozenset[str]
    """Paths of the files that are only there to be pointed at."""

    @property
    def paths(self) -> frozenset[str]:
        """All of them."""
        return frozenset({*self.links, *self.pages, *self.names})


@dataclass(frozen=True, slots=True)
class ListingChange:
    """What to do to a listing, in this order: at any moment a reader sees what is listed before and after, once."""

    unlinked: tuple[str, ...]
    """Links to pages that will begin elsewhere: until there are others, a reader goes from name to name."""
    names: tuple[str, ...]
    pages: dict[str, tuple[str, ...]]
    links: dict[str, str]
    """In the order in which they may appear: one that leads to a new name comes after those that lead on from there."""
    removed: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many files and links it writes or removes."""
        return len(self.unlinked) + len(self.names) + len(self.pages) + len(self.links) + len(self.removed)


def whole(names: Sequence[str], shape: Shape) -> Entries:
    """Return all of the listing of *names*, which are sorted and differ."""
    return _entries(names, shape, range(-1, len(names)), {size: [(0, len(names))] for size in PAGE_SIZES})


def change(old: Sequence[str], new: Sequence[str], shape: Shape) -> ListingChange:
    """Return what makes a whole listing of *old* one of *new*; both are sorted.

    It costs what the difference costs, and not what the listing has.
    """
    gone, come = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    touched = _touched(old, gone) | _touched(new, come)
    before = _entries(old, shape, _indexes(old, touched), _windows(old, gone, come, len(new)))
    after = _entries(new, shape, _indexes(new, touched), _windows(new, gone, come, len(old)))
    return difference(before, after)


def difference(before: Entries, after: Entries) -> ListingChange:
    """Return what leads from *before* to *after*."""
    new = {path: to for path, to in after.links.items() if path not in before.links}
    moved = {path: to for path, to in after.links.items() if path in before.links and before.links[path] != to}
    unlinked = {
        path
        for path, to in before.links.items()
        if to in before.pages and path != FIRST_PAGE and after.links.get(path) != to
    }
    return ListingChange(
        unlinked=tuple(sorted(unlinked)),
        names=tuple(sorted(after.names - before.names)),
        pages={path: names for path, names in after.pages.items() if before.pages.get(path) != names},
        links=_first_page_last({**new, **_by_rank(moved, top_down=bool(after.names - before.names))}),
        removed=tuple(sorted(before.paths - after.paths - unlinked)),
    )


def _by_rank(links: dict[str, str], *, top_down: bool) -> dict[str, str]:
    """Return *links* from the top of the search tree down, where names come, or else up.

    So a search that goes on meanwhile finds its way as it was before, or as it will be.
    """
    names = {path: path.removeprefix("after/").rpartition(":")[0].rstrip("/") for path in links}
    order = sorted(links, key=lambda path: (names[path] == START, _rank(names[path])), reverse=top_down)
    return {path: links[path] for path in order}


def _first_page_last(links: dict[str, str]) -> dict[str, str]:
    first = {FIRST_PAGE: links.pop(FIRST_PAGE)} if FIRST_PAGE in links else {}
    return {**links, **first}


def page_names(text: str) -> tuple[str, ...]:
    """Return the names of a page.

    Raises:
        ValueError: it is none.
    """
    document = json.loads(text)
    names = document.get("tags", document.get("repositories")) if isinstance(document, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("is no page of a list")
    return tuple(names)


def _entries(
    names: Sequence[str], shape: Shape, indexes: Iterable[int], windows: dict[int, list[tuple[int, int]]]
) -> Entries:
    """Return what a listing of *names* has for those at *indexes* (-1: the start), and for the pages in *windows*."""
    links = {shape.after(END, "n"): shape.to(END)}
    pages: dict[str, tuple[str, ...]] = {}
    files = {shape.to(END)}
    for index in indexes:
        name = names[index] if index >= 0 else START
        if index >= 0:
            files.add(shape.to(name))
        links[shape.after(name, "n")] = shape.to(names[index + 1] if index + 1 < len(names) else END)
        for side, child in (("l", _child(names, index, -1)), ("r", _child(names, index, 1))):
            if child is not None:
                links[shape.after(name, side)] = shape.to(names[child])
    largest = PAGE_SIZES[-1]
    for size, wanted in windows.items():
        for start, end in _pages(names, size, wanted):
            # A listing that is one page for several sizes is stored once.
            of = largest if start == 0 and end == len(names) else size
            page = shape.to(names[end - 1] if end < len(names) else END, of)
            pages[page] = tuple(names[start:end])
            links[shape.after(names[start - 1] if start else START, size)] = page
    first = links.get(shape.after(START, largest))
    if first is not None:
        # It comes last: a listing that has it as a link was once written whole.
        links[FIRST_PAGE] = first
    return Entries(links, pages, frozenset(files))


def _pages(names: Sequence[str], size: int, windows: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield from where to where the pages go that have to do with what is in *windows*."""
    following = 0
    for low, high in sorted(windows):
        last = min(high, max(len(names) - 1, 0))
        start = max(_segment_start(names, size, max(low, 0)), following)
        while start <= last:
            end = _segment_end(names, size, start)
            for at in range(start, max(end, 1), size):
                yield at, min(at + size, end)
            following = start = max(end, start + 1)


def _segment_start(names: Sequence[str], size: int, index: int) -> int:
    """Return where the names up to the next one that ends a page began; they are cut again where they are too many."""
    if len(names) <= size:
        return 0
    while index > 0 and not _ends_page(names[index - 1], size):
        index -= 1
    return index


def _segment_end(names: Sequence[str], size: int, start: int) -> int:
    if len(names) <= size:
        return len(names)
    for index in range(start, len(names)):
        if _ends_page(names[index], size):
            return index + 1
    return len(names)


def _ends_page(name: str, size: int) -> bool:
    # Two thirds of the limit on average: fuller pages would have to be cut more often, which touches their neighbours.
    return _priority(name) % (size * 2 // 3) == 0


def _windows(
    names: Sequence[str], gone: Sequence[str], come: Sequence[str], others: int
) -> dict[int, list[tuple[int, int]]]:
    """Return for each size of page which indexes of *names* have to do with *gone* and *come*."""
    near = []
    for name in (*gone, *come):
        at = bisect_left(names, name)
        # From the one before it to the one after it: both are there before and after, and so bound the same pages.
        near.append((max(at - 1, 0), at + (at < len(names) and names[at] == name)))
    everything = [(0, len(names))]
    return {
        # A listing that came to be one page, or ceased to, has all its pages changed; they are few.
        size: everything if (len(names) <= size) != (others <= size) or len(names) <= size else near
        for size in PAGE_SIZES
    }


def _touched(names: Sequence[str], changed: Sequence[str]) -> set[str]:
    """Return whose links change when those of *names* that are *changed* come or go."""
    touched = set(changed)
    for name in changed:
        index = bisect_left(names, name)
        touched.add(names[index - 1] if index else START)
        for step in (-1, 1):
            highest = (-1, "")
            at = index + step
            while 0 <= at < len(names):
                rank = _rank(names[at])
                if rank > highest:
                    touched.add(names[at])
                    highest = rank
                if rank > _rank(name):
                    break
                at += step
            if at < 0:
                touched.add(START)
    return touched


def _child(names: Sequence[str], index: int, step: int) -> int | None:
    """Return which name is the child, to the left or to the right, of the one at *index* (-1: the start)."""
    own = _rank(names[index]) if index >= 0 else None
    if own is None and step < 0:
        return None
    found, highest = None, (-1, "")
    at = index + step
    while 0 <= at < len(names):
        rank = _rank(names[at])
        if own is not None and rank > own:
            break
        if rank > highest:
            found, highest = at, rank
        at += step
    return found


def _indexes(names: Sequence[str], wanted: Iterable[str]) -> Iterator[int]:
    for name in sorted(wanted):
        index = bisect_left(names, name) if name != START else -1
        if index < 0 or (index < len(names) and names[index] == name):
            yield index


def _rank(name: str) -> tuple[int, str]:
    return _priority(name), name


@lru_cache(maxsize=1 << 17)
def _priority(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
