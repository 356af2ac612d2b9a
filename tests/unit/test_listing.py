"""Listings in files: what a server finds in them by opening paths, against a plain sorted list."""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.listing import END, PAGE_SIZES, START, Entries, ListingChange, Shape, change, difference, whole

TAGS = Shape.of_tags("lab/app")
CATALOG = Shape.of_repositories()

tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,5}", fullmatch=True)
repository = st.from_regex(r"[a-z0-9]{1,2}([._/-][a-z0-9]{1,2}){0,2}", fullmatch=True)
tags = st.sets(tag, max_size=60).map(sorted)
# Enough that there are pages, few enough to draw: numbers are all that matters then.
many = st.tuples(st.integers(0, 1300), st.sets(st.integers(0, 1300), max_size=30)).map(
    lambda drawn: sorted(f"v{number}" for number in set(range(drawn[0])) - drawn[1])
)


@dataclass
class Folder:
    """A listing on disk, as far as a server sees it."""

    shape: Shape
    entries: Entries

    def follow(self, name: str, kind: str | int) -> str | None:
        """Return the path that a link leads to."""
        found = self.entries.links.get(self.shape.after(name, kind))
        assert found is None or found in self.entries.paths, f"{found} is missing"
        return found

    def step(self, name: str, kind: str = "n") -> str | None:
        to = self.follow(name, kind)
        return None if to is None else re.fullmatch(r"to/(.*?)/?:", to)[1]  # type: ignore[index]

    def page(self, last: str, size: int) -> tuple[list[str], str] | None:
        """Return the names of the page after *last*, and its end."""
        to = self.follow(last, size)
        if to is None:
            return None
        text = self.shape.page(self.entries.pages[to])
        document = json.loads(text)
        end = re.fullmatch(r"to/(.*?)/?:[0-9]+", to)[1]  # type: ignore[index]
        return document["tags" if self.shape is TAGS else "repositories"], end

    def search(self, last: str) -> str:
        """Return what comes after *last*, which is not listed: down the search tree, as nginx goes."""
        at = START
        while (child := self.step(at, "l" if at > last else "r")) is not None:
            at = child
        return at if at > last else str(self.step(at))


def applied(entries: Entries, todo: ListingChange) -> Entries:
    """Return what *entries* are after *todo*."""
    gone = {*todo.removed, *todo.unlinked} - todo.links.keys()
    pages = {**entries.pages, **todo.pages}
    links = {**entries.links, **todo.links}
    return Entries(
        {path: to for path, to in links.items() if path not in gone},
        {path: names for path, names in pages.items() if path not in gone},
        frozenset({*entries.names, *todo.names} - gone),
    )


@given(names=tags | many)
def test_every_page_follows_the_one_before_it(names: Sequence[str]) -> None:
    folder = Folder(TAGS, whole(names, TAGS))
    for size in PAGE_SIZES:
        seen: list[str] = []
        last = START
        while last != END:
            page = folder.page(last, size)
            assert page is not None
            assert len(page[0]) <= size
            assert page[0] or not names
            seen += page[0]
            last = page[1]
        assert seen == list(names)
    assert folder.entries.links["list"] == folder.entries.links[TAGS.after(START, PAGE_SIZES[-1])]


@given(names=tags)
def test_one_name_leads_to_the_next(names: Sequence[str]) -> None:
    folder = Folder(TAGS, whole(names, TAGS))
    seen, at = [], folder.step(START)
    while at != END:
        seen.append(at)
        at = folder.step(str(at))
    assert seen == list(names)
    assert folder.step(END) == END


@given(names=st.sets(repository, max_size=60).map(sorted), last=repository)
def test_what_comes_after_a_name_that_is_not_listed_is_found(names: Sequence[str], last: str) -> None:
    folder = Folder(CATALOG, whole(names, CATALOG))
    if last not in names:
        assert folder.search(last) == (*names, END)[bisect_right(names, last)]


def test_a_change_of_neighbours_reaches_the_page_behind_them() -> None:
    old = sorted(f"v{number}" for number in range(103))
    new = [name for name in old if name not in {"v0", "v1"}]
    assert applied(whole(old, TAGS), change(old, new, TAGS)) == whole(new, TAGS)


@given(old=tags, new=tags)
def test_a_change_leads_to_what_would_have_been_written_at_once(old: Sequence[str], new: Sequence[str]) -> None:
    assert applied(whole(old, TAGS), change(old, new, TAGS)) == whole(new, TAGS)


@settings(max_examples=100)
@given(old=many, gone=st.sets(st.integers(0, 1300), max_size=8), come=st.sets(st.integers(0, 1400), max_size=8))
def test_a_change_of_a_long_list_does_too(old: Sequence[str], gone: set[int], come: set[int]) -> None:
    new = sorted({*old, *(f"v{number}" for number in come)} - {f"v{number}" for number in gone})
    assert applied(whole(old, TAGS), change(old, new, TAGS)) == whole(new, TAGS)


def read(folder: Folder, size: int) -> list[str]:
    """Return all names, read as nginx reads them: page after page, and name after name where no page begins."""
    seen: list[str] = []
    last = START
    while True:
        page = folder.page(last, size)
        if page is None:
            last = str(folder.step(last))
            if last == END:
                return seen
            seen.append(last)
        else:
            seen += page[0]
            last = page[1]
            if last == END:
                return seen


@given(old=tags | many, new=tags | many)
@settings(max_examples=25)
def test_at_any_moment_of_a_change_each_name_is_read_once(old: Sequence[str], new: Sequence[str]) -> None:
    todo = change(old, new, TAGS)
    entries = whole(old, TAGS)
    nothing = ListingChange((), (), {}, {}, ())
    stages = (
        replace(nothing, unlinked=todo.unlinked),
        replace(nothing, names=todo.names),
        *(replace(nothing, pages={path: names}) for path, names in todo.pages.items()),
        *(replace(nothing, links={path: to}) for path, to in todo.links.items()),
        replace(nothing, removed=todo.removed),
    )
    # To look at each moment of a long change would take too long.
    shown = {*range(0, len(stages), 1 + len(stages) // 20), len(stages) - 1}
    for number, stage in enumerate(stages):
        entries = applied(entries, stage)
        for size in PAGE_SIZES if number in shown else ():
            seen = read(Folder(TAGS, entries), size)
            assert seen == sorted(set(seen))
            assert set(old) & set(new) <= set(seen) <= {*old, *new}
    assert seen == list(new)


@pytest.mark.parametrize("position", [0.0, 0.3, 0.6, 1.0])
def test_one_tag_more_in_ten_thousand_writes_a_handful_of_files(position: float) -> None:
    old = [f"release-{number:05}" for number in range(0, 20_000, 2)]
    sizes = []
    for number in range(20):
        added = f"release-{int(position * 19_900) + 2 * number + 1:05}" if position else f"before-{number}"
        todo = change(old, sorted([*old, added]), TAGS)
        assert len(todo.pages) <= 12
        sizes.append(todo.size)
    assert sum(sizes) / len(sizes) < 25


def test_the_same_list_is_nothing_to_change() -> None:
    names = [f"v{number}" for number in range(500)]
    assert change(names, names, TAGS).size == 0
    assert difference(whole(names, TAGS), whole(names, TAGS)).size == 0
