"""The images file: what is accepted, and what a person is told of a mistake."""

from pathlib import Path

import pytest

from seawall.errors import InputError
from seawall.images import ImagesFile, read_images
from seawall.tag_filter import TagFilter

GOOD = """\
version: 1
name: site
images:
  - source: docker://docker.io/library/alpine
    tags: [3.20, "latest"]
  - source: oci:layouts/busybox
    name: local/busybox
    plain_http: false
    tags:
      - 1.36
"""


def read(text: str, folder: Path) -> ImagesFile:
    path = folder / "images.yml"
    path.write_text(text)
    return read_images(path)


def test_a_tag_that_looks_like_a_number_stays_what_was_written(tmp_path: Path) -> None:
    images = read(GOOD, tmp_path)
    assert images.images[0].tags == ("3.20", "latest")


def test_the_repository_is_by_default_the_full_name_of_the_source(tmp_path: Path) -> None:
    images = read(GOOD.replace("docker.io/library/alpine", "alpine"), tmp_path)
    assert images.images[0].repository == "docker.io/library/alpine"


def test_tags_are_names_globs_or_filters(tmp_path: Path) -> None:
    wanted = (
        r"""tags: [latest, "3.1?", {glob: "4*"}, {regex: '5\.\d+'}, {range: ">=6,<7", newest: 2, prereleases: true}]"""
    )
    entry = read(GOOD.replace('tags: [3.20, "latest"]', wanted), tmp_path).images[0]
    assert entry.names == ("latest",)
    assert entry.filters == (
        TagFilter(glob="3.1?"),
        TagFilter(glob="4*"),
        TagFilter(regex=r"5\.\d+"),
        TagFilter(range=">=6,<7", newest=2, prereleases=True),
    )


@pytest.mark.parametrize(
    ("wrong", "right", "line", "says"),
    [
        ("version: 2", "version: 1", 1, "version"),
        ("name: Site!", "name: site", 2, "name"),
        ("sorce: docker://docker.io/library/alpine", "source: docker://docker.io/library/alpine", 4, "images[0].so"),
        ("tags: []", 'tags: [3.20, "latest"]', 5, "images[0].tags is empty; name at least one"),
        ("tags: [a/b]", 'tags: [3.20, "latest"]', 5, "is not a tag"),
        ("tags: [a/*]", 'tags: [3.20, "latest"]', 5, "images[0].tags[0] has the glob 'a/*'"),
        ("tags: [a, {newest: 3}]", 'tags: [3.20, "latest"]', 5, "images[0].tags[1] says nothing that picks"),
        ("tags: [{range: new}]", 'tags: [3.20, "latest"]', 5, "has the range 'new'"),
        ("tags: [{range: ===1}]", 'tags: [3.20, "latest"]', 5, "compares text with ==="),
        ("tags: [{regex: (}]", 'tags: [3.20, "latest"]', 5, "has a regex that cannot be used"),
        ("tags: [{glob: a, newest: 0}]", 'tags: [3.20, "latest"]', 5, "images[0].tags[0].newest input should be"),
        ("tags: [{glob: a, newer: 1}]", 'tags: [3.20, "latest"]', 5, "images[0].tags[0].newer is not a field"),
        ("tags: [{glob: a, suffix: -x}]", 'tags: [3.20, "latest"]', 5, "which belong to versions"),
        ("tags: [a, a]", 'tags: [3.20, "latest"]', 4, "twice"),
        ("source: docker://docker.io/library/alpine:3", "source: docker://docker.io/library/alpine", 4, "has a tag"),
        ("source: http://x", "source: oci:layouts/busybox", 6, "names no repository of a tree"),
        ("name: Local/Busybox", "name: local/busybox", 6, "is not a repository name"),
        ("name: local/manifests/x", "name: local/busybox", 6, "the tree uses itself"),
        ("plain_http: perhaps", "plain_http: false", 8, "images[1].plain_http"),
        ("plain_http: false\n    immutable: maybe", "plain_http: false", 9, "images[1].immutable input should be"),
        ("plain_http: false\n    immutable: [a/b]", "plain_http: false", 9, "images[1].immutable[0] 'a/b' is not"),
        ("plain_http: false\n    platforms: [linux]", "plain_http: false", 9, "images[1].platforms[0] 'linux' is not"),
        ("tags:\n    tags:", "tags:\n", 10, "given twice"),
    ],
)
def test_an_error_names_file_line_and_field(wrong: str, right: str, line: int, says: str, tmp_path: Path) -> None:
    assert right in GOOD
    text = GOOD.replace(right, wrong + "\n" * right.endswith("\n"), 1)
    with pytest.raises(InputError) as caught:
        read(text, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/images.yml:{line}: "), message
    assert says in message
    assert "value error" not in message
    assert "\n" not in message


def test_an_error_reads_as_one_sentence_and_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(GOOD.replace('[3.20, "latest"]', "[late st]"), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/images.yml:5: images[0].tags[0] 'late st' is not a tag; "
        "use a letter, digit or _ first, then those, . or -, at most 128 characters"
    )


def test_a_layout_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no name of its own; add name: REPOSITORY"):
        read(GOOD.replace("    name: local/busybox\n", ""), tmp_path)


def test_a_source_on_a_port_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add name: REPOSITORY"):
        read(GOOD.replace("docker.io/library/alpine", "registry.example:5000/alpine"), tmp_path)


def test_two_entries_must_not_carry_one_tag(tmp_path: Path) -> None:
    text = GOOD.replace("local/busybox", "docker.io/library/alpine").replace("- 1.36", "- latest")
    with pytest.raises(InputError, match=r"carries docker\.io/library/alpine:latest in two entries"):
        read(text, tmp_path)


@pytest.mark.parametrize("text", ["", "images", "- a", "a: [", "a: !!python/object:os.system {}", "\x00", "a: *b"])
def test_what_is_no_images_file_is_one_clear_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(text, tmp_path)
    assert "images.yml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yml: cannot be read"):
        read_images(tmp_path / "nowhere.yml")
