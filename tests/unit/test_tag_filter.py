"""Tag filters: which tags they pick, and that none of them can hang the tool."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from seawall import tag_filter
from seawall.errors import InputError
from seawall.tag_filter import TagFilter, select
from seawall.version import TagVersion, tag_version

ALPINE = ["3.9", "3.18", "3.18.5", "3.19", "3.20", "3.20.0", "3.21.0-rc.1", "4.0", "20240101", "edge", "latest"]
NGINX = ["1.9.0", "1.25.3", "1.25.3-alpine", "1.25.4-alpine", "1.25.4-alpine-slim", "v1.26.0", "1.27.0_beta", "stable"]


@pytest.mark.parametrize(
    ("wanted", "tags", "found"),
    [
        (TagFilter(glob="3.1?"), ALPINE, ["3.18", "3.19"]),
        (TagFilter(glob="3.18*"), ALPINE, ["3.18", "3.18.5"]),
        (TagFilter(glob="e*e"), ALPINE, ["edge"]),
        (TagFilter(regex=r"3\.\d"), ALPINE, ["3.9"]),
        (TagFilter(regex=r"3\.\d+|edge"), ALPINE, ["3.18", "3.19", "3.20", "3.9", "edge"]),
        (TagFilter(glob="3*", regex=r"\d\.\d+"), ALPINE, ["3.18", "3.19", "3.20", "3.9"]),
        (TagFilter(range=">=3.19,<4"), ALPINE, ["3.19", "3.20", "3.20.0"]),
        (TagFilter(range=">=3.19,<4", prereleases=True), ALPINE, ["3.19", "3.20", "3.20.0", "3.21.0-rc.1"]),
        (TagFilter(range="~=3.18.1"), ALPINE, ["3.18.5"]),
        (TagFilter(range=">=3,<4", newest=2), ALPINE, ["3.19", "3.20", "3.20.0"]),
        (TagFilter(regex=r"3\.\d+", newest=2), ALPINE, ["3.19", "3.20"]),
        (TagFilter(glob="*", newest=1), ALPINE, ["20240101"]),
        (TagFilter(range=">=1.10"), NGINX, ["1.25.3", "v1.26.0"]),
        (TagFilter(range=">=1.10", prereleases=True, newest=1), NGINX, ["1.27.0_beta"]),
        (TagFilter(range=">=1", suffix="-alpine"), NGINX, ["1.25.3-alpine", "1.25.4-alpine"]),
        (TagFilter(glob="*-alpine", newest=1, suffix="-alpine"), NGINX, ["1.25.4-alpine"]),
        (TagFilter(glob="*-alpine", newest=1), NGINX, []),
    ],
    ids=str,
)
def test_a_filter_picks_what_fits_all_that_it_says(wanted: TagFilter, tags: list[str], found: list[str]) -> None:
    assert select(wanted, tags) == tuple(found)
    assert select(wanted, tags[::-1]) == tuple(found)


@pytest.mark.parametrize(
    ("tag", "version", "suffix"),
    [
        ("1.25.3", "1.25.3", ""),
        ("v1.25", "1.25", ""),
        ("1.25.3-alpine3.18", "1.25.3", "-alpine3.18"),
        ("3.13.0rc2-slim-bookworm", "3.13rc2", "-slim-bookworm"),
        ("1.0.0-rc.1", "1.0rc1", ""),
        ("1.2.3-r4", "1.2.3.post4", ""),
        ("8.0.1.Final", "8.0.1", ".Final"),
        ("1.0_x", "1.0", "_x"),
    ],
)
def test_a_tag_begins_with_the_longest_version(tag: str, version: str, suffix: str) -> None:
    assert tag_version(tag) == TagVersion(Version(version), suffix)


@pytest.mark.parametrize("tag", ["latest", "", "v", "alpine-3.18", "1a2b3c4d", "-1", "vv1"])
def test_what_begins_with_no_version_has_none(tag: str) -> None:
    assert tag_version(tag) is None


@given(st.text("0123456789.-_vrcab", max_size=128))
def test_version_and_suffix_are_the_whole_tag(tag: str) -> None:
    found = tag_version(tag)
    if found is not None:
        assert tag.endswith(found.suffix)
        assert Version(tag[: len(tag) - len(found.suffix)]) == found.version


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=1), st.integers(1, 5))
def test_newest_keeps_the_highest_as_numbers_and_not_as_text(versions: list[tuple[int, int, int]], newest: int) -> None:
    tags = {f"{a}.{b}.{c}" for a, b, c in versions}
    kept = sorted(set(versions))[-newest:]
    assert set(select(TagFilter(range=">=0", newest=newest), tags)) == {f"{a}.{b}.{c}" for a, b, c in kept}


def test_a_regex_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_filter, "REGEX_TIMEOUT", 0.5)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"was not done with 1 tags in 0\.5 seconds"):
        select(TagFilter(regex="(a+)+b"), ["a" * 128])
    assert time.monotonic() - began < 5


def test_a_glob_of_many_stars_ends_at_once() -> None:
    began = time.monotonic()
    assert select(TagFilter(glob="a*" * 60 + "b"), ["a" * 128]) == ()
    assert time.monotonic() - began < 5
