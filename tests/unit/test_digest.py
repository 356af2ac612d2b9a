"""Digests: parsed strictly, printed as they came."""

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.digest import Digest
from seawall.errors import InputError

DIGESTS = st.binary(min_size=32, max_size=32).map(lambda raw: Digest(raw.hex()))


@given(DIGESTS)
def test_a_digest_prints_as_it_is_parsed(digest: Digest) -> None:
    assert Digest.parse(str(digest)) == digest
    assert str(digest) == f"sha256:{digest.hex}"


@given(st.binary())
def test_the_digest_of_bytes_is_their_sha256(content: bytes) -> None:
    assert Digest.of(content).hex == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "0" * 64,
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "SHA256:" + "0" * 64,
        "sha512:" + "0" * 128,
        "sha256:" + "0" * 64 + "\n",
        " sha256:" + "0" * 64,
        "sha256:" + "\u0660" * 64,
        "sha256:../../../etc/passwd",
    ],
)
def test_what_is_no_sha256_digest_is_refused_and_named(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Digest.parse(text, "images.lock: alpine")
    assert caught.value.where == "images.lock: alpine"
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_digest_or_a_short_error(text: str) -> None:
    try:
        said = str(Digest.parse(text))
    except InputError as error:
        said = str(error)
    assert len(said) < 1200


@given(DIGESTS)
def test_the_time_of_a_digest_lies_in_the_past(digest: Digest) -> None:
    assert 0 < digest.mtime < time.time()


@given(st.lists(DIGESTS, unique=True))
def test_digests_sort_by_their_digits(digests: list[Digest]) -> None:
    assert [digest.hex for digest in sorted(digests)] == sorted(digest.hex for digest in digests)


def test_a_time_is_a_function_of_the_digest_alone() -> None:
    one, other = Digest.of(b"one"), Digest.of(b"other")
    assert one.mtime == Digest.of(b"one").mtime
    assert one.mtime != other.mtime
