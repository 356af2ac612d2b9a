"""Prune: what nothing needs goes, and nothing else, whatever happens on the way."""

import io
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.digest import Digest
from seawall.errors import ExitCode
from seawall.in_use import InUse
from seawall.inventory import Content, Inventory, Links, Needs, Record, take_inventory
from seawall.lock import Lock, LockedImage, Pin
from seawall.manifest import parse_manifest
from seawall.media_type import OCI_MANIFEST
from seawall.progress import Silent
from seawall.prune import Keep, PrunePlan, find_roots, plan_prune, prune
from seawall.release import Release, TagMove
from seawall.tree import StoredManifest
from seawall.writer import TreeWriter, hold
from unit.fake_registry import FakeImage, FakeRegistry, make_image, make_index, make_layer
from unit.tool_site import Ran, Site, entry

NAME = "up.example/team/app"


@pytest.fixture
def images(site: Site, registry: FakeRegistry) -> list[FakeImage]:
    """Four releases, each of which moves "latest" to the next of four images that share a layer."""
    base = make_layer("base", 50_000)
    images = [make_image(f"v{n}", layers=[base, make_layer(f"v{n}", 1000 + n)]) for n in range(4)]
    for image in images:
        registry.add_image("team/app", "latest", image)
        site.publish(entry(registry, "team/app", "latest"))
    return images


def pruned(site: Site, *options: object, keep: int = 1, grace: str = "0s") -> Ran:
    ran = site.run("prune", site.root, "--keep-releases", keep, "--grace", grace, "--json", *options)
    assert ran.code == 0, ran.err
    return ran


def served(site: Site) -> set[str]:
    return {str(digest) for digest in site.tree.targets(NAME)[1]}


def digests(*images: FakeImage) -> set[str]:
    return {str(image.digest) for image in images}


# What goes.


def test_only_what_is_tagged_stays_where_one_release_is_kept(site: Site, images: list[FakeImage]) -> None:
    before = sum(path.stat().st_size for path in (site.root / "content").rglob("*") if path.is_file())
    answer = pruned(site).answer
    after = sum(path.stat().st_size for path in (site.root / "content").rglob("*") if path.is_file())
    assert served(site) == digests(images[3])
    assert answer["size"] == before - after > 3000
    assert site.tree.blob_size(images[3].layers[0].digest) == 50_000, "the layer that all of them share"
    assert site.scrubbed() == []
    assert pruned(site).answer["changed"] is False


def test_releases_that_are_kept_can_be_rolled_back_to_and_others_are_refused(
    site: Site, images: list[FakeImage]
) -> None:
    pruned(site, keep=3)
    assert served(site) == digests(*images[1:])
    refused = site.run("rollback", site.root, 1)
    assert refused.code == ExitCode.INPUT
    assert "any more; sync a lock that names it" in refused.err
    assert site.tags() == {f"{NAME}:latest": str(images[3].digest)}
    assert site.run("rollback", site.root, 2).code == 0
    assert site.tags() == {f"{NAME}:latest": str(images[1].digest)}
    assert site.scrubbed() == []


def test_nothing_goes_within_the_grace_period(site: Site, images: list[FakeImage]) -> None:
    assert pruned(site, grace="1h").answer["changed"] is False
    assert site.run("prune", site.root, "--keep-releases", 1).out.endswith("unchanged, nothing can go\n")
    assert served(site) == digests(*images)


def test_a_dry_run_names_what_a_real_run_removes_and_removes_nothing(site: Site, images: list[FakeImage]) -> None:
    planned = pruned(site, "--dry-run").answer
    assert served(site) == digests(*images)
    shown = site.run("prune", site.root, "--keep-releases", 1, "--grace", "0s", "--dry-run").out
    assert all(f"unlink {NAME}@{image.digest}" in shown for image in images[:3])
    assert all(f"remove blob {image.layers[1].digest}" in shown for image in images[:3])
    assert "3 manifests and 6 blobs would be no longer served; 9 files" in shown
    assert {**planned, "dry_run": False} == pruned(site).answer


def test_an_index_keeps_what_it_lists(site: Site, registry: FakeRegistry, platforms: FakeImage) -> None:
    registry.add_image("team/app", "1", platforms)
    registry.add_image("team/app", "2", make_index([make_image("other")]))
    site.publish(entry(registry, "team/app", "1", "2"))
    site.publish(entry(registry, "team/app", "1"))
    pruned(site)
    assert served(site) == digests(platforms, *platforms.images)
    assert site.scrubbed() == []


