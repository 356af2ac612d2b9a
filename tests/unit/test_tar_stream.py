"""Tar archives from anywhere: what is read of them, and that nothing worse than an error comes of the rest."""

import io
import random
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.errors import SourceError
from seawall.pieces import Pieces
from seawall.tar_stream import Member, Readable, TarStream
from unit.archives import make_link, make_tar

LONG = "/".join(["folder" * 10] * 5) + "/name"


def unseekable(content: bytes) -> Readable:
    return Pieces(content[start : start + 700] for start in range(0, len(content), 700))


OPENERS: tuple[Callable[[bytes], Readable], ...] = (io.BytesIO, unseekable)


def listed(file: Readable) -> list[Member]:
    return list(TarStream(file, "test").members())


def read(file: Readable) -> dict[str, bytes]:
    archive = TarStream(file, "test")
    return {member.name: b"".join(archive.content()) for member in archive.members()}


def written(files: dict[str, bytes], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("a-folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("opener", OPENERS)
def test_every_form_of_tar_is_read(form: int, opener: Callable[[bytes], Readable]) -> None:
    files = {"a": b"1", "./b/../c": b"", "d": bytes(5000)}
    if form != tarfile.USTAR_FORMAT:
        files |= {LONG: b"long", "größe": b"not ascii"}
    assert read(opener(written(files, form))) == {name.replace("./b/../", ""): body for name, body in files.items()}


@pytest.mark.parametrize("opener", OPENERS)
def test_content_that_nobody_wants_is_passed_by(opener: Callable[[bytes], Readable]) -> None:
    content = make_tar({"a": bytes(3_000_000), "b": b"2", "c": make_link("c", "b")})
    assert [(m.name, m.size, m.link) for m in listed(opener(content))] == [
        ("a", 3_000_000, None),
        ("b", 1, None),
        ("c", 0, "b"),
    ]


def test_a_part_of_a_member_and_where_it_begins() -> None:
    content = make_tar({"a": b"12345", "b": b"67890"})
    archive = TarStream(io.BytesIO(content), "test")
    found = []
    for member in archive.members():
        assert content[member.start : member.start + member.size] in {b"12345", b"67890"}
        found.append((archive.head(2), b"".join(archive.content()), archive.head(2)))
    assert found == [(b"12", b"345", b""), (b"67", b"890", b"")]


def raw(name: str = "x", size: int = 0, kind: bytes = tarfile.REGTYPE, body: bytes = b"") -> bytes:
    """Return a member whose header claims *size*, whatever its body has."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


def pax(body: bytes) -> bytes:
    return raw("pax", len(body), tarfile.XHDTYPE, body)


def record(text: str) -> bytes:
    length = len(text) + 2
    length += len(str(length + len(str(length))))
    return pax(f"{length} {text}\n".encode())


END = bytes(1024)


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "ends early"),
        (raw(), "ends early"),
        (raw(size=10**15, body=b"little") + END, "ends early"),
        (raw(size=-5) + END, "negative size"),
        (raw("a", 10**12, tarfile.XHDTYPE) + END, "an extended header of 1000000000000 bytes"),
        (raw("a", 10**12, tarfile.GNUTYPE_LONGNAME) + END, "an extended header of"),
        (raw("a", 10**12, tarfile.XGLTYPE) + END, "an extended header of"),
        (pax(b"99 path=short\n") + raw() + END, "malformed extended header"),
        (pax(b"0 path=short\n") + raw() + END, "malformed extended header"),
        (pax(b"x path=short\n") + raw() + END, "where a number should be"),
        (pax(b"11 nothing\n") + raw() + END, "malformed extended header"),
        (pax(b"23 path=../../etc/passwd") + raw() + END, "malformed extended header"),
        (record("path=../../etc/passwd") + raw() + END, "outside of it"),
        (record("size=-99999") + raw() + END, "where a number should be"),
        (record("size=" + "9" * 30) + raw() + END, "where a number should be"),
        (record("size=" + "9" * 19) + raw() + END, "which claims 9999999999999999999 bytes"),
        (raw(size=2**80) + END, "which claims 1208925819614629174706176 bytes"),
        (record("GNU.sparse.major=1") + raw() + END, "sparse file"),
        (raw("x", kind=tarfile.GNUTYPE_SPARSE) + END, "neither a file nor a link"),
        (raw("/etc/passwd") + END, "outside of it"),
        (raw("a/../..") + END, "outside of it"),
        (raw("..") + END, "outside of it"),
        (raw("") + END, "outside of it"),
        (raw("a") + raw("./a") + END, "two members 'a'"),
        (b"x" * 512 + END, "is no tar archive"),
    ],
)
def test_an_archive_that_lies_is_refused(content: bytes, complaint: str, opener: Callable[[bytes], Readable]) -> None:
    with pytest.raises(SourceError, match=complaint):
        listed(opener(content))


def test_a_size_beyond_what_a_header_holds_comes_from_the_extended_one() -> None:
    assert read(io.BytesIO(record("size=700") + raw("a", 3, body=bytes(700)) + END)) == {"a": bytes(700)}


@given(seed=st.integers(), flips=st.integers(min_value=1, max_value=30))
def test_whatever_is_damaged_nothing_worse_than_an_error_comes_of_it(seed: int, flips: int) -> None:
    content = bytearray(written({"a": b"1" * 600, LONG: b"2"}, tarfile.PAX_FORMAT)[:6000])
    chance = random.Random(seed)  # noqa: S311 - damage is no secret
    for _ in range(flips):
        content[chance.randrange(len(content))] = chance.randrange(256)
    for opener in OPENERS:
        try:
            found = read(opener(bytes(content)))
        except SourceError:
            continue
        assert not any(name.startswith(("/", "..")) for name in found)
