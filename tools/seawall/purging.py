"""What to purge after a release: every path whose answer is, or was for a moment, another one.

What a digest names never changes. What does are tags, lists of referrers, tag lists and the catalog; of lists, the
pages that differ. It follows from the release records and the tree's tags alone, so nothing is asked of anybody.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote

from seawall.errors import InputError
from seawall.listing import END, FIRST_PAGE, PAGE_SIZES, START, Shape, whole
from seawall.lists import is_private, private_prefixes
from seawall.reference import list_tag
from seawall.release import Release
from seawall.tree import CATALOG_LINK, V2, Tree

DEFAULT_PAGE_SIZES = (100, 1000)
"""What clients that say ``n`` when they list tags are known to say."""
DEFAULT_REGISTRY = "docker.io"
"""The registry that Docker means where it says none (``origin_default_registry``)."""

_Answers = dict[str, tuple[tuple[str, ...], str]]
"""By query, the names of a page and where it leads on."""


@dataclass(frozen=True, slots=True)
class _State:
    """The tags of the repositories that releases name, at one moment."""

    tags: Mapping[str, frozenset[str]]


def changed_paths(
    tree: Tree,
    since: int,
    page_sizes: Sequence[int] = DEFAULT_PAGE_SIZES,
    mirrored: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the paths, with their queries, that a cache may answer differently than *tree* does after release *since*.

    Args:
        tree: the tree, whose last releases are meant.
        since: the number of the last release that caches know.
        page_sizes: values of ``n`` with which clients list tags, beside none at all.
        mirrored: registries whose images clients ask for as of a mirror, by bare names and with ``?ns=``.

    Raises:
        InputError: the tree has no release *since*.
        TreeError: the tree cannot be read.
    """
    last = tree.last_release()
    if since > last:
        raise InputError(str(tree.root), f"has no release {since}", f"give a number from 0 to {last}")
    wrong = [size for size in page_sizes if size < PAGE_SIZES[0]]
    if wrong:
        raise InputError("--page-size", f"{wrong[0]} has no pages", f"give a number from {PAGE_SIZES[0]} on")
    releases = [tree.read_release(number) for number in tree.releases() if number > since]
    states = _states(tree, releases)
    found: set[str] = set()
    for release in releases:
        found |= {f"{move.repository}/manifests/{move.tag}" for move in release.moves}
        for repository, digest in release.referrers:
            stored = tree.stored_manifest(digest)
            subject = tree.read_manifest(stored).subject if stored else None
            if subject is not None:
                found |= {f"{repository}/referrers/{subject}", f"{repository}/manifests/{list_tag(subject)}"}
    for repository in states[0].tags:
        lists = [sorted(state.tags[repository]) for state in states]
        shape = Shape.of_tags(repository)
        found |= {f"{repository}/tags/list{query}" for query in _differing(lists, shape, page_sizes)}
    catalog = {f"{CATALOG_LINK}{query}" for query in _catalog(tree, states, page_sizes)}
    aliases = {alias for path in found for alias in _aliases(path, mirrored)}
    return tuple(f"/{V2}/{path}" for path in sorted({*found, *catalog, *aliases}))


def _states(tree: Tree, releases: Sequence[Release]) -> list[_State]:
    """Return the tags after each of *releases*, newest first, and before the first of them."""
    named = {move.repository for release in releases for move in release.moves}
    tags = {repository: frozenset(tree.targets(repository)[0]) for repository in sorted(named)}
    states = [_State(tags)]
    for release in reversed(releases):
        before = {repository: set(found) for repository, found in states[-1].tags.items()}
        for move in release.moves:
            (before[move.repository].discard if move.before is None else before[move.repository].add)(move.tag)
        states.append(_State({repository: frozenset(found) for repository, found in before.items()}))
    return states


def _catalog(tree: Tree, states: Sequence[_State], page_sizes: Sequence[int]) -> set[str]:
    """Return the queries of the catalog that differ; a repository that lost its last tag stays in it."""
    private = private_prefixes(tree)
    came = [
        {
            repository
            for repository, tags in after.tags.items()
            if tags and not before.tags[repository] and not is_private(repository, private)
        }
        for after, before in pairwise(states)
    ]
    if not any(came):
        return set()
    names = {
        name
        for name in tree.repositories()
        if (tree.tag_list_path(name) / FIRST_PAGE).exists() and not is_private(name, private)
    }
    catalogs = [sorted(names)]
    for repositories in came:
        names = names - repositories
        catalogs.append(sorted(names))
    return _differing(catalogs, Shape.of_repositories(), page_sizes)


def _differing(lists: Sequence[list[str]], shape: Shape, page_sizes: Sequence[int]) -> set[str]:
    """Return the queries whose pages are not the same for all of *lists*."""
    # Most releases move tags, and leave the list as it was.
    several = dict.fromkeys(map(tuple, lists))
    if len(several) == 1:
        return set()
    answers = [_answers(list(names), shape, page_sizes) for names in several]
    queries = {query for one in answers for query in one}
    return {query for query in queries if any(one.get(query) != answers[0].get(query) for one in answers)}


def _answers(names: list[str], shape: Shape, page_sizes: Sequence[int]) -> _Answers:
    """Return what an origin answers who goes through a list from its beginning, by the query of each page."""
    entries = whole(names, shape)
    found: _Answers = {}
    for asked in (None, *page_sizes):
        sizes = [size for size in PAGE_SIZES if asked is None or size <= asked]
        last = START
        while True:
            said = ([f"n={asked}"] if asked else []) + ([f"last={last}"] if last else [])
            links = [link for size in sizes if (link := shape.after(last, size)) in entries.links]
            page = entries.links[links[-1]]
            listed = entries.pages[page]
            is_end = page in {shape.to(END, size) for size in PAGE_SIZES}
            found[f"?{'&'.join(said)}" if said else ""] = (listed, "" if is_end else listed[-1])
            if is_end:
                break
            last = listed[-1]
    return found


def _aliases(path: str, mirrored: Iterable[str]) -> Iterator[str]:
    """Yield how a client of a mirror asks for *path*."""
    for registry in mirrored:
        bare = path.removeprefix(f"{registry}/")
        if bare != path:
            yield f"{bare}{'&' if '?' in bare else '?'}ns={quote(registry, safe='')}"
            if registry == DEFAULT_REGISTRY:
                yield bare
