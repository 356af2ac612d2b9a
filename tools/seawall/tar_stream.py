"""Reading tar archives from front to back (POSIX.1-2001 pax, ustar, and GNU's long names).

The archives come from anywhere: nothing is ever written under a name that stands in one, what a header claims is
checked before it is believed, and memory stays small whatever the archive says.
"""

import io
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from seawall.errors import SourceError

_BLOCK = tarfile.BLOCKSIZE
_PIECE_BYTES = 1024 * 1024
_EXTENSION_MAX_BYTES = 64 * 1024
_MEMBERS_MAX = 200_000
_SIZE_MAX = 2**60
"""Bytes; headers can claim more than a file can have, and than a system call takes."""
_REGULAR = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_LINKS = frozenset({tarfile.SYMTYPE, tarfile.LNKTYPE})
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_REMAKE = "make the archive again"


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most *size*; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive, or a link to one."""

    name: str
    """Its path, relative and without ``.`` and ``..``."""
    size: int
    """Bytes; 0 for a link."""
    link: str | None
    """The path of the file that a link leads to, spelled as *name*."""
    start: int
    """Where its content begins, in bytes from the beginning of the archive."""


class TarStream:
    """An archive that is read once, from front to back.

    Args:
        file: the archive; where it can seek, content that nobody wants is not read.
        where: names it in errors.
    """

    def __init__(self, file: Readable, where: str) -> None:
        self._file = file
        self._where = where
        self._seek = file.seek if isinstance(file, io.IOBase) and file.seekable() else None
        self._at = 0
        self._left = 0
        """Bytes of the current member that nobody has read yet."""
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """Yield each file and link in turn; :meth:`content` reads the one that came last. Folders are left out.

        Raises:
            SourceError: the archive is malformed or ends early, has two members of one name, or one that is
                neither a file nor a link nor a folder, or whose name or target leads out of it.
        """
        names: set[str] = set()
        while (found := self._next()) is not None:
            if found.name in names:
                raise self._refused(f"has two members {found.name!r}")
            if len(names) == _MEMBERS_MAX:
                raise self._refused(f"has more than {_MEMBERS_MAX} members")
            names.add(found.name)
            yield found

    def content(self) -> Iterator[bytes]:
        """Yield what is left of the current member, in pieces of at most 1 MiB.

        Raises:
            SourceError: the archive ends early.
        """
        while self._left:
            piece = self._read(min(self._left, _PIECE_BYTES))
            self._left -= len(piece)
            yield piece

    def head(self, size: int) -> bytes:
        """Return the next *size* bytes of the current member, fewer only where it ends.

        Raises:
            SourceError: the archive ends early.
        """
        head = self._exactly(min(size, self._left))
        self._left -= len(head)
        return head

    def _next(self) -> Member | None:
        extended: dict[str, str] = {}
        while (header := self._header()) is not None:
            size = header.size
            if header.type in _LONG:
                extended[_LONG[header.type]] = self._extension(size).rstrip(b"\0").decode(errors="surrogateescape")
            elif header.type == tarfile.XHDTYPE:
                extended |= self._pax(self._extension(size))
            elif header.type == tarfile.XGLTYPE:
                # Docker's and Go's writers only put comments there; what would rename every member is not believed.
                self._extension(size)
            elif header.type == tarfile.DIRTYPE:
                extended = {}
            else:
                return self._member(header, extended)
        return None

    def _member(self, header: tarfile.TarInfo, extended: dict[str, str]) -> Member:
        name = self._path(extended.get("path", header.name), "a member")
        if any(key.startswith("GNU.sparse") for key in extended):
            raise self._refused(f"has the sparse file {name!r}")
        if header.type in _LINKS:
            target = extended.get("linkpath", header.linkname)
            base = posixpath.dirname(name) if header.type == tarfile.SYMTYPE else ""
            return Member(name, 0, self._path(posixpath.join(base, target), f"the link {name!r}"), self._at)
        if header.type not in _REGULAR:
            raise self._refused(f"has {name!r}, which is neither a file nor a link nor a folder")
        size = self._number(extended["size"]) if "size" in extended else header.size
        if size > _SIZE_MAX:
            raise self._refused(f"has {name!r}, which claims {size} bytes")
        self._left, self._padding = size, -size % _BLOCK
        return Member(name, size, None, self._at)

    def _header(self) -> tarfile.TarInfo | None:
        """Return the next header, or None at the end of the archive."""
        self._skip()
        block = self._exactly(_BLOCK)
        if not any(block):
            return None
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self._refused(f"is no tar archive, or a damaged one ({error})") from None
        if header.size < 0:
            raise self._refused("has a member of negative size")
        return header

    def _skip(self) -> None:
        """Go to the end of the current member."""
        if self._seek is not None:
            # One that reaches beyond the end is found out by the header that then is not there.
            self._at += self._left + self._padding
            self._seek(self._at)
        else:
            for _ in self.content():
                pass
            self._exactly(self._padding)
        self._left = self._padding = 0

    def _extension(self, size: int) -> bytes:
        if size > _EXTENSION_MAX_BYTES:
            raise self._refused(f"has an extended header of {size} bytes")
        content = self._exactly(size)
        self._exactly(-size % _BLOCK)
        return content

    def _pax(self, content: bytes) -> dict[str, str]:
        """Return the records of a pax header: each is ``LENGTH KEY=VALUE`` and a line feed."""
        found = {}
        while content.rstrip(b"\0"):
            length, _, _ = content.partition(b" ")
            end = self._number(length.decode(errors="replace"))
            key, equals, value = content[len(length) + 1 : end - 1].partition(b"=")
            if not len(length) < end <= len(content) or not equals or content[end - 1 : end] != b"\n":
                raise self._refused("has a malformed extended header")
            found[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
            content = content[end:]
        return found

    def _number(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise self._refused(f"has {text[:30]!r} where a number should be")
        return int(text)

    def _path(self, text: str, what: str) -> str:
        path = posixpath.normpath(text)
        if not text or "\0" in text or path.startswith(("/", "../")) or path in {".", ".."}:
            raise self._refused(f"has {what} at {text[:200]!r}, outside of it")
        return path

    def _exactly(self, size: int) -> bytes:
        pieces = []
        while size:
            pieces.append(self._read(size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    def _read(self, size: int) -> bytes:
        piece = self._file.read(size)
        if not piece:
            raise self._refused(f"ends early, after {self._at} bytes")
        self._at += len(piece)
        return piece

    def _refused(self, what: str) -> SourceError:
        return SourceError(self._where, what, _REMAKE)
