"""Diagnosis: from what a server answered to its faults, and from those to what becomes of each client.

All functions here are pure: the same observations give the same verdicts.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from seawall.clients import BY_FAULT, Client, Effect, Harm
from seawall.digest import Digest
from seawall.media_type import BY_MEDIA_TYPE, OCI_INDEX
from seawall.observation import Answer, Observations

_DAYS_MIN = 7.0
_PAGE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """A requirement that the server does not meet, and the answer that shows it."""

    name: str
    """A fault of ``clients.json``."""
    request: str
    answer: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one client."""

    client: Client
    effects: tuple[tuple[Fault, Effect], ...]
    """What hurts it, the worst first."""

    @property
    def works(self) -> bool:
        """Whether it can pull."""
        return all(effect.harm is not Harm.BREAKS for _, effect in self.effects)

    @property
    def word(self) -> str:
        """``works``, ``limited`` or ``breaks``."""
        return "breaks" if not self.works else "limited" if self.effects else "works"


def judge(faults: Iterable[Fault], clients: Iterable[Client]) -> tuple[Verdict, ...]:
    """Return a verdict for each of *clients*."""
    faults = tuple(faults)
    return tuple(Verdict(client, _effects(faults, client)) for client in clients)


def _effects(faults: Iterable[Fault], client: Client) -> tuple[tuple[Fault, Effect], ...]:
    found = ((fault, BY_FAULT[fault.name].effect_on(client.name)) for fault in faults)
    hurting = [(fault, effect) for fault, effect in found if effect is not None]
    return tuple(sorted(hurting, key=lambda row: row[1].harm is not Harm.BREAKS))


def diagnose(seen: Observations) -> tuple[Fault, ...]:
    """Return every fault that *seen* shows, each once."""
    found = (*_tls(seen), *_ping(seen), *_manifests(seen), *_blob(seen), *_redirects(seen), *_discovery(seen))
    return tuple({fault.name: fault for fault in reversed(found)}.values())[::-1]


def _tls(seen: Observations) -> Iterator[Fault]:
    if seen.tls is None:
        return
    if seen.tls.problem:
        yield Fault("tls-untrusted", "TLS handshake", seen.tls.problem)
    elif seen.tls.days_left < _DAYS_MIN:
        yield Fault("tls-expires", "TLS handshake", f"the certificate expires in {seen.tls.days_left:.1f} days")


def _ping(seen: Observations) -> Iterator[Fault]:
    if seen.ping is not None and seen.ping.status not in {200, 401}:
        yield _status("ping", seen.ping)


def _manifests(seen: Observations) -> Iterator[Fault]:
    head, by_tag, by_digest = seen.tag_head, seen.tag_get, seen.digest_get
    if by_tag is None or head is None:
        return
    if not by_tag.is_ok:
        yield _status("manifest-by-tag", by_tag)
    if head.status == 405:
        yield _status("manifest-head-405", head)
    elif head.status != 200:
        yield _status("manifest-head", head)
    if not by_tag.is_ok:
        return
    yield from _own_headers(seen, by_tag)
    if head.status == 200:
        yield from _head(head, by_tag)
    if by_digest is not None:
        yield from _by_digest(seen, by_digest, Digest.of(by_tag.content))
    if seen.tag_lines is not None and (not seen.tag_lines.is_ok or seen.tag_lines.content != by_tag.content):
        same = "other bytes than with one line" if seen.tag_lines.is_ok else str(seen.tag_lines)
        yield Fault("accept-lines", seen.tag_lines.request, same)
    if seen.tag_gzip is not None and seen.tag_gzip.header("content-encoding"):
        encoding = seen.tag_gzip.header("content-encoding")
        yield Fault("manifest-encoded", seen.tag_gzip.request, f"Content-Encoding {encoding!r}")


def _own_headers(seen: Observations, by_tag: Answer) -> Iterator[Fault]:
    """Yield what is wrong with the headers of a manifest that was sent."""
    encoding = by_tag.header("content-encoding")
    if encoding:
        yield Fault("encoded-unasked", by_tag.request, f"Content-Encoding {encoding!r}, when none is accepted")
    told = by_tag.header("content-type")
    own = seen.manifest.kind.media_type if seen.manifest else ""
    media_type = (told or "").partition(";")[0].strip()
    if not told:
        yield Fault("type-missing", by_tag.request, "no Content-Type")
    elif media_type not in BY_MEDIA_TYPE or (own and media_type != own):
        yield Fault("type-wrong", by_tag.request, f"Content-Type {told!r}" + (f", not {own!r}" if own else ""))
    elif told != media_type:
        name = "type-parameters-of-index" if BY_MEDIA_TYPE[media_type].is_index else "type-parameters"
        yield Fault(name, by_tag.request, f"Content-Type {told!r}")
    if seen.manifest is None:
        yield Fault("manifest-by-tag", by_tag.request, "status 200, but the body is no manifest")
    yield from _digest_header(by_tag, by_tag)


