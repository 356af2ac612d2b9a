"""Bytes that come in pieces, for those who read from a file."""

from collections.abc import Iterable


class Pieces:
    """Reads *pieces* one after the other, as if they were a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most *size*; none at the end."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._left = memoryview(piece)
        found, self._left = self._left[:size], self._left[size:]
        return bytes(found)
