"""The settings of a container and of the one for its segments: who may read them, CORS, versions.

Of a list of readers only the entry for everybody is ours; others stay.
"""

from collections.abc import Iterator, Mapping

from seawall.errors import NotFoundError
from seawall.store_settings import CORS_HEADERS, CORS_SECONDS, Change, StoreSettings
from seawall.swift import Container

ANYBODY = ".r:*"
"""Everybody may read, and nobody list (Swift, "Container ACLs")."""
_CORS = "X-Container-Meta-Access-Control"


class ContainerSettings:
    """Reads and changes the settings of *container*, and who may read its segments.

    Errors of all methods: :class:`~seawall.errors.SeawallError` where the store does not answer, or refuses.
    """

    def __init__(self, container: Container) -> None:
        self._container = container

    def changes(self, wanted: StoreSettings) -> Iterator[Change]:
        """Yield what has to be done for both containers to be as they are *wanted*."""
        name = self._container.place.container
        cors = {
            f"{_CORS}-Allow-Origin": " ".join(wanted.origins),
            f"{_CORS}-Expose-Headers": " ".join(CORS_HEADERS) if wanted.origins else "",
            f"{_CORS}-Max-Age": str(CORS_SECONDS) if wanted.origins else "",
        }
        versions = {"X-Versions-Enabled": str(wanted.is_versioned).lower()}
        yield from self._compared(name, wanted, {**cors, **versions})
        # Clients read what is in it by way of the other.
        yield from self._compared(f"{name}_segments", wanted, {})

    def _compared(self, name: str, wanted: StoreSettings, fields: Mapping[str, str]) -> Iterator[Change]:
        found = self._found(name)
        if found is None:
            yield Change(f"make the container {name}", lambda: self._make(name))
        there = found or {}
        readers = [one for one in there.get("x-container-read", "").replace(" ", "").split(",") if one]
        if (ANYBODY in readers) != wanted.is_public:
            others = [one for one in readers if one != ANYBODY]
            given = {"X-Container-Read": ",".join([*others, *([ANYBODY] if wanted.is_public else [])])}
            what = f"let {'everybody' if wanted.is_public else 'not everybody'} read {name}"
            yield Change(what, lambda: self._tell(name, given))
        other = {
            field: value for field, value in fields.items() if _plain(there.get(field.lower(), "")) != _plain(value)
        }
        if other:
            what = f"set {', '.join(sorted(other))} of {name}"
            yield Change(what, lambda: self._tell(name, other))

    def _found(self, name: str) -> Mapping[str, str] | None:
        try:
            headers: Mapping[str, str] = self._container.ask(_where(name), lambda store: store.head_container(name))
        except NotFoundError:
            return None
        return headers

    def _make(self, name: str) -> None:
        self._container.ask(_where(name), lambda store: store.put_container(name))

    def _tell(self, name: str, fields: Mapping[str, str]) -> None:
        self._container.ask(_where(name), lambda store: store.post_container(name, dict(fields)))


def _where(name: str) -> str:
    return f"swift://{name}"


def _plain(value: str) -> str:
    """Return *value* so that what says nothing, and what says no, are one."""
    return "" if value.lower() == "false" else value.lower()
