"""The oci: source: an image layout on disk, whole or broken."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seawall.digest import Digest
from seawall.errors import SourceError
from seawall.layout import LayoutSource
from seawall.manifest import MANIFEST_MAX_BYTES
from seawall.media_type import DOCKER_MANIFEST
from seawall.reference import LayoutLocation
from seawall.source import Source
from unit.fake_registry import ARM64, FakeImage, make_artifact, make_image, make_index, make_layer

REF_NAME = "org.opencontainers.image.ref.name"


class Layout:
    """An image layout that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = LayoutSource(LayoutLocation(path))
        self.rows: list[Any] = []
        (path / "blobs" / "sha256").mkdir(parents=True)
        self.write("oci-layout", {"imageLayoutVersion": "1.0.0"})
        self.write_index()

    def write(self, name: str, document: object) -> None:
        (self.path / name).write_text(document if isinstance(document, str) else json.dumps(document))

    def write_index(self) -> None:
        self.write("index.json", {"schemaVersion": 2, "manifests": self.rows})

    def blob(self, digest: Digest) -> Path:
        return self.path / "blobs" / "sha256" / digest.hex

    def add_content(self, image: FakeImage) -> None:
        for content in (image.content, *image.blobs.values()):
            self.blob(Digest.of(content)).write_bytes(content)
        for child in image.images:
            self.add_content(child)

    def add(self, image: FakeImage, name: str | None) -> FakeImage:
        self.add_content(image)
        row: dict[str, Any] = {
            "mediaType": image.descriptor.media_type,
            "digest": str(image.digest),
            "size": len(image.content),
        }
        if name is not None:
            row["annotations"] = {REF_NAME: name}
        self.rows.append(row)
        self.write_index()
        return image


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def failure(action: Callable[[], object]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return caught.value


# What refers to what


def test_what_refers_to_an_image_is_found_by_its_subject(layout: Layout) -> None:
    image = layout.add(make_image("app"), "1.0")
    unnamed = layout.add(make_artifact("signature", image), None)
    named = layout.add(make_artifact("sbom", image), "sbom")
    layout.add(make_artifact("of another", make_image("another")), None)
    assert {row.digest for row in layout.source.referrers(image.digest)} == {unnamed.digest, named.digest}
    assert layout.source.referrers(unnamed.digest) == ()


@pytest.mark.parametrize("prefix", ["", "registry.example/app:"])
def test_what_the_list_behind_a_tag_names_is_found_once(layout: Layout, prefix: str) -> None:
    image = layout.add(make_image("app"), "1.0")
    both, listed = make_artifact("signature", image), make_artifact("sbom", image)
    layout.add(both, None)
    layout.add(make_index([both, listed]), f"{prefix}sha256-{image.digest.hex}")
    assert [row.digest for row in layout.source.referrers(image.digest)].count(both.digest) == 1
    assert {row.digest for row in layout.source.referrers(image.digest)} == {both.digest, listed.digest}


def test_a_manifest_that_is_missing_is_named(layout: Layout) -> None:
    image = layout.add(make_image("app"), "1.0")
    layout.blob(image.digest).unlink()
    error = failure(lambda: layout.source.referrers(image.digest))
    assert str(layout.blob(image.digest)) in str(error)


# What a layout holds


def test_it_is_a_source_that_asks_nothing_over_the_network(layout: Layout) -> None:
    source: Source = layout.source
    image = layout.add(make_image(), "1.0")
    source.manifest(source.resolve("1.0").digest)
    assert b"".join(source.blob(image.layers[0]))
    assert source.requests == 0


@pytest.mark.parametrize(
    "image",
    [make_image(), make_image(kind=DOCKER_MANIFEST), make_index([make_image(), make_image(platform=ARM64)])],
    ids=lambda image: str(image.manifest.kind),
)
def test_a_tag_leads_to_the_manifest_as_it_is(layout: Layout, image: FakeImage) -> None:
    layout.add(image, "1.0")
    assert layout.source.resolve("1.0") == image.descriptor
    assert layout.source.manifest(image.digest) == (image.content, image.descriptor.media_type)


def test_a_manifest_that_only_an_index_names_comes_without_a_type(layout: Layout) -> None:
    child = make_image(platform=ARM64)
    layout.add(make_index([child]), "1.0")
    assert layout.source.manifest(child.digest) == (child.content, "")


def test_a_blob_comes_whole_in_pieces_of_at_most_one_mebibyte(layout: Layout) -> None:
    content = make_layer("large", 2 * 1024 * 1024 + 5)
    image = layout.add(make_image(layers=[content]), "1.0")
    pieces = list(layout.source.blob(image.layers[0]))
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 1024 * 1024


def test_an_empty_blob_comes_empty(layout: Layout) -> None:
    image = layout.add(make_image(layers=[b""]), "1.0")
    assert list(layout.source.blob(image.layers[0])) == []


def test_wrong_bytes_of_a_blob_are_left_to_whoever_asked(layout: Layout) -> None:
    image = layout.add(make_image(), "1.0")
    layout.blob(image.layers[0].digest).write_bytes(bytes(1000))
    assert b"".join(layout.source.blob(image.layers[0])) == bytes(1000)


def test_a_blob_may_be_a_link(layout: Layout, tmp_path: Path) -> None:
    image = layout.add(make_image(), "1.0")
    path = layout.blob(image.layers[0].digest)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert Digest.of(b"".join(layout.source.blob(image.layers[0]))) == image.layers[0].digest


# Tags


@pytest.mark.parametrize("name", ["docker.io/library/alpine:1.0", "localhost:5000/app:1.0", "app:1.0"])
def test_the_tag_of_a_full_name_is_a_tag(layout: Layout, name: str) -> None:
    image = layout.add(make_image(), name)
    assert layout.source.resolve("1.0") == image.descriptor


@pytest.mark.parametrize(
    "name", ["localhost:1.0/app", "app-1.0", "app@sha256:1.0", ":1.0", "app:1.0:", "app:1.0.1", "app:V1.0", "1.0 "]
)
def test_other_names_are_not_taken_for_a_tag(layout: Layout, name: str) -> None:
    layout.add(make_image(), name)
    assert failure(lambda: layout.source.resolve("1.0")).what == "no such tag"


def test_the_exact_name_comes_before_a_full_one(layout: Layout) -> None:
    layout.add(make_image("other"), "docker.io/library/other:1.0")
    image = layout.add(make_image(), "1.0")
    assert layout.source.resolve("1.0") == image.descriptor


@pytest.mark.parametrize("names", [("1.0", "1.0"), ("one:1.0", "other:1.0")])
def test_a_tag_of_two_manifests_is_refused(layout: Layout, names: tuple[str, str]) -> None:
    digests = sorted(layout.add(make_image(name * 2 + str(n)), name).digest for n, name in enumerate(names))
    error = failure(lambda: layout.source.resolve("1.0"))
    assert error.what == f"names two manifests, {digests[0]} and {digests[1]}"
    assert error.where == f"oci:{layout.path}:1.0"


def test_a_tag_that_names_one_manifest_twice_is_one(layout: Layout) -> None:
    layout.add(make_image(), "1.0")
    image = layout.add(make_image(), "1.0")
    assert layout.source.resolve("1.0") == image.descriptor


def test_a_tag_that_is_not_there_is_named_with_those_that_are(layout: Layout) -> None:
    layout.add(make_image("one"), "1.0")
    layout.add(make_image("two"), "2.0")
    layout.add(make_image("three"), None)
    error = failure(lambda: layout.source.resolve("3.0"))
    assert error.where == f"oci:{layout.path}:3.0"
    assert error.todo == "write one that it has (1.0, 2.0)"


def test_a_layout_without_names_says_so(layout: Layout) -> None:
    layout.add(make_image(), None)
    assert "it has none" in failure(lambda: layout.source.resolve("1.0")).todo


def test_a_layout_is_read_anew_each_time(layout: Layout) -> None:
    layout.add(make_image("one"), "1.0")
    layout.source.resolve("1.0")
    layout.rows.clear()
    image = layout.add(make_image("two"), "1.0")
    assert layout.source.resolve("1.0") == image.descriptor


# What is broken


def all_actions(layout: Layout, image: FakeImage) -> list[Callable[[], object]]:
    return [
        lambda: layout.source.resolve("1.0"),
        lambda: layout.source.manifest(image.digest),
        lambda: list(layout.source.blob(image.layers[0])),
    ]


@pytest.mark.parametrize("number", range(3))
def test_a_folder_without_oci_layout_is_none(layout: Layout, number: int) -> None:
    image = layout.add(make_image(), "1.0")
    (layout.path / "oci-layout").unlink()
    error = failure(all_actions(layout, image)[number])
    assert error.where == str(layout.path)
    assert "is no OCI image layout" in error.what


@pytest.mark.parametrize("number", range(3))
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, number: int) -> None:
    image = make_image()
    source = LayoutSource(LayoutLocation(tmp_path / "nowhere"))
    actions = [
        lambda: source.resolve("1.0"),
        lambda: source.manifest(image.digest),
        lambda: list(source.blob(image.layers[0])),
    ]
    assert failure(actions[number]).where == str(tmp_path / "nowhere")


