"""Repositories, tags, references and locations: the grammar of the specification, and clear refusals."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.digest import Digest
from seawall.errors import InputError
from seawall.reference import (
    LayoutLocation,
    Reference,
    RegistryLocation,
    check_repository,
    check_tag,
    parse_location,
)

RESERVED = {"blobs", "manifests", "referrers", "tags"}
COMPONENTS = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
REPOSITORIES = st.lists(COMPONENTS.filter(lambda part: part not in RESERVED), min_size=1, max_size=4).map("/".join)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda raw: Digest(raw.hex()))
HOSTS = st.from_regex(r"[a-z][a-z0-9]{0,8}\.[a-z]{2,5}(:[1-9][0-9]{0,3})?", fullmatch=True)


@given(REPOSITORIES, TAGS)
def test_a_reference_by_tag_prints_as_it_is_parsed(repository: str, tag: str) -> None:
    reference = Reference.parse(f"{repository}:{tag}")
    assert reference == Reference(repository, tag=tag)
    assert str(reference) == f"{repository}:{tag}"
    assert reference.target == tag


@given(REPOSITORIES, DIGESTS)
def test_a_reference_by_digest_prints_as_it_is_parsed(repository: str, digest: Digest) -> None:
    reference = Reference.parse(f"{repository}@{digest}")
    assert reference == Reference(repository, digest=digest)
    assert str(reference) == f"{repository}@{digest}"
    assert reference.target == str(digest)


@given(st.text())
def test_any_text_is_a_reference_or_a_one_line_error(text: str) -> None:
    try:
        said = str(Reference.parse(text))
    except InputError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize("name", ["a", "0", "a/b", "a-b/c_d/e__f/g.h", "a--b", "a---b", "x" * 255, "library/alpine"])
def test_names_of_the_grammar_are_repositories(name: str) -> None:
    assert check_repository(name, "here") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "a/", "/a", "a//b", "-a", "a-", ".a", "a..b", "a___b", "a._b", "..", "a/../b"),
        *("A", "a b", "a\n", "x" * 256, "ä", "a:b", "a@b", "a\0"),
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a repository name"):
        check_repository(name, "here")


@pytest.mark.parametrize("name", ["blobs", "a/manifests", "tags/b", "a/referrers/b"])
def test_a_repository_cannot_be_called_like_a_part_of_the_tree(name: str) -> None:
    with pytest.raises(InputError, match="which the tree uses itself"):
        check_repository(name, "here")


@pytest.mark.parametrize("name", ["blobs-of-mine", "my.tags", "tagsx"])
def test_a_repository_may_be_called_nearly_like_a_part_of_the_tree(name: str) -> None:
    assert check_repository(name, "here") == name


@pytest.mark.parametrize("tag", ["1", "_", "1.0", "v1.0-rc.1_x", "LATEST", "a" * 128, "1.2.html"])
def test_words_of_the_grammar_are_tags(tag: str) -> None:
    assert check_tag(tag, "here") == tag


@pytest.mark.parametrize(
    "tag", ["", ".", "..", ".1", "-1", "a" * 129, "a b", "a/b", "a:b", "a\n", "1.0+git", "ü", "\u0661"]
)
def test_other_words_are_no_tags(tag: str) -> None:
    with pytest.raises(InputError) as caught:
        check_tag(tag, "images.yml: tags")
    assert caught.value.where == "images.yml: tags"
    assert "is not a tag" in caught.value.what


@pytest.mark.parametrize("text", ["alpine", "library/alpine", ""])
def test_a_reference_without_tag_and_digest_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="names no tag and no digest"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "host", "repository"),
    [
        ("docker://alpine", "docker.io", "library/alpine"),
        ("docker://library/alpine", "docker.io", "library/alpine"),
        ("docker://team/app", "docker.io", "team/app"),
        ("docker://docker.io/alpine", "docker.io", "library/alpine"),
        ("docker://docker.io/team/app", "docker.io", "team/app"),
        ("docker://index.docker.io/alpine", "docker.io", "library/alpine"),
        ("docker://localhost/app", "localhost", "app"),
        ("docker://localhost:5000/app", "localhost:5000", "app"),
        ("docker://registry.example/app", "registry.example", "app"),
        ("docker://registry.example:5000/a/b/c", "registry.example:5000", "a/b/c"),
        ("docker://127.0.0.1:5000/app", "127.0.0.1:5000", "app"),
        ("docker://[::1]:5000/app", "[::1]:5000", "app"),
    ],
)
def test_a_registry_is_spelled_as_docker_spells_it(text: str, host: str, repository: str) -> None:
    assert parse_location(text, "here") == RegistryLocation(host, repository)


@given(HOSTS, REPOSITORIES)
def test_a_registry_location_prints_as_it_is_parsed(host: str, repository: str) -> None:
    location = parse_location(f"docker://{host}/{repository}", "here")
    assert location == RegistryLocation(host, repository)
    assert str(location) == f"docker://{host}/{repository}"


@pytest.mark.parametrize("path", ["layout", "/srv/layout", "../a b", "a:b"])
def test_a_layout_is_a_directory(path: str) -> None:
    location = parse_location(f"oci:{path}", "here")
    assert location == LayoutLocation(Path(path))
    assert str(location) == f"oci:{path}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no transport"),
        ("alpine", "has no transport"),
        ("docker:alpine", "names no image source"),
        ("oci:", "names no image source"),
        ("https://registry.example/app", "names no repository of a tree"),
        ("docker://", "is not a repository name"),
        ("docker://registry.example/", "is not a repository name"),
        ("docker://registry.example/App", "is not a repository name"),
        ("docker://registry.example/a/../b", "is not a repository name"),
        ("docker://registry.example/app:1.0", "has a tag or digest"),
        ("docker://registry.example/app@sha256:0", "has a tag or digest"),
        ("docker://registry_.example/app", "is not a host"),
        ("docker://registry.example:/app", "is not a host"),
        ("docker://registry.example:http/app", "is not a host"),
        ("docker://joe:secret@registry.example/app", "is not a host"),
        ("docker://registry.example?x=/app", "is not a host"),
    ],
)
def test_other_spellings_are_refused_and_say_why(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_location(text, "images.yml: source")
    assert caught.value.where == "images.yml: source"
    assert complaint in caught.value.what


@given(st.sampled_from(["", "docker://", "oci:"]), st.text())
def test_any_text_is_a_location_or_a_one_line_error(transport: str, text: str) -> None:
    try:
        said = str(parse_location(f"{transport}{text}", "here"))
    except InputError as error:
        said = str(error)
    assert "\n" not in said.removesuffix(text)
