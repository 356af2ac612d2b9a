"""Referrers: what refers to an image is pinned with it, carried with it, and listed where clients look for it."""

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.digest import Digest
from seawall.errors import ExitCode
from seawall.lock import lock_text, parse_lock, read_lock
from seawall.media_type import OCI_INDEX
from seawall.referrer_list import Row, make_list, merged, read_rows, row_of
from seawall.tree import Tree
from seawall.writer import TreeWriter, hold
from unit.fake_registry import (
    AMD64,
    FakeImage,
    FakeRegistry,
    Fault,
    make_artifact,
    make_image,
    make_index,
    make_layer,
)
from unit.tool_site import Ran, Site, entry

REPO = "team/app"
NAME = f"up.example/{REPO}"


def carried(registry: FakeRegistry, *tags: Any, **more: Any) -> dict[str, Any]:
    return entry(registry, REPO, *tags) | {"referrers": True} | more


def listed(tree: Tree, subject: FakeImage, name: str = NAME) -> set[str]:
    """Return what the file says that a client is sent which asks for the referrers of *subject*."""
    path = tree.referrers_path(name, subject.digest)
    document = json.loads(path.read_bytes()) if path.exists() else {"manifests": []}
    return {row["digest"] for row in document["manifests"]}


def digests(*images: FakeImage) -> set[str]:
    return {str(image.digest) for image in images}


@pytest.fixture
def image(registry: FakeRegistry) -> FakeImage:
    return registry.add_image(REPO, "1", make_image("app"))


@pytest.fixture
def signature(registry: FakeRegistry, image: FakeImage) -> FakeImage:
    return registry.add_referrer(REPO, make_artifact("signature", image))


def in_tree(site: Site, *images: FakeImage) -> bool:
    return all(site.tree.linked_manifest(NAME, str(image.digest)) is not None for image in images)


# Carrying.


@pytest.mark.parametrize("api", [True, False], ids=["the API", "the tag that stands in for it"])
def test_what_refers_to_an_index_and_to_its_children_is_carried(
    api: bool, site: Site, registry: FakeRegistry, platforms: FakeImage
) -> None:
    registry.lists_referrers = api
    registry.add_image(REPO, "1", platforms)
    of_index = registry.add_referrer(REPO, make_artifact("of the index", platforms))
    of_child = registry.add_referrer(REPO, make_artifact("of a child", platforms.images[0]))
    site.publish(carried(registry, "1"))
    assert listed(site.tree, platforms) == digests(of_index)
    assert listed(site.tree, platforms.images[0]) == digests(of_child)
    assert not site.tree.referrers_path(NAME, platforms.images[1].digest).exists()
    for artifact in (of_index, of_child):
        assert in_tree(site, artifact)
        assert all(site.tree.links_blob(NAME, digest) for digest in artifact.blobs)
    assert list(site.tags()) == [f"{NAME}:1"]
    assert site.scrubbed() == []