def _head(head: Answer, by_tag: Answer) -> Iterator[Fault]:
    if head.header("content-type") != by_tag.header("content-type"):
        what = f"Content-Type {head.header('content-type')!r}, and {by_tag.header('content-type')!r} with GET"
        yield Fault("head-type", head.request, what)
    length = head.header("content-length")
    if not length:
        yield Fault("head-length-missing", head.request, "no Content-Length")
    elif length != str(len(by_tag.content)):
        yield Fault("head-length-wrong", head.request, f"Content-Length {length!r}, not {len(by_tag.content)}")
    yield from _digest_header(head, by_tag)


def _digest_header(answer: Answer, by_tag: Answer) -> Iterator[Fault]:
    told = answer.header("docker-content-digest")
    if not told:
        yield Fault("digest-missing", answer.request, "no Docker-Content-Digest")
    elif told != str(Digest.of(by_tag.content)):
        yield Fault("digest-wrong", answer.request, f"Docker-Content-Digest {told!r}, not {Digest.of(by_tag.content)}")


def _by_digest(seen: Observations, by_digest: Answer, digest: Digest) -> Iterator[Fault]:
    for answer, wanted in ((by_digest, digest), (seen.child_get, seen.child_digest)):
        if answer is None or wanted is None:
            continue
        if not answer.is_ok:
            yield _status("manifest-by-digest", answer)
        elif Digest.of(answer.content) != wanted:
            yield Fault("manifest-altered", answer.request, f"the body is {Digest.of(answer.content)}")
    if seen.digest_head is not None and seen.digest_head.status not in {200, 405} and by_digest.is_ok:
        yield _status("manifest-head", seen.digest_head)


def _blob(seen: Observations) -> Iterator[Fault]:
    blob, whole, head = seen.blob, seen.blob_get, seen.blob_head
    if blob is None or whole is None or head is None:
        return
    if not whole.is_ok:
        yield _status("blob", whole)
        return
    if whole.header("content-encoding"):
        yield Fault("blob-encoded", whole.request, f"Content-Encoding {whole.header('content-encoding')!r}")
    elif len(whole.body) > blob.size:
        yield Fault("blob-altered", whole.request, f"more than its {blob.size} bytes")
    elif len(whole.body) == blob.size and Digest.of(whole.body) != blob.digest:
        yield Fault("blob-altered", whole.request, f"the body is {Digest.of(whole.body)}")
    if head.status != 200:
        yield _status("blob-head", head)
    elif head.header("content-length") != str(blob.size):
        told = head.header("content-length")
        yield Fault("blob-head-length", head.request, f"Content-Length {told!r}, not {blob.size}")
    yield from _ranges(seen, whole, blob.size)


def _ranges(seen: Observations, whole: Answer, size: int) -> Iterator[Fault]:
    one, several, beyond = seen.blob_range, seen.blob_ranges, seen.blob_beyond
    if one is not None and one.status != 206:
        yield _status("range-ignored", one)
    elif one is not None:
        told = one.header("content-range")
        if told != f"bytes 1-2/{size}":
            yield Fault("range-wrong", one.request, f"Content-Range {told!r}, not 'bytes 1-2/{size}'")
        elif one.body != whole.content[1:3]:
            yield Fault("range-wrong", one.request, "other bytes than the whole blob has there")
    if several is not None and several.status == 206:
        told = several.header("content-type") or ""
        if not told.startswith("multipart/byteranges"):
            yield Fault("ranges-refused", several.request, f"status 206 with Content-Type {told!r}")
    elif several is not None and several.status not in {200, 400}:
        yield _status("ranges-refused", several)
    if beyond is not None and beyond.status not in {200, 416}:
        yield _status("range-beyond", beyond)


def _redirects(seen: Observations) -> Iterator[Fault]:
    for answer in _answers(seen):
        for hop in answer.hops:
            if hop.loses_tls:
                yield Fault("redirect-insecure", answer.request, f"redirects to {hop.location!r}")
        if answer.left_home and answer.status == 401:
            yield Fault("redirect-credentials", answer.request, f"{answer.hops[-1].host} wants credentials")


