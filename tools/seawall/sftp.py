"""The reading half of SFTP, version 3 (draft-ietf-secsh-filexfer-02), which is what OpenSSH speaks.

It runs over any pair of pipes, that of an ``ssh -s HOST sftp`` for one: the connection is OpenSSH's, and the protocol
is a dozen packets. Any number of threads may share one session; answers are told apart by their ids.
"""

import io
import queue
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

READ_TIMEOUT = 60.0
"""Seconds that the other side may be silent while an answer is due."""

_VERSION = 3
_INIT, _VERSION_IS, _OPEN, _CLOSE, _READ, _FSTAT, _OPENDIR, _READDIR, _STAT, _READLINK = (
    1,
    2,
    3,
    4,
    5,
    8,
    11,
    12,
    17,
    19,
)
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS = 101, 102, 103, 104, 105
_FOR_READING = 1
_HAS_SIZE, _HAS_OWNER, _HAS_PERMISSIONS, _HAS_TIMES, _HAS_MORE = 1, 2, 4, 8, 0x80000000
_END, _NO_SUCH_FILE, _PERMISSION_DENIED = 1, 2, 3
_PACKET_MAX = 256 * 1024 + 1024
_READ_BYTES = 64 * 1024
"""Bytes that are asked for at once: what every OpenSSH gives in one answer."""
_IN_FLIGHT = 32
"""Reads of one file that are under way at a time: 2 MiB, enough for 200 Mbit/s over 80 ms."""
_REGULAR, _KIND = 0o100000, 0o170000


class SftpError(Exception):
    """The session is of no use any more: it ended, fell silent, or is no SFTP."""


class MissingError(Exception):
    """The other side has no such file."""


class RefusedError(Exception):
    """The other side refuses, in its own words."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is said of a file."""

    size: int
    """Bytes."""
    is_file: bool


