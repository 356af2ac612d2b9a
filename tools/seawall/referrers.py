"""Referrers: find at a source what refers to an image, so that it can be pinned with it.

Three conventions are known: the list of the registry, or of the tag that stands in for it (OCI Distribution
Specification 1.1, "Listing Referrers" and "Referrers Tag Schema"), and cosign's own tags. Lists are claims by whoever
made them. What counts is what a manifest says itself.
"""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from seawall.digest import Digest
from seawall.errors import NotFoundError, SourceError
from seawall.lock import Pin, Referrer
from seawall.manifest import Descriptor, Manifest, parse_manifest
from seawall.media_type import BY_MEDIA_TYPE
from seawall.reference import attached_tags
from seawall.source import Source
from seawall.subset import narrowed, parse_platforms

_DEPTH = 4
"""How deep referrers may refer to referrers; a signature of an SBOM is 2."""
_FOUND_MAX = 1000
"""Referrers that may come with one pinned manifest."""
_ASKED_MAX = 3000
"""Manifests whose referrers are asked for, of one pinned manifest."""
_FALSE_MAX = 1000
"""Claims that may turn out wrong, of one source in one run: each costs a request."""
_BELOW_MAX = 1000
"""Manifests that an index may list; some hundreds is the most seen in the field."""
_INDEX_DEPTH = 5
"""How deep indexes are read; what is deeper is refused by a sync."""


class Referring:
    """What refers to manifests of one repository of a source, each asked for once; may be used by several threads.

    Args:
        source: answers.
        where: names it in errors.
        known: what was pinned before, which is not asked for again.
    """

    def __init__(self, source: Source, where: str, known: Iterable[Referrer] = ()) -> None:
        self._source = source
        self._where = where
        self._mutex = threading.Lock()
        self._tags_mutex = threading.Lock()
        self._answers: dict[Digest, Future[tuple[Referrer, ...]]] = {}
        self._false = 0
        self._tags: frozenset[str] | None = None
        rows: dict[Digest, set[Referrer]] = {}
        for row in known:
            rows.setdefault(row.subject, set()).add(row)
        for subject, own in rows.items():
            self._answers[subject] = Future()
            self._answers[subject].set_result(tuple(sorted(own, key=_order)))

    def find(self, pin: Pin, platforms: Sequence[str] = ()) -> tuple[Referrer, ...]:
        """Return all that refers to what *pin* names, to what that lists, and to one of these referrers.

        What refers to the source's index where *pin* is a subset of it is left out: it would refer to nothing.

        Args:
            pin: a manifest.
            platforms: those that the pin has been narrowed to; all where none is given.

        Raises:
            SeawallError: the source does not answer, or not truthfully, or has no end of referrers.
        """
        left = self._below(self._pinned(pin, platforms))
        asked: set[Digest] = set()
        found: set[Referrer] = set()
        for _ in range(_DEPTH + 1):
            asked.update(left)
            rows: list[Referrer] = []
            for digest in left:
                rows += self._of(digest)
                found.update(rows)
                if len(found) > _FOUND_MAX:
                    raise self._endless(pin.digest, f"more than {_FOUND_MAX} referrers")
            below = (digest for row in rows for digest in self._below(_descriptor(row.pin)))
            left = [digest for digest in dict.fromkeys(below) if digest not in asked]
            if not left:
                return tuple(sorted(found, key=_order))
            if len(asked) + len(left) > _ASKED_MAX:
                raise self._endless(pin.digest, f"referrers that list more than {_ASKED_MAX} manifests")
        raise self._endless(pin.digest, f"referrers of referrers, more than {_DEPTH} deep")

    def _pinned(self, pin: Pin, platforms: Sequence[str]) -> Descriptor | Manifest:
        """Return what *pin* names; made anew where the source has it with more platforms."""
        if pin.source_digest is None:
            return _descriptor(pin)
        index = self._manifest(Descriptor(pin.media_type, pin.source_digest, 0))
        return narrowed(index, parse_platforms(platforms), self._source, f"{self._where}@{pin.source_digest}")

    def _below(self, top: Descriptor | Manifest) -> list[Digest]:
        """Return the digests of *top* and of all manifests below it; only indexes are read."""
        found = {top.digest: None}
        left: list[Descriptor | Manifest] = [top]
        for _ in range(_INDEX_DEPTH):
            children: list[Descriptor | Manifest] = []
            for index in left:
                manifest = index if isinstance(index, Manifest) else self._index(index)
                children += (child for child in manifest.children if child.digest not in found) if manifest else ()
                found |= {child.digest: None for child in children}
                if len(found) > _BELOW_MAX:
                    raise self._endless(top.digest, f"more than {_BELOW_MAX} manifests below it")
            left = children
        return list(found)

    def _index(self, descriptor: Descriptor) -> Manifest | None:
        return self._manifest(descriptor) if BY_MEDIA_TYPE[descriptor.media_type].is_index else None

    def _endless(self, digest: Digest, what: str) -> SourceError:
        return SourceError(f"{self._where}@{digest}", f"has {what}", "leave referrers out")

    def _of(self, subject: Digest) -> tuple[Referrer, ...]:
        """Return what refers to *subject*; whoever asks for it meanwhile waits for the one answer."""
        with self._mutex:
            answer = self._answers.get(subject)
            is_first = answer is None
            if answer is None:
                answer = self._answers[subject] = Future()
        if is_first:
            try:
                answer.set_result(self._ask(subject))
            except BaseException as error:
                answer.set_exception(error)
                raise
        return answer.result()

    def _ask(self, subject: Digest) -> tuple[Referrer, ...]:
        found = set()
        for claim in self._source.referrers(subject):
            manifest = self._claimed(claim)
            if manifest is not None and manifest.subject == subject:
                found.add(_referrer(manifest, subject))
            else:
                self._count_false(subject)
        for tag in sorted(self._named().intersection(attached_tags(subject))):
            found.add(_referrer(self._manifest(self._source.resolve(tag)), subject, tag))
        return tuple(sorted(found, key=_order))

    def _claimed(self, claim: Descriptor) -> Manifest | None:
        try:
            return self._manifest(claim)
        except NotFoundError:
            return None  # A list that clients write (the one behind a tag) may outlive what it names.

    def _count_false(self, subject: Digest) -> None:
        with self._mutex:
            self._false += 1
            if self._false > _FALSE_MAX:
                what = f"named {_FALSE_MAX} manifests as referrers that are none"
                raise SourceError(f"{self._where}@{subject}", what, "do not trust this source, or leave referrers out")

    def _named(self) -> frozenset[str]:
        """Return the tags of the source: one request for a thousand of them, and not three for each manifest."""
        with self._tags_mutex:
            if self._tags is None:
                self._tags = frozenset(self._source.tags())
            return self._tags

    def _manifest(self, named: Descriptor) -> Manifest:
        where = f"{self._where}@{named.digest}"
        content, media_type = self._source.manifest(named.digest)
        manifest = parse_manifest(content, where, media_type or named.media_type)
        if manifest.digest != named.digest:
            raise SourceError(where, f"source sent another manifest ({manifest.digest})", "do not trust this source")
        return manifest


def _referrer(manifest: Manifest, subject: Digest, tag: str | None = None) -> Referrer:
    media_type, size = manifest.kind.media_type, len(manifest.content)
    return Referrer(digest=manifest.digest, media_type=media_type, size=size, subject=subject, tag=tag)


def _descriptor(pin: Pin) -> Descriptor:
    return Descriptor(pin.media_type, pin.digest, pin.size)


def _order(row: Referrer) -> tuple[Digest, str, Digest]:
    return row.subject, row.tag or "", row.digest