def _discovery(seen: Observations) -> Iterator[Fault]:
    unknown, nowhere = seen.unknown_tag, seen.unknown_repository
    if unknown is not None and unknown.status != 404:
        yield _status("unknown-manifest", unknown)
    if nowhere is not None and nowhere.status not in {401, 404}:
        yield _status("unknown-repository", nowhere)
    if unknown is not None and unknown.status >= 400 and not _has_error_code(unknown.body):
        told = unknown.header("content-type")
        yield Fault("error-body", unknown.request, f"{unknown} with a body of {told!r} that has no error code")
    if seen.tags is not None:
        yield from _tags(seen.tags, seen.reference.tag if seen.reference else None)
    if seen.referrers is not None:
        yield from _referrers(seen.referrers)
    if seen.mirrored is not None and seen.tag_head is not None and seen.tag_head.status == 200:
        yield from _namespace(seen, seen.mirrored)


def _tags(answer: Answer, tag: str | None) -> Iterator[Fault]:
    tags = _document(answer).get("tags")
    if not answer.is_ok:
        yield _status("tags-list", answer)
    elif not isinstance(tags, list):
        yield Fault("tags-list", answer.request, "status 200, but the body is no list of tags")
    elif tag is not None and tag not in tags and not answer.header("link"):
        yield Fault("tags-list", answer.request, f"does not name {tag!r}, which is there")


def _referrers(answer: Answer) -> Iterator[Fault]:
    if answer.status not in {200, 404}:
        yield _status("referrers", answer)
    elif answer.status == 200:
        told = answer.header("content-type")
        if told != OCI_INDEX.media_type:
            yield Fault("referrers-type", answer.request, f"Content-Type {told!r}")
        elif not isinstance(_document(answer).get("manifests"), list):
            yield Fault("referrers-type", answer.request, "status 200, but the body is no index")


def _namespace(seen: Observations, answer: Answer) -> Iterator[Fault]:
    if seen.named_namespace:
        if answer.status != 200:
            yield _status("ns-missing", answer)
    elif answer.status not in {200, 404}:
        yield _status("ns-refused", answer)


def facts(seen: Observations) -> dict[str, str]:
    """Return what is worth knowing of the server and is no fault, by name."""
    found: dict[str, str | None] = {}
    if seen.tls is not None and not seen.tls.problem:
        found["tls"] = f"{seen.tls.version}, certificate valid for {seen.tls.days_left:.0f} days"
        found["http/2"] = "offered" if seen.tls.protocol == "h2" else "not offered"
    found["credentials"] = "asked for, and accepted" if seen.asked_credentials else "not asked for"
    for name, answer in (("tag", seen.tag_get), ("digest", seen.digest_get), ("blob", seen.blob_get)):
        if answer is not None and answer.is_ok:
            found[f"cache-control of a {name}"] = (
                answer.header("cache-control") or "none: each cache decides for itself"
            )
    found["etag"] = _etag(seen)
    if seen.blob_ranges is not None:
        multipart = seen.blob_ranges.status == 206
        found["several ranges at once"] = "answered" if multipart else f"status {seen.blob_ranges.status}"
    if seen.referrers is not None:
        supported = seen.referrers.status == 200
        found["referrers"] = "listed" if supported else f"status {seen.referrers.status}"
    if seen.mirrored is not None:
        found[f"?ns={seen.namespace}"] = str(seen.mirrored)
    for answer in _answers(seen):
        for hop in answer.hops:
            how = "relative" if hop.is_relative else "absolute"
            kind = (
                "manifests" if "/manifests/" in answer.request else "blobs" if "/blobs/" in answer.request else "rest"
            )
            found[f"redirects of {kind}"] = f"to {hop.host}, {how}"
    return {name: value for name, value in found.items() if value}


def _etag(seen: Observations) -> str | None:
    if seen.tag_get is None or not seen.tag_get.is_ok:
        return None
    if seen.conditional is None:
        return "none: caches fetch a manifest again whenever they ask"
    return "answered with 304" if seen.conditional.status == 304 else f"sent, but not heeded ({seen.conditional})"


def _answers(seen: Observations) -> Iterator[Answer]:
    for name in seen.__slots__:
        value: Any = getattr(seen, name)
        if isinstance(value, Answer):
            yield value


def _status(name: str, answer: Answer) -> Fault:
    return Fault(
        name, answer.request, str(answer) + (f", and then cut ({answer.cut})" if answer.status and answer.cut else "")
    )


def _document(answer: Answer) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _has_error_code(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body[:_PAGE_BYTES])["errors"][0]["code"], str)
    except (ValueError, RecursionError, LookupError, TypeError):
        return False