def test_a_signature_stays_and_goes_with_what_it_signs(site: Site, images: list[FakeImage]) -> None:
    signatures = [_signature(image) for image in images]
    with hold(site.tree) as writer:
        for signature in signatures:
            _store(signature, writer)
    pruned(site)
    (listed,) = (site.root / f"v2/{NAME}/referrers").iterdir()
    assert listed.name == str(images[3].digest)
    assert served(site) == digests(images[3], signatures[3]) | {str(Digest.of(listed.read_bytes()))}
    assert site.scrubbed() == []


def test_what_an_interrupted_release_was_moving_stays(site: Site, images: list[FakeImage]) -> None:
    move = TagMove(NAME, "stable", images[0].digest, images[1].digest)
    with hold(site.tree) as writer:
        writer.begin_release(Release(5, "2026-01-01T00:00:00Z", "tag", "", (move,)))
    pruned(site)
    assert served(site) == digests(images[0], images[1], images[3])


def test_a_repository_that_serves_nothing_any_more_goes(site: Site, images: list[FakeImage]) -> None:
    site.run("rm", site.root, f"{NAME}:latest")
    site.lock_file.unlink()
    (site.root / "locks/site.lock").unlink()
    assert pruned(site).answer["repositories"] == [NAME]
    assert [path.name for path in (site.root / "v2").iterdir()] == ["_catalog"]
    assert not [path for path in (site.root / "content").rglob("*") if path.is_file()]
    assert site.scrubbed() == []
    assert site.run("ls", site.root).code == 0


def test_a_lock_keeps_what_it_named_when_it_was_last_applied(site: Site, images: list[FakeImage]) -> None:
    site.run("rm", site.root, f"{NAME}:latest")
    pruned(site)
    assert served(site) == digests(images[3])
    assert site.sync("--dry-run").answer["fetched"] == []


def test_what_interrupted_runs_left_goes(site: Site, images: list[FakeImage]) -> None:
    left = make_image("left")
    with hold(site.tree) as writer:
        for blob in (left.manifest.blobs[0], left.layers[0]):
            writer.add_blob(blob, iter([left.blobs[blob.digest]]), lambda _size: None)
        writer.link_blob(NAME, left.layers[0].digest)
        writer.add_manifest(left.manifest)
        writer.settle()
    assert [row["kind"] for row in site.scrubbed()] == ["unnamed"]
    assert pruned(site, keep=4, grace="1h").answer["changed"] is False
    answer = pruned(site, keep=4).answer
    assert set(answer["removed"]) == {
        str(d) for d in (left.digest, left.manifest.blobs[0].digest, left.layers[0].digest)
    }
    assert site.scrubbed() == []
    assert served(site) == digests(*images)


def test_a_repository_of_which_only_blobs_were_linked_goes(site: Site, images: list[FakeImage]) -> None:
    blob = images[0].layers[1]
    with hold(site.tree) as writer:
        writer.link_blob("half/linked", blob.digest)
        writer.settle()
    assert [row["kind"] for row in site.scrubbed()] == ["unnamed"]
    assert pruned(site, grace="1h").answer["changed"] is False
    answer = pruned(site).answer
    assert answer["repositories"] == ["half/linked"]
    assert {"repository": "half/linked", "digest": str(blob.digest)} in answer["blobs"]
    assert not (site.root / "v2/half").exists()
    assert site.scrubbed() == []


# What still runs.


@pytest.mark.parametrize("spelling", ["digest", "reference", "image id", "short id"])
def test_what_runs_by_its_digest_stays(spelling: str, site: Site, images: list[FakeImage]) -> None:
    assert images[0].manifest.config
    config = images[0].manifest.config.digest
    line = {
        "digest": str(images[0].digest),
        "reference": f"h.example:5000/{NAME}@{images[0].digest}",
        "image id": str(config),
        "short id": config.hex[:12],
    }[spelling]
    (site.folder / "running").write_text(f"{line}\n")
    (site.folder / "others").write_text("elsewhere.example/app:1\n")
    pruned(site, "--in-use", site.folder / "running", "--in-use", site.folder / "others")
    assert served(site) == digests(images[0], images[3])
    assert site.scrubbed() == []


