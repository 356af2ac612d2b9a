"""Compressing layers so that the same bytes come out on every machine, and reading compressed ones.

Layers are cut into blocks of one fixed size, and each block is compressed on its own, by a codec that comes with its
library and whose output does not depend on the processor (docs/decisions). How many threads share the work, and how the
bytes come in, changes nothing.
"""

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Literal, cast, get_args

from seawall.errors import SourceError
from seawall.pieces import Pieces

if TYPE_CHECKING:
    from concurrent.futures import Future

Compression = Literal["gzip", "zstd"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
DEFAULT_COMPRESSION: Compression = "gzip"
"""Docker before 23 reads no zstd."""

_BLOCK_BYTES = {"gzip": 1024 * 1024, "zstd": 2 * 1024 * 1024}
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3
_ZSTD_WINDOW_MAX_BYTES = 128 * 1024 * 1024
"""What a decompressor may be asked to hold; zstd's own default for a stream."""
_PIECE_BYTES = 1024 * 1024
_WORKERS_MAX = 8
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def compression_of(head: bytes) -> Compression | None:
    """Return how a file is compressed that begins with *head* (at least 4 bytes), or None where it is not."""
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    return "zstd" if head.startswith(_ZSTD_MAGIC) else None


def compressed(pieces: Iterable[bytes], compression: Compression, workers: int | None = None) -> Iterator[bytes]:
    """Yield *pieces* compressed: a function of their bytes and of *compression*, and of nothing else.

    Args:
        pieces: what to compress, cut in any way.
        compression: the format; each block becomes a gzip member (RFC 1952, 2.2) or a Zstandard frame (RFC 8878, 3).
        workers: how many threads compress; as many as there are processors, and at most 8, if left out.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only those who compress wait for it

    workers = min(workers or len(os.sched_getaffinity(0)), _WORKERS_MAX)
    compress = _compressor(compression)
    under_way: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="compress") as pool:
        try:
            for block in _blocks(pieces, _BLOCK_BYTES[compression]):
                under_way.append(pool.submit(compress, block))
                # Bounded, so that a source which is faster than we are does not fill the memory.
                if len(under_way) > workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decompressed(pieces: Iterable[bytes], compression: Compression, where: str) -> Iterator[bytes]:
    """Yield what *pieces* hold, in pieces of a few MiB at most; *where* names them in errors.

    Raises:
        SourceError: they are malformed, or end early.
    """
    yield from (_gunzip if compression == "gzip" else _unzstd)(pieces, where)


def _compressor(compression: Compression) -> Callable[[bytes], bytes]:
    if compression == "gzip":
        import deflate  # noqa: PLC0415 - only those who compress wait for it

        return lambda block: bytes(deflate.gzip_compress(block, _GZIP_LEVEL))
    import zstandard  # noqa: PLC0415

    # A compressor is no thing to share among threads. All that could be chosen by size is given.
    return lambda block: zstandard.ZstdCompressor(_ZSTD_LEVEL, write_checksum=True, write_content_size=True).compress(
        block
    )


def _blocks(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield *pieces* cut anew, into blocks of *size* bytes; at least one, if only an empty one."""
    block = bytearray()
    cut = False
    for piece in pieces:
        block += piece
        while len(block) >= size:
            yield bytes(block[:size])
            del block[:size]
            cut = True
    if block or not cut:
        yield bytes(block)


def _gunzip(pieces: Iterable[bytes], where: str) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    begun = False
    for piece in pieces:
        rest = piece
        while rest:
            if member.eof:
                # Padding after the last member is no member.
                rest = rest.lstrip(b"\0") if not begun else rest
                if not rest:
                    break
                member = zlib.decompressobj(wbits=31)
            try:
                out = member.decompress(rest, _PIECE_BYTES)
            except zlib.error as error:
                raise SourceError(where, f"is damaged ({error})", "make it again") from None
            if out:
                yield out
            rest = member.unused_data if member.eof else member.unconsumed_tail
            begun = not member.eof
    if not member.eof:
        raise SourceError(where, "ends early", "make it again")


def _unzstd(pieces: Iterable[bytes], where: str) -> Iterator[bytes]:
    import zstandard  # noqa: PLC0415

    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX_BYTES).stream_reader(
        cast("IO[bytes]", Pieces(pieces)), read_across_frames=True
    )
    try:
        while piece := reader.read(_PIECE_BYTES):
            yield piece
    except zstandard.ZstdError as error:
        raise SourceError(where, f"is damaged ({error})", "make it again") from None
