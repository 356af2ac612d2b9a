"""Mirrors: other places that have what a source has, asked before it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from seawall.digest import Digest
from seawall.errors import CredentialsError, NotFoundError, SeawallError, SourceError
from seawall.manifest import Descriptor
from seawall.source import Source

_Result = TypeVar("_Result")


@dataclass
class Mirror:
    """A mirror. Once it fails it is left alone; that it lacks something is no failure."""

    source: Source
    name: str
    tags: bool = True
    """Whether it may be asked what tags point at."""
    digests: bool = True
    """Whether it may be asked for content by its digest."""
    say: Callable[[str], object] = field(default=lambda _line: None)
    """Hears of every time that it is of no use."""
    is_out: bool = field(default=False, init=False)
    _mutex: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def fell(self, error: SeawallError) -> None:
        """Take note that *error* is what it answered, or what became of its answer."""
        if isinstance(error, NotFoundError):
            self.say(f"{self.name}: {error.what}; the next place is asked")
            return
        with self._mutex:
            was_out, self.is_out = self.is_out, True
        if not was_out:
            self.say(f"{self.name}: {error.what}; it is left alone from now on")


class MirroredSource:
    """A source with mirrors, which are asked in order, itself last. May be used by several threads.

    What comes by digest is checked by whoever asked, wherever it came from. The lists of all tags and of referrers are
    asked of the source alone: a mirror may have but some.
    """

    def __init__(self, own: Source, mirrors: Sequence[Mirror]) -> None:
        self._own = own
        self._mirrors = tuple(mirrors)

    @property
    def requests(self) -> int:
        """How many requests all of them have been asked so far."""
        return self._own.requests + sum(mirror.source.requests for mirror in self._mirrors)

    def resolve(self, tag: str) -> Descriptor:
        """As :meth:`~seawall.source.Source.resolve`, of the first place that knows *tag*."""
        return self._first(lambda source: source.resolve(tag), [mirror for mirror in self._mirrors if mirror.tags])

    def tags(self) -> tuple[str, ...]:
        """As :meth:`~seawall.source.Source.tags`, of the source itself."""
        return self._own.tags()

    def manifest(self, digest: Digest) -> tuple[bytes, str]:
        """As :meth:`~seawall.source.Source.manifest`, of the first place that has it."""
        return self._first(lambda source: source.manifest(digest), [one for one in self._mirrors if one.digests])

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """As :meth:`~seawall.source.Source.referrers`, of the source itself: a mirror may know but some."""
        return self._own.referrers(subject)

    def blob(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """As :meth:`~seawall.source.Source.blob`, of the first place that begins to send it.

        Where more matters than the beginning, ask :func:`places` one after the other.
        """

        def opened(source: Source) -> tuple[bytes, Iterator[bytes]]:
            pieces = source.blob(blob, start)
            return next(pieces, b""), pieces

        first, rest = self._first(opened, [mirror for mirror in self._mirrors if mirror.digests])
        if first:
            yield first
        yield from rest

    @property
    def for_content(self) -> tuple["Mirror | Source", ...]:
        """The mirrors that may be asked for content and have not failed, then the source itself."""
        return (*(mirror for mirror in self._mirrors if mirror.digests and not mirror.is_out), self._own)

    def _first(self, ask: Callable[[Source], _Result], mirrors: Sequence[Mirror]) -> _Result:
        for mirror in mirrors:
            if mirror.is_out:
                continue
            try:
                return ask(mirror.source)
            except (SourceError, CredentialsError) as error:
                mirror.fell(error)
        return ask(self._own)


def places(source: Source) -> tuple[Mirror | Source, ...]:
    """Return where to ask for a blob of *source*, in order; :meth:`Mirror.fell` wants to hear of failures."""
    return source.for_content if isinstance(source, MirroredSource) else (source,)
