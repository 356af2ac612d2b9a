"""Digests (OCI Image Specification 1.1, descriptor.md, "Digests")."""

import hashlib
import re
from dataclasses import dataclass

from seawall.errors import InputError

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest; prints as ``sha256:<hex>``.

    SHA-256 is the one algorithm of the tree: it is the only one that every client must know and
    the only one that registries use in practice.
    """

    hex: str
    """64 lower-case hexadecimal digits."""

    @classmethod
    def parse(cls, text: str, where: str = "digest") -> "Digest":
        """Return the digest that *text* spells.

        Raises:
            InputError: *text* is not ``sha256:`` and 64 lower-case hexadecimal digits.
        """
        match = _DIGEST.fullmatch(text)
        if match is None:
            raise InputError(
                where,
                f"{text[:100]!r} is not a digest that can be served",
                "give sha256: and 64 lower-case hexadecimal digits",
            )
        return cls(match.group(1))

    @classmethod
    def of(cls, content: bytes) -> "Digest":
        """Return the digest of *content*."""
        return cls(hashlib.sha256(content).hexdigest())

    @property
    def mtime(self) -> int:
        """A modification time (seconds since the epoch) that is a function of the bytes.

        nginx makes its ETag of a file's time and size. With a time taken from the digest, two
        origins agree on it without talking, and two manifests of one size differ in it. It lies
        between 1970 and 2017, so that no tool complains of a time in the future.
        """
        return 1 + int(self.hex[:15], 16) % 1_500_000_000

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
