"""Fewer platforms: a new index, the same wherever it is made, and never on the lock's word alone."""

import json
from typing import Any

import pytest

from seawall.digest import Digest
from seawall.errors import ExitCode, InputError, SourceError
from seawall.manifest import Platform, parse_manifest
from seawall.media_type import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, ManifestKind
from seawall.subset import subset
from unit.fake_registry import AMD64, ARM64, FakeImage, FakeRegistry, make_image, make_index
from unit.tool_site import Site, entry

NAME = "up.example/team/app"
ARM_V7 = Platform("linux", "arm", "v7")
UNKNOWN = Platform("unknown", "unknown")
PLATFORMS = (AMD64, ARM64, ARM_V7)


def index_of(*images: FakeImage, kind: ManifestKind = OCI_INDEX, **fields: Any) -> FakeImage:
    """Return an index of *images* and, as BuildKit writes it, an attestation about each."""
    about = {image.digest: make_image(f"attestation of {image.digest}", platform=UNKNOWN) for image in images}
    index = make_index([*images, *about.values()], kind=kind)
    document = json.loads(index.content) | fields
    for row, attested in zip(document["manifests"][len(images) :], about, strict=True):
        row["annotations"] = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": str(attested),
        }
    return FakeImage(parse_manifest(json.dumps(document, indent=3).encode(), "a made index"), images=index.images)


@pytest.fixture
def index(registry: FakeRegistry) -> FakeImage:
    """team/app:1.0 of three platforms, each with an attestation."""
    made = index_of(*(make_image(platform=platform) for platform in PLATFORMS), annotations={"a": "\u00e4"})
    return registry.add_image("team/app", "1.0", made)


def declare(site: Site, registry: FakeRegistry, *platforms: str, **fields: Any) -> None:
    site.declare(entry(registry, "team/app", "1.0") | {"platforms": list(platforms)} | fields)


def published(site: Site, registry: FakeRegistry, *platforms: str) -> dict[str, Any]:
    """Publish these platforms of team/app:1.0; return its index as the tree has it."""
    declare(site, registry, *platforms)
    locked = site.lock()
    assert locked.code == 0, locked.err
    synced = site.sync()
    assert synced.code == 0, synced.err
    assert site.scrubbed() == []
    document: dict[str, Any] = json.loads((site.root / f"v2/{NAME}/manifests/1.0").read_bytes())
    return document


def test_only_wanted_platforms_and_their_attestations_are_carried(
    site: Site, registry: FakeRegistry, index: FakeImage
) -> None:
    document = published(site, registry, "linux/amd64", "linux/arm64")
    source = json.loads(index.content)
    assert document == source | {"manifests": [source["manifests"][n] for n in (0, 1, 3, 4)]}
    unwanted = [index.images[2], index.images[5]]
    assert not [image for image in unwanted if site.tree.stored_manifest(image.digest)]
    assert not [blob for image in unwanted for blob in image.blobs if registry.asked("GET", f"/blobs/{blob}")]


def test_the_lock_says_both_digests(site: Site, registry: FakeRegistry, index: FakeImage) -> None:
    published(site, registry, "linux/amd64")
    text = site.lock_file.read_text()
    assert f"sourceDigest: {index.digest}" in text
    assert f"digest: {site.tags()[f'{NAME}:1.0']}" in text
    assert site.tags()[f"{NAME}:1.0"] != str(index.digest)


def test_a_second_run_asks_nothing_and_other_platforms_are_pinned_anew(
    site: Site, registry: FakeRegistry, index: FakeImage
) -> None:
    published(site, registry, "linux/amd64")
    asked = len(registry.requests)
    assert site.lock().answer["changed"] is False
    assert site.sync().answer["changed"] is False
    assert len(registry.requests) == asked
    assert len(published(site, registry, "linux/amd64", "linux/arm/v7")["manifests"]) == 4


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST], ids=str)
def test_a_subset_is_the_same_bytes_each_time_and_keeps_its_kind(kind: ManifestKind) -> None:
    images = [make_image(kind=DOCKER_MANIFEST, platform=platform) for platform in PLATFORMS]
    source = index_of(*images, kind=kind).manifest
    made = subset(source, [AMD64], "x")
    assert made == subset(source, [AMD64], "x")
    assert made.kind == kind
    assert made.digest == Digest.of(made.content) != source.digest
    assert b" " not in made.content


