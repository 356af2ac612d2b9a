"""The lock: one order, small diffs, and pins that stay."""

import difflib
from pathlib import Path

import pytest

from seawall.digest import Digest
from seawall.errors import InputError
from seawall.images import ImageEntry
from seawall.lock import (
    Carried,
    Lock,
    LockedFilter,
    LockedImage,
    Pin,
    kept_filters,
    kept_pins,
    lock_text,
    make_lock,
    moves,
    parse_lock,
    read_lock,
    write_lock,
)
from seawall.media_type import OCI_INDEX
from seawall.reference import Reference
from seawall.tag_filter import TagFilter


def pin(seed: str) -> Pin:
    return Pin(digest=Digest.of(seed.encode()), media_type=OCI_INDEX.media_type, size=len(seed))


def carry(*entries: tuple[str, str, tuple[str, ...]]) -> list[Carried]:
    return [Carried(ImageEntry(source=source, name=name, tags=tags)) for source, name, tags in entries]


LOCK = Lock(
    name="site",
    images=(
        LockedImage(name="b", source="docker://h.example/b", tags={"2": pin("b2"), "10": pin("b10")}),
        LockedImage(name="a", source="docker://h.example/a", plain_http=True, tags={"3.20": pin("a")}),
    ),
)


def test_a_lock_reads_back_as_it_was_written() -> None:
    again = parse_lock(lock_text(LOCK).encode(), "images.lock")
    assert again.pins == LOCK.pins
    assert lock_text(again) == lock_text(LOCK)


def test_one_order_whatever_the_order_of_the_images_file() -> None:
    reverse = Lock(name="site", images=LOCK.images[::-1])
    assert lock_text(reverse) == lock_text(LOCK)


def test_a_moved_tag_is_a_diff_of_its_own_lines() -> None:
    moved = LOCK.images[0].model_copy(update={"tags": {**LOCK.images[0].tags, "10": pin("b10 moved")}})
    after = Lock(name="site", images=(moved, LOCK.images[1]))
    diff = [
        line for line in difflib.ndiff(lock_text(LOCK).splitlines(), lock_text(after).splitlines()) if line[0] in "+-"
    ]
    assert len(diff) == 4, diff
    assert all("digest" in line or "size" in line for line in diff)


def test_a_pin_stays_while_its_tag_is_carried_from_the_same_source() -> None:
    wanted = carry(("docker://h.example/a", "a", ("3.20", "new")), ("docker://other.example/b", "b", ("2",)))
    assert kept_pins(wanted, LOCK) == {Reference("a", "3.20"): pin("a")}


def test_a_filter_stays_answered_while_it_is_wanted_as_it_was_and_of_the_same_source() -> None:
    new, changed = TagFilter(glob="3.*"), TagFilter(glob="3.*", newest=2)
    entry = ImageEntry(source="docker://h.example/a", name="a", tags=("latest", new))
    found = LockedFilter(wanted=new, found=("3.20",))
    lock = make_lock("site", [Carried(entry, (found,))], {Reference("a", tag): pin(tag) for tag in ("3.20", "latest")})
    again = parse_lock(lock_text(lock).encode(), "images.lock")
    assert again == lock
    assert kept_filters(entry, again) == {new: found}
    for other in (
        ImageEntry(source="docker://h.example/a", name="a", tags=(changed,)),
        ImageEntry(source="docker://h.example/b", name="a", tags=(new,)),
        ImageEntry(source="docker://h.example/a", name="b", tags=(new,)),
    ):
        assert kept_filters(other, again) == {}
    assert kept_filters(entry, None) == {}


def test_moves_name_what_came_went_and_changed() -> None:
    after = make_lock(
        "site",
        carry(("docker://h.example/a", "a", ("3.20", "x"))),
        {Reference("a", "3.20"): pin("moved"), Reference("a", "x"): pin("x")},
    )
    found = {str(move.reference): (move.old, move.new) for move in moves(LOCK, after)}
    assert found == {
        "a:3.20": (pin("a").digest, pin("moved").digest),
        "a:x": (None, pin("x").digest),
        "b:2": (pin("b2").digest, None),
        "b:10": (pin("b10").digest, None),
    }
    assert moves(LOCK, LOCK) == ()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("digest: sha256:", "digest: sha512:", "is not a digest"),
        (OCI_INDEX.media_type, "text/html", "is not that of a manifest"),
        ("size: 3", "size: -3", "size"),
        ("size: 3", "size: [3]", "size"),
        ("version: 1", "version: 9", "version"),
        ("name: site", "name: ../site", "name"),
        ("source: docker://h.example/a", "source: docker:/h.example/a", "names no image source"),
    ],
)
def test_a_malformed_lock_is_refused_with_line_and_field(old: str, new: str, says: str) -> None:
    text = lock_text(LOCK)
    assert old in text
    with pytest.raises(InputError) as caught:
        parse_lock(text.replace(old, new).encode(), "images.lock")
    assert says in str(caught.value)
    assert str(caught.value).split(": ")[0].startswith("images.lock:")


def test_a_lock_that_pins_a_tag_twice_is_refused() -> None:
    image = LockedImage(name="a", source="docker://h.example/a2", tags={"3.20": pin("z")})
    text = lock_text(Lock.model_construct(name="site", images=(*LOCK.images, image)))
    with pytest.raises(InputError, match=r"pins a:3\.20 twice"):
        parse_lock(text.encode(), "images.lock")


def test_a_lock_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "images.lock"
    assert write_lock(path, LOCK)
    before = path.stat()
    assert not write_lock(path, LOCK)
    assert path.stat().st_ino == before.st_ino
    assert read_lock(path).pins == LOCK.pins
    with pytest.raises(InputError, match="cannot be written"):
        write_lock(tmp_path / "missing" / "images.lock", LOCK)
    assert [p.name for p in tmp_path.iterdir()] == ["images.lock"]