class SftpSession:
    """A session over *to* and *from_*, which the caller opened and will close.

    Errors of all methods: :class:`SftpError`, :class:`MissingError` and :class:`RefusedError`.
    """

    def __init__(self, to: IO[bytes], from_: IO[bytes], timeout: float = READ_TIMEOUT) -> None:
        self._to = to
        self._from = from_
        self._timeout = timeout
        self._heard = time.monotonic()
        self._mutex = threading.Lock()
        self._due: dict[int, queue.SimpleQueue[tuple[int, bytes] | None]] = {}
        self._hello: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._next = 0
        self._ended = ""
        self.requests = 0
        """How many packets were sent that want an answer."""
        threading.Thread(target=self._listen, name="sftp", daemon=True).start()
        self._write(struct.pack(">BI", _INIT, _VERSION))
        kind, body = self._await(self._hello)
        if kind != _VERSION_IS or len(body) < 4 or struct.unpack_from(">I", body)[0] < _VERSION:
            raise SftpError("speaks no SFTP that is known")

    def stat(self, path: str) -> Figures | None:
        """Return what is said of the file *path*, links followed; None where there is none."""
        return self.stats([path])[0]

    def stats(self, paths: list[str]) -> list[Figures | None]:
        """Return :meth:`stat` of each of *paths*, which are all asked for before the first answer is awaited."""
        found: list[Figures | None] = []
        waiting: deque[int] = deque()
        left = iter(paths)
        while True:
            while len(waiting) < _IN_FLIGHT and (path := next(left, None)) is not None:
                waiting.append(self._ask(_STAT, _text(path)))
            if not waiting:
                return found
            try:
                found.append(_figures(self._answer(waiting.popleft(), _ATTRS)))
            except MissingError:
                found.append(None)

    def link(self, path: str) -> str | None:
        """Return where the link *path* leads, as it is written there; None where there is none."""
        try:
            body = self._answer(self._ask(_READLINK, _text(path)), _NAME)
        except MissingError:
            return None
        names = _names(body)
        return names[0] if names else None

    def names(self, folder: str, limit: int) -> list[str]:
        """Return the names in *folder*; RefusedError where there are more than *limit*."""
        handle = self._open(_OPENDIR, _text(folder))
        found: list[str] = []
        try:
            while True:
                try:
                    found += _names(self._answer(self._ask(_READDIR, handle), _NAME))
                except EOFError:
                    return [name for name in found if name not in {".", ".."}]
                if len(found) > limit:
                    raise RefusedError(f"more than {limit} names in one folder")
        finally:
            self._ask_nothing(_CLOSE, handle)

    def read(self, path: str, size: int | None = None, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of the file *path* from byte *start* on, in pieces of at most 64 KiB.

        Args:
            path: the file.
            size: refuse a file that has not this many bytes.
            start: where to begin.
        """
        handle = self._open(_OPEN, _text(path) + struct.pack(">II", _FOR_READING, 0))
        try:
            figures = _figures(self._answer(self._ask(_FSTAT, handle), _ATTRS))
            if not figures.is_file:
                raise RefusedError("it is not a file")
            if size is not None and figures.size != size:
                raise RefusedError(f"it has {figures.size} bytes, not the {size} of its descriptor")
            yield from self._contents(handle, start, figures.size)
        finally:
            self._ask_nothing(_CLOSE, handle)

    def _contents(self, handle: bytes, start: int, end: int) -> Iterator[bytes]:
        waiting: deque[tuple[int, int, int]] = deque()
        ahead = start
        try:
            while ahead < end or waiting:
                while ahead < end and len(waiting) < _IN_FLIGHT:
                    length = min(_READ_BYTES, end - ahead)
                    waiting.append((self._ask_read(handle, ahead, length), ahead, length))
                    ahead += length
                number, offset, length = waiting.popleft()
                try:
                    body = self._answer(number, _DATA)
                except EOFError:
                    return  # It has become shorter; whoever counts the bytes will see.
                piece, _ = _string(body, 0)
                if not piece or len(piece) > length:
                    raise SftpError("sent other than what was asked for")
                yield piece
                if len(piece) < length:
                    missing = (offset + len(piece), length - len(piece))
                    waiting.appendleft((self._ask_read(handle, *missing), *missing))
        finally:
            for number, _, _ in waiting:
                self._forget(number)

    def _ask_read(self, handle: bytes, offset: int, length: int) -> int:
        return self._ask(_READ, handle + struct.pack(">QI", offset, length))

    def _open(self, kind: int, body: bytes) -> bytes:
        handle, _ = _string(self._answer(self._ask(kind, body), _HANDLE), 0)
        return struct.pack(">I", len(handle)) + handle

    def _ask(self, kind: int, body: bytes) -> int:
        with self._mutex:
            if self._ended:
                raise SftpError(self._ended)
            number, self._next = self._next, (self._next + 1) % 2**32
            self._due[number] = queue.SimpleQueue()
            self.requests += 1
            # Nobody is silent who was not asked.
            self._heard = time.monotonic()
            self._write(struct.pack(">BI", kind, number) + body)
            return number

    def _ask_nothing(self, kind: int, body: bytes) -> None:
        """Send a request whose answer makes no difference."""
        try:
            self._forget(self._ask(kind, body))
        except SftpError:
            return

    def _forget(self, number: int) -> None:
        with self._mutex:
            self._due.pop(number, None)

    def _write(self, packet: bytes) -> None:
        try:
            self._to.write(struct.pack(">I", len(packet)) + packet)
            self._to.flush()
        except (OSError, ValueError):
            raise SftpError("the connection ended") from None

    def _answer(self, number: int, kind: int) -> bytes:
        """Return the body of the answer to request *number*, which is to be of this *kind*."""
        waiting = self._due[number]
        try:
            found, body = self._await(waiting)
        finally:
            self._forget(number)
        if found == kind:
            return body
        if found != _STATUS or len(body) < 4:
            raise SftpError("sent other than what was asked for")
        (code,) = struct.unpack_from(">I", body)
        if code == _END:
            raise EOFError
        if code == _NO_SUCH_FILE:
            raise MissingError
        text = _string(body, 4)[0] if len(body) >= 8 else b""
        words = "permission denied" if code == _PERMISSION_DENIED else text.decode("utf-8", "replace").lower()
        raise RefusedError(words or f"status {code}")

    def _await(self, waiting: "queue.SimpleQueue[tuple[int, bytes] | None]") -> tuple[int, bytes]:
        while True:
            # Any byte is a sign of life: on a slow line the answer that is wanted may come behind many others.
            left = self._timeout - (time.monotonic() - self._heard)
            try:
                found = waiting.get(timeout=max(left, 0.01))
            except queue.Empty:
                if time.monotonic() - self._heard < self._timeout:
                    continue
                raise SftpError(f"sent nothing for {self._timeout:g} seconds") from None
            if found is None:
                raise SftpError(self._ended)
            return found

    def _listen(self) -> None:
        why = "the connection ended"
        try:
            while True:
                (length,) = struct.unpack(">I", self._exactly(4))
                if not 1 <= length <= _PACKET_MAX:
                    why = "speaks no SFTP (does its shell print something to whoever logs in?)"
                    break
                packet = self._exactly(length)
                if packet[0] == _VERSION_IS:
                    self._hello.put((packet[0], packet[1:]))
                elif length >= 5:
                    with self._mutex:
                        waiting = self._due.get(struct.unpack_from(">I", packet, 1)[0])
                    if waiting is not None:
                        waiting.put((packet[0], packet[5:]))
        except (EOFError, OSError, ValueError):
            pass
        with self._mutex:
            self._ended = why
            for waiting in self._due.values():
                waiting.put(None)
        self._hello.put(None)

    def _exactly(self, size: int) -> bytes:
        body = io.BytesIO()
        while body.tell() < size:
            piece = self._from.read1(size - body.tell())  # type: ignore[attr-defined] # a BufferedReader has it
            if not piece:
                raise EOFError
            self._heard = time.monotonic()
            body.write(piece)
        return body.getvalue()


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack(">I", len(raw)) + raw


def _string(body: bytes, at: int) -> tuple[bytes, int]:
    """Return the string of *body* at *at*, and where it ends."""
    try:
        (length,) = struct.unpack_from(">I", body, at)
    except struct.error:
        raise SftpError("sent half an answer") from None
    end = at + 4 + length
    if end > len(body):
        raise SftpError("sent half an answer")
    return body[at + 4 : end], end


def _names(body: bytes) -> list[str]:
    names = []
    try:
        (count,) = struct.unpack_from(">I", body)
        at = 4
        for _ in range(count):
            name, at = _string(body, at)
            _, at = _string(body, at)
            _, at = _attributes(body, at)
            names.append(name.decode("utf-8", "replace"))
    except struct.error:
        raise SftpError("sent half an answer") from None
    return names


def _figures(body: bytes) -> Figures:
    try:
        return _attributes(body, 0)[0]
    except struct.error:
        raise SftpError("sent half an answer") from None


def _attributes(body: bytes, at: int) -> tuple[Figures, int]:
    """Return what the ATTRS of *body* at *at* say (section 5), and where they end."""
    (flags,) = struct.unpack_from(">I", body, at)
    at, size, mode = at + 4, 0, _REGULAR
    if flags & _HAS_SIZE:
        (size,) = struct.unpack_from(">Q", body, at)
        at += 8
    if flags & _HAS_OWNER:
        at += 8
    if flags & _HAS_PERMISSIONS:
        (mode,) = struct.unpack_from(">I", body, at)
        at += 4
    if flags & _HAS_TIMES:
        at += 8
    if flags & _HAS_MORE:
        (count,) = struct.unpack_from(">I", body, at)
        at += 4
        for _ in range(2 * count):
            _, at = _string(body, at)
    return Figures(size, mode & _KIND == _REGULAR), at