@pytest.mark.parametrize("document", [{}, {"imageLayoutVersion": "2.0.0"}, {"imageLayoutVersion": 1}])
def test_another_version_of_the_layout_is_refused(layout: Layout, document: object) -> None:
    image = layout.add(make_image(), "1.0")
    layout.write("oci-layout", document)
    for action in all_actions(layout, image):
        error = failure(action)
        assert error.where == str(layout.path / "oci-layout")
        assert "imageLayoutVersion" in error.what


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "null", "[" * 100_000, "\ud800"])
def test_a_file_that_is_no_json_object_is_named(layout: Layout, name: str, text: str) -> None:
    (layout.path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    error = failure(lambda: layout.source.resolve("1.0"))
    assert error.where == str(layout.path / name)
    assert "JSON" in error.what


def test_a_missing_index_is_named(layout: Layout) -> None:
    (layout.path / "index.json").unlink()
    error = failure(lambda: layout.source.resolve("1.0"))
    assert (error.where, error.what) == (str(layout.path / "index.json"), "is missing")


@pytest.mark.parametrize("rows", [{"a": 1}, "text", 5])
def test_an_index_whose_manifests_are_no_list_is_named(layout: Layout, rows: object) -> None:
    layout.write("index.json", {"manifests": rows})
    assert failure(lambda: layout.source.resolve("1.0")).where == str(layout.path / "index.json")


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:../../../../etc/passwd"},
        {"digest": "sha512:" + "0" * 128},
        {"digest": None},
        {"mediaType": 5},
        {"size": None},
        {"size": -1},
        {"size": True},
        {"size": "5"},
        {"annotations": {REF_NAME: 5}},
    ],
)
def test_a_row_that_is_wrong_is_named(layout: Layout, change: dict[str, Any]) -> None:
    layout.add(make_image("fine"), "0.9")
    layout.add(make_image(), "1.0")
    layout.rows[1] |= change
    layout.write_index()
    assert failure(lambda: layout.source.resolve("0.9")).where == f"{layout.path / 'index.json'}: manifests[1]"


