"""registries.conf: which places it sends a pull to, and in which order."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.errors import InputError
from seawall.reference import RegistryLocation
from seawall.registries import RegistriesConf, RegistryPlace

EXAMPLE = """
unqualified-search-registries = ["example.com"]
short-name-mode = "enforcing"

[[registry]]
prefix = "example.com/foo"
location = "internal.example/bar"

[[registry.mirror]]
location = "mirror-0.example/mirror-for-foo"

[[registry.mirror]]
location = "mirror-1.example:5000/mirrors/foo/"
insecure = true

[aliases]
"alpine" = "docker.io/library/alpine"
"""
DIGESTS_ONLY = '[[registry]]\nlocation = "a"\nmirror-by-digest-only = true\n'
HOSTS = st.from_regex(r"[a-z]{1,5}\.example(:[1-9][0-9]{1,3})?", fullmatch=True)
NAMES = st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5}){0,3}", fullmatch=True)


def conf(text: str) -> RegistriesConf:
    return RegistriesConf(Path("registries.conf"), text)


def asked(text: str, host: str, repository: str) -> list[str]:
    """Return where that file has a repository asked for."""
    return [str(place.location)[len("docker://") :] for place in conf(text).places(RegistryLocation(host, repository))]


def test_mirrors_are_asked_in_order_and_the_real_place_last() -> None:
    places = conf(EXAMPLE).places(RegistryLocation("example.com", "foo/image"))
    assert places == (
        RegistryPlace(RegistryLocation("mirror-0.example", "mirror-for-foo/image")),
        RegistryPlace(RegistryLocation("mirror-1.example:5000", "mirrors/foo/image"), insecure=True),
        RegistryPlace(RegistryLocation("internal.example", "bar/image")),
    )


@pytest.mark.parametrize("repository", ["foobar/image", "bar", "bar/foo"])
def test_a_prefix_ends_where_a_part_of_the_name_ends(repository: str) -> None:
    assert asked(EXAMPLE, "example.com", repository) == [f"example.com/{repository}"]


def test_a_host_is_not_the_same_host_at_a_port() -> None:
    assert asked(
        '[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\nlocation = "b"', "a.example:5000", "x"
    ) == ["a.example:5000/x"]


def test_the_longest_prefix_is_the_one_that_counts() -> None:
    text = "".join(
        f'[[registry]]\nprefix = "{prefix}"\n[[registry.mirror]]\nlocation = "{mirror}"\n'
        for prefix, mirror in (("a.example", "short.example"), ("a.example/x/y", "long.example"), ("*.example", "any"))
    )
    assert asked(text, "a.example", "x/y/z")[0] == "long.example/z"
    assert asked(text, "a.example", "x/z")[0] == "short.example/x/z"
    assert asked(text, "b.example", "x/z") == ["any/x/z", "b.example/x/z"]


@pytest.mark.parametrize(
    ("table", "mirror", "tags", "digests"),
    [
        ("", "", True, True),
        ("mirror-by-digest-only = true", "", False, True),
        ("", 'pull-from-mirror = "all"', True, True),
        ("", 'pull-from-mirror = "digest-only"', False, True),
        ("", 'pull-from-mirror = "tag-only"', True, False),
    ],
)
def test_a_mirror_may_be_for_tags_or_for_digests(table: str, mirror: str, tags: bool, digests: bool) -> None:
    text = f'[[registry]]\nlocation = "a.example"\n{table}\n[[registry.mirror]]\nlocation = "b.example"\n{mirror}'
    place = conf(text).places(RegistryLocation("a.example", "x"))[0]
    assert (place.tags, place.digests) == (tags, digests)


def test_what_is_blocked_is_refused() -> None:
    text = '[[registry]]\nlocation = "a.example/evil"\nblocked = true'
    assert asked(text, "a.example", "good") == ["a.example/good"]
    with pytest.raises(InputError, match="is blocked by"):
        asked(text, "a.example", "evil/image")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[registry", "is not TOML"),
        ("[registries.search]\nregistries = []", "version 1"),
        ("[[registry]]\nblocked = true", "neither prefix nor location"),
        ('[[registry]]\nlocation = "https://a.example"', "is not HOST"),
        ('[[registry]]\nprefix = "a.example/x:1.0"', "names more than a repository"),
        ('[[registry]]\nlocation = "a.example/UPPER"', "is not HOST"),
        ('[[registry]]\nlocation = "a.example"\ninsecure = "yes"', "registry.0.insecure"),
        (f'{DIGESTS_ONLY}[[registry.mirror]]\nlocation = "b"\npull-from-mirror = "all"', "keep one"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=r"^registries\.conf: ") as caught:
        conf(text)
    assert says in str(caught.value)


@given(host=HOSTS, repository=NAMES, mirror=HOSTS, depth=st.integers(0, 3))
def test_a_mirror_has_the_rest_of_the_name(host: str, repository: str, mirror: str, depth: int) -> None:
    parts = repository.split("/")
    prefix = "/".join([host, *parts[:depth]])
    text = f'[[registry]]\nprefix = "{prefix}"\n[[registry.mirror]]\nlocation = "{mirror}/cache"\n'
    rest = "/".join(parts[depth:])
    if not rest:
        assert asked(text, host, repository) == [f"{mirror}/cache", f"{host}/{repository}"]
    else:
        assert asked(text, host, repository) == [f"{mirror}/cache/{rest}", f"{host}/{repository}"]