def test_without_being_wanted_nothing_is_asked_for_and_nothing_carried(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(entry(registry, REPO, "1"))
    assert not registry.asked(part="/referrers/")
    assert not in_tree(site, signature)
    assert "referrers" not in site.lock_file.read_text()


def test_a_registry_without_the_api_is_asked_for_it_once(
    site: Site, registry: FakeRegistry, platforms: FakeImage
) -> None:
    registry.lists_referrers = False
    registry.add_image(REPO, "1", platforms)
    site.publish(carried(registry, "1"))
    assert len(registry.asked("GET", "/referrers/")) == 1
    assert len(registry.asked("GET", "/manifests/sha256-")) == 3


def test_a_server_that_has_a_page_for_every_address_has_no_such_api(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    registry.lists_referrers = False
    signature = registry.add_referrer(REPO, make_artifact("signature", image))
    registry.misbehave(Fault(on="/referrers/", redirect_to=f"{registry.url}/v2/"))
    site.publish(carried(registry, "1"))
    assert listed(site.tree, image) == digests(signature)


def test_a_list_of_many_pages_is_read_to_its_end(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    registry.referrers_page = 2
    found = [registry.add_referrer(REPO, make_artifact(f"number {n}", image)) for n in range(5)]
    site.publish(carried(registry, "1"))
    assert listed(site.tree, image) == digests(*found)
    assert len(registry.asked("GET", f"/referrers/{image.digest}")) == 3


def test_what_cosign_attaches_by_tags_is_carried_under_these_tags(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    tags = {f"sha256-{image.digest.hex}.{ending}": make_image(ending) for ending in ("sig", "att", "sbom")}
    for tag, attached in tags.items():
        registry.add_image(REPO, tag, attached)
    registry.add_image(REPO, f"sha256-{'0' * 64}.sig", make_image("of another image"))
    site.publish(carried(registry, "1"))
    expected = {f"{NAME}:{tag}": str(attached.digest) for tag, attached in tags.items()}
    assert site.tags() == {f"{NAME}:1": str(image.digest)} | expected
    assert set(json.loads((site.tree.tag_list_path(NAME) / "list").read_bytes())["tags"]) == {"1", *tags}
    assert site.scrubbed() == []
    registry.add_image(REPO, "1", make_image("the next"))
    site.publish(carried(registry, "1"))
    assert list(site.tags()) == [f"{NAME}:1"], "they are withdrawn with what they are about"


def test_what_refers_to_referrers_is_carried(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    above = registry.add_referrer(REPO, make_artifact("of the signature", signature))
    site.publish(carried(registry, "1"))
    assert listed(site.tree, signature) == digests(above)
    assert site.scrubbed() == []


def test_an_index_that_refers_to_an_image_comes_with_all_that_it_lists(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    child = make_image("one of the reports")
    document = json.loads(make_index([child]).content) | {"subject": {**_described(image)}, "artifactType": "a/b"}
    registry.add_image(REPO, None, child)
    content = json.dumps(document).encode()
    registry.store.manifests[REPO, str(Digest.of(content))] = (content, OCI_INDEX.media_type)
    site.publish(carried(registry, "1"))
    assert listed(site.tree, image) == {str(Digest.of(content))}
    assert in_tree(site, child)
    assert site.scrubbed() == []


def _described(image: FakeImage) -> dict[str, Any]:
    return {"mediaType": image.manifest.kind.media_type, "digest": str(image.digest), "size": len(image.content)}


def test_a_subset_has_what_refers_to_its_images_and_not_what_refers_to_the_sources_index(
    site: Site, registry: FakeRegistry, platforms: FakeImage
) -> None:
    registry.add_image(REPO, "1", platforms)
    of_index, of_kept, of_left = (
        registry.add_referrer(REPO, make_artifact(seed, about))
        for seed, about in zip(("index", "kept", "left"), (platforms, *platforms.images), strict=True)
    )
    site.publish(carried(registry, "1", platforms=[str(AMD64)]))
    assert listed(site.tree, platforms.images[0]) == digests(of_kept)
    assert not in_tree(site, of_index)
    assert not in_tree(site, of_left)
    assert site.scrubbed() == []


def test_what_refers_to_an_attestation_that_a_subset_keeps_is_carried(site: Site, registry: FakeRegistry) -> None:
    image, attestation = make_image("app"), make_image("attestation")
    document = json.loads(make_index([image, make_image("other")]).content)
    about = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": str(image.digest)}
    unknown = {"os": "unknown", "architecture": "unknown"}
    document["manifests"] += [_described(attestation) | {"platform": unknown, "annotations": about}]
    document["manifests"][1]["platform"]["architecture"] = "s390x"
    content = json.dumps(document).encode()
    for one in (image, attestation):
        registry.add_image(REPO, None, one)
    registry.store.manifests[REPO, "1"] = registry.store.manifests[REPO, str(Digest.of(content))] = (
        content,
        OCI_INDEX.media_type,
    )
    signature = registry.add_referrer(REPO, make_artifact("of the attestation", attestation))
    site.publish(carried(registry, "1", platforms=[str(AMD64)]))
    assert in_tree(site, image, attestation)
    assert listed(site.tree, attestation) == digests(signature)


def test_another_tree_gives_what_its_lists_name(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    other = site.folder / "other"
    ran = site.run("add", other, f"{site.root}/v2/{NAME}:1", "--referrers")
    assert ran.code == 0, ran.err
    assert listed(Tree(other), image) == digests(signature)


@pytest.mark.parametrize("source", ["docker-daemon:app", "docker-archive:app.tar", "oci:layout"])
def test_what_is_made_here_has_no_referrers(source: str, site: Site) -> None:
    compression = {"compression": "zstd"} if source == "oci:layout" else {}
    site.declare({"source": source, "name": "app", "tags": ["1"], "referrers": True, **compression})
    failed = site.lock()
    assert failed.code == ExitCode.INPUT
    assert "nothing refers to manifests that are made here" in failed.err


# Sources that lie.


def test_what_a_list_names_and_what_says_itself_otherwise_is_left_out(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    unrelated = registry.add_image(REPO, None, make_artifact("unrelated", make_image("another")))
    registry.claims[image.digest] = [unrelated.digest]
    site.publish(carried(registry, "1"))
    assert listed(site.tree, image) == digests(signature)
    assert not in_tree(site, unrelated)


def test_what_a_list_names_and_the_source_has_not_is_left_out(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    registry.claims[image.digest] = [Digest.of(b"gone")]
    site.publish(carried(registry, "1"))
    assert listed(site.tree, image) == digests(signature)


def refused(site: Site, registry: FakeRegistry) -> str:
    """Return the one line with which a lock ends that a source makes impossible."""
    site.declare(carried(registry, "1"))
    ran = site.lock()
    assert ran.code == ExitCode.SOURCE, ran.out
    assert not site.lock_file.exists()
    assert len(ran.err.splitlines()) == 1
    return ran.err


def test_a_referrer_with_other_bytes_is_refused(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    registry.misbehave(Fault(on=f"/manifests/{signature.digest}", wrong_bytes=True))
    assert "other bytes" in refused(site, registry)


def test_a_list_without_end_is_refused(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    registry.endless_referrers = True
    assert "has no end" in refused(site, registry)
    assert len(registry.requests) < 110


def test_a_list_whose_next_page_is_itself_is_refused(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    link = f'</v2/{REPO}/referrers/{image.digest}>; rel="next"'
    registry.misbehave(Fault(on="/referrers/", headers={"Link": link}))
    assert "has no end" in refused(site, registry)


def test_a_list_that_goes_on_elsewhere_is_refused(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    registry.misbehave(Fault(on="/referrers/", headers={"Link": '<http://elsewhere.example/>; rel="next"'}))
    assert "another server" in refused(site, registry)


def test_more_referrers_than_anybody_has_are_refused(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    registry.claims[image.digest] = [Digest.of(b"%d" % number) for number in range(1001)]
    assert "more than 1000 referrers" in refused(site, registry)


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        ("_FALSE_MAX", "named 2 manifests as referrers that are none"),
        ("_FOUND_MAX", "more than 2 referrers"),
        ("_ASKED_MAX", "list more than 2 manifests"),
        ("_BELOW_MAX", "more than 2 manifests below it"),
    ],
)
def test_a_source_is_not_asked_without_end(
    bound: str, says: str, site: Site, registry: FakeRegistry, platforms: FakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"seawall.referrers.{bound}", 2)
    registry.add_image(REPO, "1", platforms)
    registry.claims[platforms.digest] = [Digest.of(b"%d" % number) for number in range(3)]
    for number in range(3):
        registry.add_referrer(REPO, make_artifact(f"number {number}", platforms))
    assert says in refused(site, registry)


def test_referrers_of_referrers_without_end_are_refused(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    last = image
    for number in range(6):
        last = registry.add_referrer(REPO, make_artifact(f"level {number}", last))
    assert "more than 4 deep" in refused(site, registry)


def test_what_is_no_list_is_refused(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    registry.misbehave(Fault(on="/referrers/", body=b'{"manifests": "none"}'))
    assert "is not a list of referrers" in refused(site, registry)


def test_what_a_tree_cannot_serve_is_left_out(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    rows = [
        _described(signature) | {"digest": f"sha512:{'0' * 128}"},
        _described(signature) | {"mediaType": "application/vnd.oci.artifact.manifest.v1+json"},
        _described(signature) | {"mediaType": ["no", "text"]},
        "nothing",
        _described(signature),
    ]
    registry.misbehave(Fault(on=f"/referrers/{image.digest}", body=json.dumps({"manifests": rows}).encode()))
    site.publish(carried(registry, "1"))
    assert listed(site.tree, image) == digests(signature)


# The lock.


def test_a_lock_keeps_what_it_pins_without_a_request_and_upgrade_finds_what_is_new(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    old = site.lock_file.read_text()
    sbom = registry.add_referrer(REPO, make_artifact("sbom", image))
    kept = site.lock().answer
    assert (kept["changed"], kept["requests"]) == (False, 0)
    assert site.lock_file.read_text() == old
    (site.folder / "old.lock").write_text(old)
    shown = site.run("lock", site.images_file, "--upgrade")
    assert f"{NAME}@{sbom.digest}  (none)" in shown.out
    differs = site.run("diff", site.folder / "old.lock", site.lock_file)
    assert differs.code == 1
    assert f"{NAME}@{sbom.digest}" in differs.out
    assert "1 of 3 references differ" in differs.out
    assert site.run("diff", site.lock_file, site.root).code == 1
    assert site.sync().answer["referrers"] == [f"{NAME}@{sbom.digest}"]
    assert site.run("diff", site.lock_file, site.root).code == 0
    assert listed(site.tree, image) == digests(signature, sbom)


def test_two_trees_of_one_lock_have_the_same_bytes(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    registry.add_referrer(REPO, make_artifact("later", image))
    assert site.run("sync", site.lock_file, site.folder / "other").code == 0
    ours, theirs = (_served(root) for root in (site.root, site.folder / "other"))
    assert ours == theirs


def _served(root: Path) -> dict[str, bytes]:
    files = (path for path in (root / "v2").rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_wanting_referrers_of_what_is_pinned_moves_no_tag(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(entry(registry, REPO, "1"))
    registry.add_image(REPO, "1", make_image("the tag has moved upstream"))
    site.declare(carried(registry, "1"))
    moved = site.lock().answer["moved"]
    assert [row["reference"] for row in moved] == [f"{NAME}@{signature.digest}"]
    assert read_lock(site.lock_file).pins.popitem()[1].digest == image.digest
    assert site.lock().answer["requests"] == 0, "that nothing more refers to it is known as well"
    site.declare(entry(registry, REPO, "1"))
    assert site.lock().answer["requests"] == 0
    assert "referrers" not in site.lock_file.read_text()


def test_that_nothing_refers_to_an_image_is_pinned_too(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    site.publish(carried(registry, "1"))
    assert read_lock(site.lock_file).images[0].referrers == {image.digest: ()}
    assert site.lock().answer["requests"] == 0


def test_a_lock_reads_as_it_was_written(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    registry.add_image(REPO, f"sha256-{image.digest.hex}.sig", make_image("cosign's"))
    site.publish(carried(registry, "1"))
    text = site.lock_file.read_text()
    lock = parse_lock(text.encode(), "images.lock")
    assert lock_text(lock) == text
    assert lock.listed == {(NAME, image.digest): {signature.digest}}
    assert {str(reference) for reference in lock.digests} == {
        f"{NAME}:1",
        f"{NAME}:sha256-{image.digest.hex}.sig",
        f"{NAME}@{signature.digest}",
    }


def test_a_child_that_two_tags_share_is_asked_for_once_and_stays_as_it_is_pinned(
    site: Site, registry: FakeRegistry
) -> None:
    shared = make_image("shared")
    registry.add_image(REPO, "1", make_index([shared, make_image("one")]))
    tag = f"sha256-{shared.digest.hex}.sig"
    first = registry.add_image(REPO, tag, make_image("first signature"))
    site.publish(carried(registry, "1"))
    assert len(registry.asked("GET", f"/referrers/{shared.digest}")) == 1
    registry.add_image(REPO, tag, make_image("second signature"))
    registry.add_image(REPO, "2", make_index([shared, make_image("two")]))
    site.declare(carried(registry, "1", "2"))
    assert site.lock().code == 0
    assert site.sync().code == 0
    assert len(registry.asked("GET", f"/referrers/{shared.digest}")) == 1
    assert site.tags()[f"{NAME}:{tag}"] == str(first.digest)


def test_a_signature_that_is_carried_as_a_tag_anyway_is_no_contradiction(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    tag = f"sha256-{image.digest.hex}.sig"
    registry.add_image(REPO, tag, make_image("signature"))
    site.publish(carried(registry, "*"))
    assert set(site.tags()) == {f"{NAME}:1", f"{NAME}:{tag}"}
    registry.add_image(REPO, tag, make_image("new signature"))
    site.publish(carried(registry, "*"))
    assert site.lock().answer["requests"] == 0


def test_two_sources_that_sign_one_image_differently_are_refused(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    tag = f"sha256-{image.digest.hex}.sig"
    registry.add_image(REPO, tag, make_image("signature"))
    registry.add_image("other/app", "2", make_image("app"))
    registry.add_image("other/app", tag, make_image("other signature"))
    site.declare(carried(registry, "1"), entry(registry, "other/app", "2", name=NAME) | {"referrers": True})
    failed = site.lock()
    assert failed.code == ExitCode.INPUT
    assert tag in failed.err


# The place of the list is the tree's own.


def test_the_tag_of_a_list_is_not_an_image_to_carry(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    registry.lists_referrers = False
    signature = registry.add_referrer(REPO, make_artifact("signature", image))
    tag = f"sha256-{image.digest.hex}"
    site.publish(entry(registry, REPO, "*"))
    assert list(site.tags()) == [f"{NAME}:1"]
    site.declare(entry(registry, REPO, "1", tag))
    assert "own list of what refers to" in site.lock().err
    for command in (
        ("tag", site.root, f"{NAME}:1", tag),
        ("rm", site.root, f"{NAME}:{tag}"),
        ("add", site.root, f"docker://{registry.host}/{REPO}:{tag}", f"{NAME}:{tag}", "--plain-http"),
    ):
        ran = site.run(*command)
        assert ran.code == ExitCode.INPUT, command
        assert "own list of what refers to" in ran.err
    assert not in_tree(site, signature)


def test_the_list_has_its_tag_and_is_not_shown_as_one(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    behind_tag = site.tree.manifest_link(NAME, f"sha256-{image.digest.hex}")
    assert behind_tag.read_bytes() == site.tree.referrers_path(NAME, image.digest).read_bytes()
    assert behind_tag.resolve().suffix == ".oci-index"
    assert json.loads((site.tree.tag_list_path(NAME) / "list").read_bytes())["tags"] == ["1"]
    assert "sha256-" not in site.run("ls", site.root).out


# Lists, whoever brings what is on them.


def test_a_tag_with_a_subject_is_listed_without_being_asked_to(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    signature = registry.add_image(REPO, "signature", make_artifact("signature", image))
    site.publish(entry(registry, REPO, "signature"))
    assert listed(site.tree, image) == digests(signature), "before its subject"
    site.publish(entry(registry, REPO, "signature", "1"))
    assert listed(site.tree, image) == digests(signature)
    assert site.scrubbed() == []


def test_two_locks_and_a_person_share_the_list_of_one_image(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    found = []
    for name in ("first", "second"):
        found.append(registry.add_referrer(REPO, make_artifact(name, image)))
        site.publish(carried(registry, "1"), name=name)
        site.lock_file.unlink()
    found.append(registry.add_referrer(REPO, make_artifact("third", image)))
    source = f"docker://{registry.host}/{REPO}:1"
    added = site.run("add", site.root, source, f"{NAME}:by-hand", "--referrers", "--plain-http", "--json")
    assert added.answer["referrers"] == [f"{NAME}@{found[2].digest}"]
    assert listed(site.tree, image) == digests(*found)
    assert site.scrubbed() == []
    again = site.run("add", site.root, source, f"{NAME}:by-hand", "--referrers", "--plain-http", "--json")
    assert again.answer["changed"] is False


def test_a_staged_image_comes_with_what_refers_to_it(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    source = f"docker://{registry.host}/{REPO}:1"
    plain = site.run("stage", site.root, source, "plain", "--plain-http")
    assert plain.code == 0
    assert site.tree.linked_manifest("plain", str(signature.digest)) is None
    assert site.run("stage", site.root, source, NAME, "--plain-http", "--referrers").out.strip().startswith(NAME)
    assert listed(site.tree, image) == digests(signature)


def test_a_second_sync_asks_nothing_and_changes_nothing(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    before = _served(site.root)
    again = site.sync().answer
    assert (again["changed"], again["requests"], again["referrers"]) == (False, 0, [])
    assert _served(site.root) == before


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("last", ["link_manifest", "write_referrers", "_write"])
def test_a_run_that_is_killed_before_a_list_is_written_is_finished_by_the_next(
    last: str,
    site: Site,
    registry: FakeRegistry,
    image: FakeImage,
    signature: FakeImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site.publish(entry(registry, REPO, "1"))
    site.declare(carried(registry, "1"))
    assert site.lock().code == 0
    true = getattr(TreeWriter, last)

    def killed(writer: TreeWriter, *arguments: Any) -> None:
        if last == "write_referrers" or "referrers" in map(str, getattr(arguments[0], "parts", ())):
            raise _KilledError
        true(writer, *arguments)
        if last == "link_manifest" and arguments[1].startswith("sha256-"):
            raise _KilledError

    monkeypatch.setattr(TreeWriter, last, killed)
    with pytest.raises(_KilledError):
        site.sync()
    monkeypatch.setattr(TreeWriter, last, true)
    assert listed(site.tree, image) == set()
    assert site.sync().code == 0
    assert listed(site.tree, image) == digests(signature)
    assert site.scrubbed() == []
    releases = site.run("releases", site.root, "--json").answer
    assert releases[-1]["referrers"] == [f"{NAME}@{signature.digest}"]
    assert len(releases) == 2


# The life of a tree.


def pruned(site: Site) -> Any:
    ran = site.run("prune", site.root, "--keep-releases", 1, "--grace", "0s", "--json")
    assert ran.code == 0, ran.err
    return ran.answer


def test_prune_keeps_the_lists_of_what_is_kept_and_drops_those_of_what_goes(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    next_image = registry.add_image(REPO, "1", make_image("next"))
    next_signature = registry.add_referrer(REPO, make_artifact("next signature", next_image))
    site.publish(carried(registry, "1"))
    assert listed(site.tree, image) == digests(signature)
    assert pruned(site)["unlisted"] == [f"{NAME}@{image.digest}"]
    assert not site.tree.referrers_path(NAME, image.digest).exists()
    assert not site.tree.manifest_link(NAME, f"sha256-{image.digest.hex}").is_symlink()
    assert not in_tree(site, signature)
    assert listed(site.tree, next_image) == digests(next_signature)
    assert site.scrubbed() == []
    assert pruned(site)["changed"] is False


def test_prune_removes_the_list_that_a_longer_one_has_replaced(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    replaced = Digest.of(site.tree.referrers_path(NAME, image.digest).read_bytes())
    registry.add_referrer(REPO, make_artifact("sbom", image))
    site.publish(carried(registry, "1"))
    assert site.tree.linked_manifest(NAME, str(replaced)) is not None
    assert pruned(site)["removed"] == [str(replaced)]
    assert site.scrubbed() == []


def test_prune_leaves_no_repository_behind_that_served_an_image_and_its_signature(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    site.publish()
    answer = pruned(site)
    assert answer["repositories"] == [NAME]
    assert not site.tree.repository_path(NAME).exists()
    assert not [path for path in (site.root / "content").rglob("*") if path.is_file()]
    assert site.scrubbed() == []


@pytest.mark.parametrize("damage", ["missing", "other", "no tag"])
def test_verify_finds_a_list_that_is_not_right_and_prune_makes_it_anew(
    damage: str, site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    path = site.tree.referrers_path(NAME, image.digest)
    tag = site.tree.manifest_link(NAME, f"sha256-{image.digest.hex}")
    right = path.read_bytes()
    if damage == "no tag":
        tag.unlink()
    else:
        path.unlink()
    if damage == "other":
        path.write_bytes(make_list(NAME, image.digest, [row_of(make_artifact("other", image).manifest)]).index.content)
    kind, place = {"missing": ("stale", path), "other": ("stale", path), "no tag": ("stale", tag)}[damage]
    found = [(row["kind"], row["path"]) for row in site.scrubbed()]
    assert found == [(kind, str(place.relative_to(site.root)))]
    assert pruned(site)["relisted"] == [f"{NAME}@{image.digest}"]
    assert path.read_bytes() == right
    assert site.scrubbed() == []


def test_a_list_of_nothing_is_foreign(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    site.publish(entry(registry, REPO, "1"))
    with hold(site.tree) as writer:
        writer.write_referrers([make_list(NAME, image.digest, [])])
    kinds = {(row["kind"], row["what"]) for row in site.scrubbed()}
    assert kinds == {("foreign", "nothing refers to it"), ("foreign", "lists nothing")}
    assert pruned(site)["unlisted"] == [f"{NAME}@{image.digest}"]
    assert site.scrubbed() == []


def test_a_damaged_list_is_named_before_anything_is_written(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    path = site.tree.referrers_path(NAME, image.digest)
    path.unlink()
    path.write_text("{")
    registry.add_referrer(REPO, make_artifact("sbom", image))
    site.declare(carried(registry, "1"))
    site.lock("--upgrade")
    failed = site.sync()
    assert failed.code == ExitCode.TREE
    assert "is not a list of referrers; run seawall prune" in failed.err
    pruned(site)
    assert site.sync().code == 0
    assert site.scrubbed() == []


def test_a_rollback_moves_tags_and_leaves_the_lists_to_what_is_there(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(entry(registry, REPO, "1"))
    registry.add_image(REPO, f"sha256-{image.digest.hex}.sig", make_image("cosign's"))
    site.publish(carried(registry, "1"))
    assert site.run("rollback", site.root, 1).code == 0
    assert list(site.tags()) == [f"{NAME}:1"]
    assert listed(site.tree, image) == digests(signature)
    assert site.scrubbed() == []


def test_rm_takes_a_tag_away_and_leaves_the_list(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    assert site.run("rm", site.root, f"{NAME}:1").code == 0
    assert listed(site.tree, image) == digests(signature)
    assert site.scrubbed() == []


# Bundles.


def bundled(site: Site, since: int) -> Path:
    file = site.folder / f"since-{since}.tar"
    assert site.run("bundle", site.root, file, "--since", since).code == 0
    return file


def unbundled(site: Site, file: Path) -> Ran:
    return site.run("unbundle", file, site.folder / "far", "--json")


def test_a_bundle_brings_referrers_and_their_lists(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    assert unbundled(site, bundled(site, 0)).code == 0
    assert _served(site.folder / "far") == _served(site.root)


def test_a_bundle_brings_a_referrer_that_came_without_any_tag_moving(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.publish(carried(registry, "1"))
    assert unbundled(site, bundled(site, 0)).code == 0
    sbom = registry.add_referrer(REPO, make_artifact("sbom", image))
    assert site.publish(carried(registry, "1")).answer["release"] == 2
    file = bundled(site, 1)
    brought = unbundled(site, file).answer
    far = Tree(site.folder / "far")
    assert listed(far, image) == digests(signature, sbom)
    assert str(signature.digest) not in {row["digest"] for row in brought["stored"]}, "it was there"
    assert unbundled(site, file).answer["changed"] is False
    assert site.run("verify", far.root).code == 0
    registry.add_image(REPO, "1", make_image("next"))
    site.publish(carried(registry, "1"))
    assert unbundled(site, bundled(site, 2)).code == 0


# A server, asked as clients ask.


@pytest.mark.parametrize("api", [True, False], ids=["the API", "the tag that stands in for it"])
def test_a_server_has_to_list_what_the_lock_pins(
    api: bool, site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    registry.lists_referrers = api
    registry.referrers_page = 1
    signature, sbom = (registry.add_referrer(REPO, make_artifact(seed, image)) for seed in ("signature", "sbom"))
    site.declare(carried(registry, "1", name=REPO))
    assert site.lock().code == 0
    registry.misbehave(Fault(on="/uploads/", status=405, body=b'{"errors":[{"code":"UNSUPPORTED"}]}'))
    assert failures(site, registry) == []
    content, kind = registry.store.manifests.pop((REPO, str(sbom.digest)))
    registry.add_referrer(REPO, signature)
    registry.store.manifests["elsewhere", str(sbom.digest)] = (content, kind)
    assert f"does not list {sbom.digest}" in {row["what"] for row in failures(site, registry)}


def failures(site: Site, registry: FakeRegistry) -> list[dict[str, str]]:
    found: list[dict[str, str]] = site.run("verify", registry.url, "--lock", site.lock_file, "--json").answer[
        "failures"
    ]
    return found


def test_a_list_of_another_type_does_not_hold(
    site: Site, registry: FakeRegistry, image: FakeImage, signature: FakeImage
) -> None:
    site.declare(carried(registry, "1", name=REPO))
    site.lock()
    registry.misbehave(Fault(on="/referrers/", headers={"Content-Type": "application/json"}))
    assert any("not that of an index" in row["what"] for row in failures(site, registry))


# The list as a value.


def test_a_row_says_what_the_artifact_is() -> None:
    image = make_image("app")
    typed = make_artifact("a", image, artifact_type="a/b", annotations={"x": "y"})
    old = make_artifact("b", image, artifact_type=None, config_type="application/vnd.example.config")
    rows = [json.loads(row_of(one.manifest).text) for one in (typed, old)]
    assert rows[0] == _described(typed) | {"artifactType": "a/b", "annotations": {"x": "y"}}
    assert rows[1] == _described(old) | {"artifactType": "application/vnd.example.config"}


ARTIFACTS = [make_artifact(f"{number}", make_image("app")) for number in range(6)]
SUBJECT = make_image("app").digest


@given(st.permutations(ARTIFACTS), st.lists(st.integers(0, 6), max_size=4), st.sets(st.sampled_from(range(6))))
def test_a_list_is_a_function_of_the_set(order: list[FakeImage], cuts: list[int], again: Iterable[int]) -> None:
    at_once = make_list("app", SUBJECT, (row_of(one.manifest) for one in ARTIFACTS))
    there: dict[tuple[str, Digest], tuple[Row, ...]] = {}
    edges = [0, *sorted(cuts), len(order)]
    for start, end in pairwise(edges):
        for one in merged(there, (("app", image.manifest) for image in order[start:end])):
            there["app", SUBJECT] = read_rows(one.index.content) or ()
    assert merged(there, (("app", ARTIFACTS[number].manifest) for number in again)) == ()
    assert make_list("app", SUBJECT, there["app", SUBJECT]) == at_once


def test_a_list_names_only_what_refers_to_its_subject_in_its_repository() -> None:
    other = make_artifact("other", make_image("another"))
    lists = merged({}, [("a", ARTIFACTS[0].manifest), ("b", ARTIFACTS[1].manifest), ("a", other.manifest)])
    found = {(one.repository, one.subject): [child.digest for child in one.index.children] for one in lists}
    assert found == {
        ("a", SUBJECT): [ARTIFACTS[0].digest],
        ("b", SUBJECT): [ARTIFACTS[1].digest],
        ("a", make_image("another").digest): [other.digest],
    }


def test_annotations_that_would_make_a_list_too_large_are_refused(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    large = {"x": make_layer("large", 1_200_000).hex()}
    for number in range(2):
        registry.add_referrer(REPO, make_artifact(f"{number}", image, annotations=large))
    site.declare(carried(registry, "1"))
    assert site.lock().code == 0
    failed = site.sync()
    assert failed.code == ExitCode.SOURCE
    assert "larger than 4194304 bytes" in failed.err
    assert not registry.asked("GET", "/blobs/")