@pytest.mark.parametrize("row", [5, None, "text", []])
def test_a_row_that_is_no_object_is_named(layout: Layout, row: object) -> None:
    layout.rows.append(row)
    layout.write_index()
    assert failure(lambda: layout.source.resolve("1.0")).where == f"{layout.path / 'index.json'}: manifests[0]"


@pytest.mark.parametrize("annotations", [None, [], "text", {}])
def test_a_row_may_have_no_annotations(layout: Layout, annotations: object) -> None:
    layout.add(make_image("none"), None)
    layout.rows[0]["annotations"] = annotations
    image = layout.add(make_image(), "1.0")
    assert layout.source.resolve("1.0") == image.descriptor


def test_a_tag_of_what_is_no_manifest_is_refused(layout: Layout) -> None:
    layout.add(make_image(), "1.0")
    layout.rows[0]["mediaType"] = "application/xml"
    layout.write_index()
    assert "'application/xml' is not that of a manifest" in failure(lambda: layout.source.resolve("1.0")).what


def test_a_manifest_that_is_missing_is_named_by_its_path(layout: Layout) -> None:
    image = layout.add(make_image(), "1.0")
    layout.blob(image.digest).unlink()
    error = failure(lambda: layout.source.manifest(image.digest))
    assert (error.where, error.what) == (str(layout.blob(image.digest)), "is missing")