def test_known_bytes() -> None:
    rows = [
        {"size": 2, "platform": {"architecture": a, "os": "linux"}, "mediaType": DOCKER_MANIFEST.media_type}
        | {"digest": f"sha256:{digit * 64}"}
        for a, digit in (("amd64", "a"), ("s390x", "b"))
    ]
    text = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX.media_type, "manifests": rows})
    made = subset(parse_manifest(text.encode(), "x"), [AMD64], "x")
    assert made.content.decode() == (
        f'{{"manifests":[{{"digest":"sha256:{"a" * 64}","mediaType":"{DOCKER_MANIFEST.media_type}",'
        '"platform":{"architecture":"amd64","os":"linux"},"size":2}],'
        f'"mediaType":"{OCI_INDEX.media_type}","schemaVersion":2}}'
    )


def test_where_all_platforms_stay_the_index_stays_as_it_is(
    site: Site, registry: FakeRegistry, index: FakeImage
) -> None:
    published(site, registry, *map(str, PLATFORMS))
    assert site.tags() == {f"{NAME}:1.0": str(index.digest)}
    assert "sourceDigest" not in site.lock_file.read_text()


def test_a_wanted_platform_that_is_not_there_is_named(site: Site, registry: FakeRegistry, index: FakeImage) -> None:
    declare(site, registry, "linux/amd64", "linux/s390x")
    ran = site.lock()
    assert ran.code == ExitCode.SOURCE
    assert (
        "has no image for linux/s390x; correct platforms: it has linux/amd64, linux/arm/v7, linux/arm64/v8" in ran.err
    )


def test_an_image_of_one_platform_is_carried_if_that_is_wanted(site: Site, registry: FakeRegistry) -> None:
    image = registry.add_image("team/app", "1.0", make_image(platform=ARM64))
    declare(site, registry, "linux/amd64")
    ran = site.lock()
    assert ran.code == ExitCode.SOURCE
    assert "is an image for linux/arm64/v8 alone" in ran.err
    declare(site, registry, "linux/amd64", "linux/arm64")
    assert site.lock().code == 0
    assert site.sync().code == 0
    assert site.tags() == {f"{NAME}:1.0": str(image.digest)}


def test_a_lock_that_was_tampered_with_is_refused(site: Site, registry: FakeRegistry, index: FakeImage) -> None:
    declare(site, registry, "linux/amd64")
    assert site.lock().code == 0
    text = site.lock_file.read_text()
    site.lock_file.write_text(text.replace("- linux/amd64", "- linux/arm64"))
    ran = site.sync()
    assert ran.code == ExitCode.INPUT
    assert "and the lock says sha256:" in ran.err
    assert not (site.root / "v2" / NAME).exists()
    site.lock_file.write_text(text.replace("  platforms:\n  - linux/amd64\n", ""))
    ran = site.sync()
    assert ran.code == ExitCode.INPUT
    assert "has a sourceDigest and no platforms" in ran.err


def test_an_immutable_tag_keeps_its_platforms(site: Site, registry: FakeRegistry, index: FakeImage) -> None:
    declare(site, registry, "linux/amd64", immutable=True)
    assert site.lock().code == 0
    declare(site, registry, "linux/arm64", immutable=True)
    assert "is immutable and must not move" in site.lock().err


def test_an_index_that_cannot_be_written_again_is_refused() -> None:
    source = index_of(make_image(), make_image(platform=ARM64))
    hostile = source.content.replace(b'"schemaVersion"', b'"x": 1e999, "schemaVersion"')
    with pytest.raises(SourceError, match="cannot be written again"):
        subset(parse_manifest(hostile, "x"), [AMD64], "x")


@pytest.mark.parametrize(
    ("platform", "wanted", "fits"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm/v7", "linux/arm", True),
        ("linux/arm", "linux/arm/v7", False),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("windows/amd64", "linux/amd64", False),
    ],
)
def test_a_platform_without_a_variant_means_all_of_them(platform: str, wanted: str, fits: bool) -> None:
    assert Platform.parse(platform).fits(Platform.parse(wanted)) is fits


@pytest.mark.parametrize("text", ["linux", "", "linux/", "linux/amd64/v1/x", "Linux/amd64", "linux/amd64\n", "all"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a platform"):
        Platform.parse(text)