def test_a_tag_that_runs_keeps_all_that_it_ever_named(
    site: Site, images: list[FakeImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(f'[{{"Image": "h.example/{NAME}:latest"}}]'.encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert pruned(site, "--in-use", "-").answer["changed"] is False
    assert served(site) == digests(*images)


def test_nothing_goes_if_what_runs_is_not_understood(site: Site, images: list[FakeImage]) -> None:
    (site.folder / "running").write_text("")
    ran = site.run("prune", site.root, "--keep-releases", 1, "--grace", "0s", "--in-use", site.folder / "running")
    assert ran.code == ExitCode.INPUT
    assert served(site) == digests(*images)


@pytest.mark.parametrize("grace", ["", "1", "-1h", "1 day", "1w", "h"])
def test_a_grace_that_is_no_duration_is_refused(grace: str, site: Site, images: list[FakeImage]) -> None:
    ran = site.run("prune", site.root, "--grace", grace)
    assert ran.code == ExitCode.INPUT
    assert "--grace: " in ran.err


# Beside others.


def test_a_sync_and_a_prune_refuse_each_other(site: Site, images: list[FakeImage]) -> None:
    with hold(site.tree) as writer:
        refused = site.run("prune", site.root, "--keep-releases", 1, "--grace", "0s")
        assert refused.code == ExitCode.HELD
        assert served(site) == digests(*images)
        plan = plan_prune(take_inventory(site.tree), Keep(1, time.time()))
        assert site.sync().code == ExitCode.HELD
        prune(plan, writer, Silent())
    assert site.sync().code == 0
    assert site.scrubbed() == []


def test_a_damaged_tree_is_not_pruned(site: Site, images: list[FakeImage]) -> None:
    stored = site.tree.stored_manifest(images[3].digest)
    assert stored
    site.tree.manifest_path(stored).unlink()
    ran = site.run("prune", site.root, "--keep-releases", 1, "--grace", "0s")
    assert ran.code == ExitCode.TREE
    assert "seawall verify" in ran.err
    assert served(site) == digests(*images)


def _store(image: FakeImage, writer: TreeWriter) -> None:
    for part in (*image.images, image):
        for blob in part.manifest.blobs:
            writer.add_blob(blob, iter([part.blobs[blob.digest]]), lambda _size: None)
            writer.link_blob(NAME, blob.digest)
        writer.add_manifest(part.manifest)
        writer.link_manifest(NAME, str(part.digest), StoredManifest(part.digest, part.manifest.kind))


def _signature(image: FakeImage) -> FakeImage:
    signature = make_image(f"signature of {image.digest}")
    subject = {"mediaType": image.manifest.kind.media_type, "digest": str(image.digest), "size": len(image.content)}
    content = json.dumps({**json.loads(signature.content), "subject": subject}).encode()
    return replace(signature, manifest=parse_manifest(content, "signature"))


# Properties of the mark phase, over trees that need not even be whole.

NOW = 1_000_000.0
MANIFESTS = [Digest.of(f"manifest {n}".encode()) for n in range(8)]
BLOBS = [Digest.of(f"blob {n}".encode()) for n in range(6)]
REPOSITORIES = ("a", "b/c")
MANIFEST, BLOB, TAG = st.sampled_from(MANIFESTS), st.sampled_from(BLOBS), st.sampled_from(("1", "2", "latest"))
ARRIVED = st.sampled_from((NOW - 100_000, NOW - 90_000, NOW - 10))


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    stored = draw(st.sets(MANIFEST, min_size=1))
    needs = {
        digest: Needs(
            # A digest covers what is listed: no index lists itself, however far down.
            frozenset(draw(st.sets(MANIFEST, max_size=2))).intersection(MANIFESTS[: MANIFESTS.index(digest)]),
            frozenset(draw(st.sets(BLOB, max_size=3))),
            draw(st.none() | MANIFEST),
        )
        for digest in sorted(stored)
    }
    there = st.sampled_from(sorted(stored))
    links = tuple(
        Links(
            repository,
            draw(st.dictionaries(TAG, there, max_size=2)),
            draw(st.dictionaries(there, ARRIVED)),
            draw(st.dictionaries(BLOB, ARRIVED)),
        )
        for repository in REPOSITORIES
    )
    move = st.builds(TagMove, st.sampled_from(REPOSITORIES), TAG, st.none() | MANIFEST, st.none() | MANIFEST)
    moves = draw(st.lists(st.tuples(st.lists(move, max_size=2), ARRIVED), max_size=5))
    pins = draw(st.dictionaries(TAG, MANIFEST, min_size=1, max_size=2))
    pinned = {tag: Pin(digest=digest, media_type=OCI_MANIFEST.media_type, size=1) for tag, digest in pins.items()}
    return Inventory(
        links=links,
        manifests={StoredManifest(digest, OCI_MANIFEST): Content(1, draw(ARRIVED)) for digest in sorted(stored)},
        blobs={digest: Content(1000, draw(ARRIVED)) for digest in sorted(draw(st.sets(BLOB)))},
        needs=needs,
        locks=(Lock(name="site", images=(LockedImage(name="a", source="oci:x", tags=pinned),)),),
        records=tuple(
            Record(Release(number, "1970-01-01T00:00:00Z", "sync", "", tuple(made)), ended)
            for number, (made, ended) in enumerate(moves, 1)
        ),
    )


IN_USE = st.frozensets(
    st.builds(InUse, name=st.just("h.example/a"), tag=TAG)
    | st.builds(InUse, hex=(MANIFEST | BLOB).map(lambda d: d.hex)),
    max_size=2,
)
KEEPS = st.builds(Keep, st.integers(1, 6), st.just(NOW - 86_400), IN_USE)


def reachable(root: Digest, needs: Mapping[Digest, Needs]) -> set[Digest]:
    """Return *root* and what it lists, found without the code under test."""
    return {root}.union(*(reachable(child, needs) for child in needs[root].manifests)) if root in needs else {root}


def removed(plan: PrunePlan) -> set[Digest]:
    return {stored.digest for stored in plan.manifest_contents}


@given(inventories(), KEEPS)
def test_nothing_that_a_root_reaches_is_ever_in_the_plan(inventory: Inventory, keep: Keep) -> None:
    plan = plan_prune(inventory, keep)
    for repository, root in find_roots(inventory, keep):
        if repository not in REPOSITORIES:
            continue
        for digest in reachable(root, inventory.needs):
            assert (repository, digest) not in plan.manifests
            assert digest not in removed(plan)
            for blob in inventory.needs.get(digest, Needs()).blobs:
                assert blob not in plan.blob_contents
                if any(
                    digest in {*own.manifests, *own.tags.values()}
                    for own in inventory.links
                    if own.repository == repository
                ):
                    assert (repository, blob) not in plan.blobs


@given(inventories(), KEEPS)
def test_tags_locks_and_what_is_young_are_roots(inventory: Inventory, keep: Keep) -> None:
    roots = find_roots(inventory, keep)
    for links in inventory.links:
        assert {(links.repository, digest) for digest in links.tags.values()} <= roots
        assert {(links.repository, d) for d, arrived in links.manifests.items() if arrived == NOW - 10} <= roots
    assert {(r.repository, pin.digest) for lock in inventory.locks for r, pin in lock.pins.items()} <= roots


@given(inventories(), KEEPS)
def test_what_stays_has_all_that_it_needs(inventory: Inventory, keep: Keep) -> None:
    plan = plan_prune(inventory, keep)
    for links in inventory.links:
        stays = {digest for digest in links.manifests if (links.repository, digest) not in plan.manifests}
        assert not stays & removed(plan)
        assert not set(links.tags.values()) & removed(plan)
        blobs = {digest for digest in links.blobs if (links.repository, digest) not in plan.blobs}
        assert not blobs & set(plan.blob_contents)
        for digest in stays:
            assert not {(links.repository, need) for need in inventory.needs[digest].manifests} & set(plan.manifests)
            assert not {(links.repository, need) for need in inventory.needs[digest].blobs} & set(plan.blobs)
            assert {referrer for referrer in links.manifests if inventory.needs[referrer].subject == digest} <= stays, (
                "what refers to it stays with it"
            )


@given(inventories(), KEEPS)
def test_an_index_goes_before_what_it_lists(inventory: Inventory, keep: Keep) -> None:
    order = plan_prune(inventory, keep).manifests
    for place, (repository, digest) in enumerate(order):
        assert not {(repository, child) for child in inventory.needs[digest].manifests} & set(order[:place])


@given(inventories(), KEEPS)
def test_a_second_prune_finds_nothing_more(inventory: Inventory, keep: Keep) -> None:
    plan = plan_prune(inventory, keep)
    rest = Inventory(
        links=tuple(
            Links(
                own.repository,
                own.tags,
                {d: at for d, at in own.manifests.items() if (own.repository, d) not in plan.manifests},
                {d: at for d, at in own.blobs.items() if (own.repository, d) not in plan.blobs},
            )
            for own in inventory.links
            if own.repository not in plan.repositories
        ),
        manifests={s: c for s, c in inventory.manifests.items() if s not in plan.manifest_contents},
        blobs={d: c for d, c in inventory.blobs.items() if d not in plan.blob_contents},
        needs={d: n for d, n in inventory.needs.items() if d not in removed(plan)},
        locks=inventory.locks,
        records=inventory.records,
    )
    assert plan_prune(rest, keep).is_empty
