"""Manifests: what they say, and what is refused before anybody relies on it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.digest import Digest
from seawall.errors import SourceError
from seawall.manifest import (
    MANIFEST_MAX_BYTES,
    Descriptor,
    Manifest,
    Platform,
    config_platform,
    parse_manifest,
)
from seawall.media_type import DOCKER_LIST, DOCKER_MANIFEST, MANIFEST_KINDS, OCI_INDEX, OCI_MANIFEST, ManifestKind
from unit.fake_registry import AMD64, ARM64, make_image, make_index

CONFIG: dict[str, Any] = {
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": str(Digest.of(b"config")),
    "size": 6,
}
LAYER: dict[str, Any] = {
    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
    "digest": str(Digest.of(b"layer")),
    "size": 5,
}
IMAGE: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST.media_type,
    "config": CONFIG,
    "layers": [LAYER],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_INDEX.media_type,
    "manifests": [{"mediaType": OCI_MANIFEST.media_type, "digest": str(Digest.of(b"image")), "size": 5}],
}


def parse(document: Mapping[str, Any], media_type: str = "") -> Manifest:
    return parse_manifest(json.dumps(document).encode(), "docker://registry.example/app:1.0", media_type)


def complaint(document: object, media_type: str = "") -> str:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(SourceError) as caught:
        parse_manifest(content, "docker://registry.example/app:1.0", media_type)
    assert caught.value.where == "docker://registry.example/app:1.0"
    assert "\n" not in str(caught.value)
    return caught.value.what


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


# What a manifest says


def test_an_image_names_its_config_and_layers_and_keeps_its_bytes() -> None:
    content = json.dumps(IMAGE, indent=3).encode()
    manifest = parse_manifest(content, "here")
    assert manifest.content == content
    assert manifest.digest == Digest.of(content)
    assert manifest.kind == OCI_MANIFEST
    assert manifest.config == Descriptor(CONFIG["mediaType"], Digest.of(b"config"), 6)
    assert manifest.layers == (Descriptor(LAYER["mediaType"], Digest.of(b"layer"), 5),)
    assert manifest.children == ()
    assert manifest.descriptor == Descriptor(OCI_MANIFEST.media_type, Digest.of(content), len(content))


def test_an_index_names_its_manifests_with_their_platforms() -> None:
    images = make_image(platform=AMD64), make_image(platform=ARM64)
    manifest = parse_manifest(make_index(images).content, "here")
    assert [child.digest for child in manifest.children] == [image.digest for image in images]
    assert [child.platform for child in manifest.children] == [AMD64, ARM64]
    assert (manifest.config, manifest.layers, manifest.blobs) == (None, (), ())


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST], ids=str)
def test_all_four_kinds_are_known(kind: ManifestKind) -> None:
    document = INDEX if kind.is_index else IMAGE
    assert parse({**document, "mediaType": kind.media_type}).kind == kind


def test_the_type_in_a_manifest_comes_before_the_one_it_came_with() -> None:
    assert parse({**IMAGE, "mediaType": DOCKER_MANIFEST.media_type}, OCI_MANIFEST.media_type).kind == DOCKER_MANIFEST


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST], ids=str)
def test_the_type_it_came_with_counts_where_a_manifest_states_none(kind: ManifestKind) -> None:
    assert parse(without(IMAGE, "mediaType"), f"{kind.media_type}; charset=utf-8").kind == kind


@pytest.mark.parametrize("media_type", ["", "application/octet-stream", "text/html"])
def test_a_manifest_without_any_useful_type_is_what_it_holds(media_type: str) -> None:
    assert parse(without(IMAGE, "mediaType"), media_type).kind == OCI_MANIFEST
    assert parse(without(INDEX, "mediaType"), media_type).kind == OCI_INDEX


def test_a_blob_that_is_named_twice_is_one_blob() -> None:
    manifest = parse({**IMAGE, "layers": [LAYER, LAYER]})
    assert len(manifest.layers) == 2
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(b"config"), Digest.of(b"layer")]


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ],
)
def test_a_foreign_layer_is_not_to_be_served(media_type: str) -> None:
    foreign = {**LAYER, "mediaType": media_type, "urls": ["https://vendor.example/layer"]}
    manifest = parse({**IMAGE, "layers": [foreign]})
    assert manifest.layers[0].is_foreign
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(b"config")]


def test_a_layer_that_is_called_foreign_but_has_no_other_place_is_served() -> None:
    layer = {**LAYER, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}
    assert len(parse({**IMAGE, "layers": [layer]}).blobs) == 2


def test_urls_alone_do_not_make_a_layer_foreign() -> None:
    assert len(parse({**IMAGE, "layers": [{**LAYER, "urls": ["https://cdn.example/layer"]}]}).blobs) == 2


@pytest.mark.parametrize("empty", [None, []])
def test_an_index_may_list_nothing(empty: object) -> None:
    assert parse({**INDEX, "manifests": empty}).children == ()


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        (Platform("linux", "amd64"), "linux/amd64"),
        (Platform("linux", "arm", "v7"), "linux/arm/v7"),
        (Platform("", ""), ""),
    ],
)
def test_a_platform_prints_as_docker_writes_it(platform: Platform, text: str) -> None:
    assert str(platform) == text


@pytest.mark.parametrize(
    ("config", "platform"),
    [
        (b'{"os": "linux", "architecture": "amd64"}', AMD64),
        (b'{"os": "linux", "architecture": "arm64", "variant": "v8"}', ARM64),
        (b'{"os": "linux"}', None),
        (b"{}", None),
        (b"[]", None),
        (b"no json", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_a_config_states_a_platform_or_none(config: bytes, platform: Platform | None) -> None:
    assert config_platform(config) == platform


# What is refused


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xfe", b"{", b"[" * 100_000])
def test_what_is_no_json_is_no_manifest(content: bytes) -> None:
    assert complaint(content).startswith("manifest is not JSON")


@pytest.mark.parametrize("document", [[], "text", 5, None, True])
def test_json_that_is_no_object_is_no_manifest(document: object) -> None:
    assert complaint(document) == "manifest is not a JSON object"


def test_a_manifest_over_four_mebibytes_is_refused_unread() -> None:
    assert complaint(b" " * (MANIFEST_MAX_BYTES + 1)) == "manifest of 4194305 bytes is larger than 4194304"


def test_a_manifest_of_four_mebibytes_is_taken() -> None:
    content = json.dumps(IMAGE).encode()
    assert parse_manifest(content.ljust(MANIFEST_MAX_BYTES), "here").kind == OCI_MANIFEST


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({"schemaVersion": 1, "name": "app", "fsLayers": []}, "application/vnd.docker.distribution.manifest.v1+json"),
        ({"schemaVersion": 1, "name": "app"}, ""),
        ({"schemaVersion": 2}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ],
)
def test_schema_1_is_refused_by_its_name(document: object, media_type: str) -> None:
    assert "Docker schema 1" in complaint(document, media_type)


@pytest.mark.parametrize("extra", [{"manifests": []}, {"manifests": INDEX["manifests"]}])
def test_an_image_that_is_an_index_too_is_refused(extra: dict[str, Any]) -> None:
    assert complaint({**IMAGE, **extra}) == "manifest is an image and an index at once"


@pytest.mark.parametrize("version", [None, 0, 3, "2", [2]])
def test_another_schema_version_is_refused(version: object) -> None:
    assert "schemaVersion" in complaint({**IMAGE, "schemaVersion": version})


@pytest.mark.parametrize("media_type", ["application/json", "application/vnd.oci.image.config.v1+json"])
def test_another_media_type_is_refused(media_type: str) -> None:
    assert complaint({**IMAGE, "mediaType": media_type}) == f"media type {media_type!r} is not that of a manifest"


@pytest.mark.parametrize("media_type", [5, ["a"], {"a": "b"}, True])
def test_a_media_type_that_is_no_text_is_refused(media_type: object) -> None:
    assert complaint({**IMAGE, "mediaType": media_type}) == "manifest's mediaType is not a string"


def test_a_document_that_holds_nothing_of_a_manifest_is_refused() -> None:
    assert "is not that of a manifest" in complaint({"schemaVersion": 2})


@pytest.mark.parametrize("config", [None, [], "text", {}])
def test_an_image_without_a_config_is_malformed(config: object) -> None:
    assert complaint({**IMAGE, "config": config}).startswith("manifest is malformed")


@pytest.mark.parametrize(
    "change",
    [
        {"digest": None},
        {"digest": 5},
        {"digest": "sha256:../../../../etc/passwd"},
        {"digest": "sha512:" + "0" * 128},
        {"digest": "sha256:" + "F" * 64},
        {"size": None},
        {"size": -1},
        {"size": "5"},
        {"size": 5.0},
        {"size": True},
        {"mediaType": None},
        {"mediaType": 5},
    ],
)
def test_a_descriptor_that_is_wrong_makes_the_manifest_malformed(change: dict[str, Any]) -> None:
    assert complaint({**IMAGE, "layers": [{**LAYER, **change}]}).startswith("manifest is malformed")
    assert complaint({**IMAGE, "config": {**CONFIG, **change}}).startswith("manifest is malformed")
    child = {**INDEX["manifests"][0], **change}
    assert complaint({**INDEX, "manifests": [child]}).startswith("manifest is malformed")


@pytest.mark.parametrize("rows", ["text", 5, {"a": 1}, [5], [None], [[]]])
def test_lists_that_are_none_make_the_manifest_malformed(rows: object) -> None:
    assert complaint({**IMAGE, "layers": rows}).startswith("manifest is malformed")
    assert complaint({**INDEX, "manifests": rows}).startswith("manifest is malformed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(LAYER),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted({*LAYER, "urls"})), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted({*IMAGE, *INDEX})), JSON), st.sampled_from(["", OCI_INDEX.media_type]))
def test_any_document_is_a_manifest_or_a_one_line_error(document: dict[str, Any], media_type: str) -> None:
    said = ""
    try:
        assert parse({"schemaVersion": 2, **document}, media_type).kind in MANIFEST_KINDS
    except SourceError as error:
        said = str(error)
    assert "\n" not in said