def test_a_manifest_of_other_bytes_is_named_by_its_path(layout: Layout) -> None:
    image = layout.add(make_image(), "1.0")
    layout.blob(image.digest).write_bytes(image.content + b" ")
    error = failure(lambda: layout.source.manifest(image.digest))
    assert error.where == str(layout.blob(image.digest))
    assert error.what == f"holds other bytes than {image.digest}"


def test_a_manifest_over_four_mebibytes_is_refused(layout: Layout) -> None:
    content = bytes(MANIFEST_MAX_BYTES + 1)
    layout.blob(Digest.of(content)).write_bytes(content)
    assert "is larger than 4194304 bytes" in failure(lambda: layout.source.manifest(Digest.of(content))).what


def test_a_blob_that_is_missing_is_named_by_its_path(layout: Layout) -> None:
    missing = replace(make_image().layers[0], digest=Digest.of(b"nothing"))
    assert failure(lambda: list(layout.source.blob(missing))).where == str(layout.blob(missing.digest))


@pytest.mark.parametrize("size", [0, 999, 1001])
def test_a_blob_of_another_size_is_named_before_it_is_read(layout: Layout, size: int) -> None:
    image = layout.add(make_image(), "1.0")
    layout.blob(image.layers[0].digest).write_bytes(bytes(size))
    pieces = layout.source.blob(image.layers[0])
    error = failure(lambda: next(pieces))
    assert error.where == str(layout.blob(image.layers[0].digest))
    assert error.what == f"has {size} bytes, not the 1000 of its descriptor"


def test_a_blob_that_shrinks_while_it_is_read_is_an_error(layout: Layout) -> None:
    content = make_layer("large", 3 * 1024 * 1024)
    image = layout.add(make_image(layers=[content]), "1.0")
    pieces = layout.source.blob(image.layers[0])
    next(pieces)
    os.truncate(layout.blob(image.layers[0].digest), 1024 * 1024)
    assert "not the 3145728 of its descriptor" in failure(lambda: list(pieces)).what


def test_a_pipe_or_folder_in_the_place_of_a_blob_is_not_waited_for(layout: Layout) -> None:
    image = layout.add(make_image(), "1.0")
    for blob, make in zip(image.layers, (os.mkfifo, os.mkdir), strict=True):
        layout.blob(blob.digest).unlink()
        make(layout.blob(blob.digest))
        assert failure(lambda blob=blob: list(layout.source.blob(blob))).what == "is not a file"  # type: ignore[misc]


def test_a_link_in_a_ring_is_an_error(layout: Layout) -> None:
    image = layout.add(make_image(), "1.0")
    path = layout.blob(image.digest)
    path.unlink()
    path.symlink_to(path.name)
    assert failure(lambda: layout.source.manifest(image.digest)).where == str(path)


# The list of tags


def test_the_tags_of_a_layout_are_those_that_resolve(layout: Layout) -> None:
    image = make_image()
    for name in ("1.0", "docker.io/library/app:2.0", "no tag at all", "a/b", None):
        layout.add(image, name)
    assert layout.source.tags() == ("1.0", "2.0")
    for tag in layout.source.tags():
        assert layout.source.resolve(tag).digest == image.digest
