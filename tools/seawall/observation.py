"""Observations: what a server answered when it was asked as clients ask, word for word and without a judgement."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from seawall.digest import Digest
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, Manifest
from seawall.reference import Reference

_GZIP_WINDOW = 16 + zlib.MAX_WBITS


@dataclass(frozen=True, slots=True)
class Hop:
    """A redirect that was followed, or would have been."""

    url: str
    """Who redirects, without query: a signature may stand in it."""
    location: str
    """The ``Location`` as it was sent, without query."""

    @property
    def is_relative(self) -> bool:
        """Whether the location names no host."""
        return not urlsplit(self.location).netloc

    @property
    def host(self) -> str:
        """The host that it leads to, with its port."""
        return urlsplit(self.location).netloc or urlsplit(self.url).netloc

    @property
    def loses_tls(self) -> bool:
        """Whether it leads from https to plain http."""
        return self.url.startswith("https:") and urlsplit(self.location).scheme == "http"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request, after its redirects."""

    request: str
    """Method and path, and what else makes it the request that it is."""
    status: int = 0
    """0: there was none."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Their names in lower case."""
    body: bytes = b""
    """As it was sent, encoded or not, and no more of it than was read."""
    hops: tuple[Hop, ...] = ()
    cut: str = ""
    """Why there was no answer, or not all of it."""

    @property
    def is_ok(self) -> bool:
        """Whether the status is 200 and the body arrived."""
        return self.status == 200 and not self.cut

    @property
    def left_home(self) -> bool:
        """Whether another host gave it."""
        return any(hop.host != urlsplit(hop.url).netloc for hop in self.hops)

    @property
    def content(self) -> bytes:
        """The body without its encoding, as far as that is gzip and what comes out is not larger than a manifest."""
        if self.header("content-encoding") != "gzip":
            return self.body
        try:
            return zlib.decompressobj(_GZIP_WINDOW).decompress(self.body, MANIFEST_MAX_BYTES + 1)
        except zlib.error:
            return self.body

    def header(self, name: str) -> str | None:
        """Return the header *name* (lower case), None where it is not there."""
        return self.headers.get(name)

    def __str__(self) -> str:
        """The answer in a few words."""
        return f"status {self.status}" if self.status else f"no answer ({self.cut})"


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What a TLS handshake told."""

    problem: str = ""
    """Why the certificate is not trusted; the rest is empty then."""
    version: str = ""
    protocol: str = ""
    """What was agreed upon by ALPN: ``h2``, ``http/1.1`` or nothing."""
    days_left: float = 0.0
    """Until the certificate expires."""


@dataclass(frozen=True, slots=True)
class Observations:
    """All answers of one examination. What depends on an answer that was no use was not asked, and is None."""

    url: str
    requests: int
    tls: TlsFacts | None = None
    """None with plain http, or where a proxy stands between."""
    asked_credentials: bool = False
    """Whether the server wanted credentials or a token, and took what it was given."""
    reference: Reference | None = None
    """The image that was asked for; None where nothing could be asked."""
    manifest: Manifest | None = None
    """What the tag names, as far as it can be read."""
    blob: Descriptor | None = None
    """The blob that was asked for: the smallest of the image."""
    namespace: str = ""
    """The ``ns`` that was asked with."""
    named_namespace: bool = False
    """Whether a person said that the server mirrors this namespace."""

    ping: Answer | None = None
    tag_head: Answer | None = None
    tag_get: Answer | None = None
    tag_lines: Answer | None = None
    """By tag, each type that is accepted in a line of its own."""
    tag_gzip: Answer | None = None
    """By tag, with ``Accept-Encoding: gzip``."""
    conditional: Answer | None = None
    """By tag, with the ETag of :attr:`tag_get` in ``If-None-Match``."""
    digest_head: Answer | None = None
    digest_get: Answer | None = None
    """By digest, only its own type being accepted."""
    child_get: Answer | None = None
    """By digest, the image that an index lists (the first one)."""
    child_digest: Digest | None = None
    blob_head: Answer | None = None
    blob_get: Answer | None = None
    blob_range: Answer | None = None
    """Bytes 1 to 2."""
    blob_ranges: Answer | None = None
    """Bytes 0 and 2 to 3, in one request."""
    blob_beyond: Answer | None = None
    """From the end on."""
    unknown_tag: Answer | None = None
    unknown_repository: Answer | None = None
    tags: Answer | None = None
    referrers: Answer | None = None
    mirrored: Answer | None = None
    """HEAD by tag, with ``?ns=``."""
