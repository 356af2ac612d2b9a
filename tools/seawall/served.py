"""What a tree or a server has behind tags now: references and digests, to compare with a lock."""

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from seawall.digest import Digest
from seawall.errors import InputError, NotFoundError
from seawall.place import Place
from seawall.reference import Location, Reference, RegistryLocation, TreeLocation
from seawall.server_url import check_url
from seawall.sources import OpenSource
from seawall.tree import Tree


def tags_of_tree(tree: Tree, named: Collection[Reference], *, others: bool) -> dict[Reference, Digest]:
    """Return what is *named*, tags and digests, in *tree*, and with *others* all the other tags too.

    A tag that is missing, or whose link is not the tree's, is not in it.

    Raises:
        TreeError: the tree cannot be read.
    """
    if others:
        return tree.digests((*named, *(reference for reference, _ in tree.references())))
    return tree.digests(named)


def tags_of_server(
    url: str, named: Collection[Reference], open_source: OpenSource, jobs: int
) -> dict[Reference, Digest]:
    """Return what is *named* on the server at *url*, by a HEAD request each; what is missing there is not in it.

    Args:
        url: the server's root.
        named: tags and digests.
        open_source: opens the server's repositories.
        jobs: tags that are asked for at a time.

    Raises:
        InputError: it is no URL of a server, or has a path.
        SourceError: the server does not answer, or not truthfully.
        CredentialsError: it refuses access.
    """
    parts = urlsplit(check_url(url))
    if parts.path:
        raise InputError(url, "has a path, and /v2/ is asked at a server's root", "write http://HOST[:PORT]")
    return _ask(named, lambda repository: RegistryLocation(parts.netloc, repository), open_source, jobs, parts.scheme)


def tags_of_place(
    place: Place, named: Collection[Reference], open_source: OpenSource, jobs: int
) -> dict[Reference, Digest]:
    """Return what the tags *named* point at in the tree at *place*, each read; a missing one is not in it.

    Args:
        place: where the tree lies.
        named: the tags.
        open_source: opens the tree's repositories.
        jobs: tags that are asked for at a time.

    Raises:
        SourceError: the place does not answer, or not truthfully.
        CredentialsError: it refuses access.
    """
    return _ask(named, lambda repository: TreeLocation(place, repository), open_source, jobs)


def _ask(
    named: Collection[Reference],
    location_of: Callable[[str], Location],
    open_source: OpenSource,
    jobs: int,
    scheme: str = "",
) -> dict[Reference, Digest]:
    sources = {
        repository: open_source(location_of(repository), scheme == "http")
        for repository in sorted({reference.repository for reference in named})
    }

    def ask(reference: Reference) -> Digest | None:
        try:
            return sources[reference.repository].resolve(reference.target).digest
        except NotFoundError:
            return None

    with ThreadPoolExecutor(jobs, thread_name_prefix="ask") as pool:
        return {
            reference: digest
            for reference, digest in zip(named, pool.map(ask, named), strict=True)
            if digest is not None
        }
