"""Repair: what a scrub finds broken comes back, byte for byte, and what cannot is named."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.digest import Digest
from seawall.lock import Lock, LockedImage, Pin, lock_text
from seawall.progress import Silent
from seawall.reference import parse_location
from seawall.repair import Spare, plan_repair, repair
from seawall.scrub import scrub
from seawall.sources import Sources, opener
from seawall.sync import apply, prepare
from seawall.tree import INCOMING, Tree
from seawall.writer import hold
from unit.fake_registry import FakeImage, FakeRegistry, Fault, make_artifact, make_image, make_index, make_layer
from unit.test_scrub import DAMAGE, NAME, repository, rewrite
from unit.tool_site import Site, entry

BEYOND_REPAIR = {
    "a tag that leads out of the tree",
    "a blob link that leads out of the tree",
    "a digest that points at another manifest",
    "a file among the tags",
    "a file beside the repositories",
    "a file among the content",
    "a file at the top",
    "a release record that is none",
    "a lock that is none",
}


@pytest.fixture
def image(site: Site, registry: FakeRegistry, platforms: FakeImage) -> FakeImage:
    """An index that is served as 1.0 by a tree that is in order."""
    registry.add_image("team/app", "1.0", platforms)
    site.publish(entry(registry, "team/app", "1.0"))
    registry.requests.clear()
    return platforms


def served(root: Path) -> dict[str, tuple[str, bytes, int]]:
    """Return every file and link below ``content/`` and ``v2/``, with what makes its answer."""
    found: dict[str, tuple[str, bytes, int]] = {}
    for top in ("content", "v2"):
        for folder, folders, names in os.walk(root / top):
            for path in (Path(folder) / name for name in (*names, *folders)):
                if path.is_symlink():
                    found[str(path.relative_to(root))] = (str(path.readlink()), b"", 0)
                elif path.is_file():
                    # Of lists, the time is no promise.
                    time_of = int(path.stat().st_mtime) if top == "content" else 0
                    found[str(path.relative_to(root))] = ("", path.read_bytes(), time_of)
    return found


@pytest.mark.parametrize("damage", sorted(DAMAGE.keys() - BEYOND_REPAIR))
def test_damage_is_repaired(damage: str, site: Site, image: FakeImage) -> None:
    before = served(site.root)
    DAMAGE[damage][0](site, image)
    ran = site.run("verify", site.root, "--repair")
    assert ran.code == 0, ran.out
    assert ", 0 left" in ran.out
    shutil.rmtree(site.root / "v2/other", ignore_errors=True)
    assert served(site.root) == before
    assert site.scrubbed() == []


@pytest.mark.parametrize("damage", sorted(BEYOND_REPAIR))
def test_what_nobody_can_repair_stays_as_it_is_and_is_named(damage: str, site: Site, image: FakeImage) -> None:
    DAMAGE[damage][0](site, image)
    before = served(site.root)
    ran = site.run("verify", site.root, "--repair")
    assert ran.code == 1
    assert "not repaired: " in ran.out
    assert served(site.root) == before


def test_a_repair_says_what_was_broken_and_where_it_was_fetched(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    layer = image.images[0].layers[1].digest
    rewrite(site.tree.blob_path(layer), b"r" * 1000)
    ran = site.run("verify", site.root, "--repair")
    path = site.tree.blob_path(layer).relative_to(site.root)
    assert f"wrong bytes: {path}: hashes to " in ran.out
    assert f"fetched {path} from docker://{registry.host}/team/app" in ran.out
    assert "1 fault, 0 left; 1 request" in ran.out
    assert len(registry.requests) == 1


def test_what_is_derived_is_made_again_without_asking_anybody(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    before = served(site.root)
    shutil.rmtree(site.root / "v2" / NAME)
    for path in (site.root / "content").rglob("*.oci-*"):
        os.utime(path, (0, 0))
    ran = site.run("verify", site.root, "--repair", "--json")
    assert ran.code == 0
    assert {row["how"] for row in ran.answer["repairs"]} == {"link", "list", "time"}
    assert (ran.answer["requests"], registry.requests) == (0, [])
    assert served(site.root) == before


LIST_DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "the list is lost": lambda listed, _tag: listed.unlink(),
    "the list is another": lambda listed, _tag: listed.write_text("{}"),
    "all lists are lost": lambda listed, _tag: shutil.rmtree(listed.parent),
    "the tag is lost": lambda _listed, tag: tag.unlink(),
    "the index is lost": lambda _listed, tag: tag.resolve().unlink(),
    "the index is another": lambda _listed, tag: rewrite(tag, b"{}"),
}


@pytest.mark.parametrize("damage", LIST_DAMAGE)
def test_a_list_of_referrers_is_made_again_without_asking_anybody(
    damage: str, site: Site, registry: FakeRegistry
) -> None:
    signed = make_image("signed")
    registry.add_image("team/app", "1.0", signed)
    registry.add_referrer("team/app", make_artifact("signature", signed))
    site.publish({**entry(registry, "team/app", "1.0"), "referrers": True})
    assert site.scrubbed() == []
    before = served(site.root)
    registry.requests.clear()
    folder = site.root / f"v2/{NAME}"
    LIST_DAMAGE[damage](folder / f"referrers/{signed.digest}", folder / f"manifests/sha256-{signed.digest.hex}")
    assert site.scrubbed() != []
    ran = site.run("verify", site.root, "--repair")
    assert ran.code == 0, ran
    assert site.scrubbed() == []
    assert served(site.root) == before
    assert not registry.requests


def test_a_list_to_which_nothing_refers_is_taken_away(site: Site, image: FakeImage) -> None:
    folder = site.root / f"v2/{NAME}/referrers"
    folder.mkdir(exist_ok=True)
    (folder / f"sha256:{'0' * 64}").write_text("{}")
    assert site.run("verify", site.root, "--repair").code == 0
    assert list(folder.iterdir()) == []


def test_a_tree_that_lost_all_its_content_gets_it_back(site: Site, image: FakeImage) -> None:
    before = served(site.root)
    shutil.rmtree(site.root / "content")
    (site.root / "content").mkdir()
    assert site.run("verify", site.root, "--repair").code == 0
    assert served(site.root) == before


def test_a_lost_tag_is_found_by_its_release_and_brought_back(site: Site, image: FakeImage) -> None:
    (repository(site) / "manifests/1.0").unlink()
    assert any(row["what"] == f"release 1 pointed it at {image.digest}" for row in site.scrubbed())
    assert site.run("verify", site.root, "--repair").code == 0
    assert site.tags() == {f"{NAME}:1.0": str(image.digest)}


def test_a_tag_that_was_taken_away_stays_away(site: Site, image: FakeImage) -> None:
    assert site.run("rm", site.root, f"{NAME}:1.0").code == 0
    assert site.scrubbed() == []
    rewrite(site.tree.blob_path(image.images[0].layers[0].digest), b"rot")
    assert site.run("verify", site.root, "--repair").code == 0
    assert site.tags() == {}


def test_a_rehearsal_says_what_would_be_fetched_and_changes_nothing(
    site: Site, registry: FakeRegistry, image: FakeImage
) -> None:
    layer = image.images[0].layers[1].digest
    rewrite(site.tree.blob_path(layer), b"rot")
    (repository(site) / "tags/list").unlink()
    before = served(site.root)
    ran = site.run("verify", site.root, "--repair", "--dry-run")
    assert ran.code == 1
    path = site.tree.blob_path(layer).relative_to(site.root)
    assert f"fetch {path} from docker://{registry.host}/team/app" in ran.out
    assert f"write v2/{NAME}/tags" in ran.out
    assert served(site.root) == before
    assert registry.requests == []


def test_a_source_that_lies_repairs_nothing_and_another_may(site: Site, registry: FakeRegistry) -> None:
    image = registry.add_image("team/app", "1.0")
    site.publish(entry(registry, "team/app", "1.0"))
    layer = image.layers[0].digest
    rewrite(site.tree.blob_path(layer), b"rot")
    registry.misbehave(Fault(on=layer, wrong_bytes=True))
    ran = site.run("verify", site.root, "--repair")
    assert ran.code == 1
    assert f"not repaired: {site.tree.blob_path(layer).relative_to(site.root)}: docker://{registry.host}" in ran.out
    assert "sent other bytes" in ran.out
    assert site.tree.blob_path(layer).read_bytes() == b"rot"
    with FakeRegistry() as other:
        other.add_image("copy", None, image)
        ran = site.run("verify", site.root, "--repair", "--from", f"docker://{other.host}/copy", "--plain-http")
        assert ran.code == 0, ran.out
        assert f"from docker://{other.host}/copy" in ran.out
    assert site.scrubbed() == []


def test_one_that_cannot_be_had_holds_up_no_other(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    lost, found = (one.layers[1].digest for one in image.images)
    for digest in (lost, found):
        rewrite(site.tree.blob_path(digest), b"r" * 1000)
    registry.misbehave(Fault(on=lost, status=404))
    ran = site.run("verify", site.root, "--repair", "--json")
    assert ran.code == 1
    assert [row["path"] for row in ran.answer["findings"]] == [str(site.tree.blob_path(lost).relative_to(site.root))]
    assert [row["path"] for row in ran.answer["failed"]] == [str(site.tree.blob_path(lost).relative_to(site.root))]


def test_a_tag_does_not_come_back_before_what_it_needs(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    (repository(site) / "manifests/1.0").unlink()
    layer = image.images[0].layers[1].digest
    site.tree.blob_path(layer).unlink()
    registry.misbehave(Fault(on=layer, status=404))
    assert site.run("verify", site.root, "--repair").code == 1
    assert not (repository(site) / "manifests/1.0").exists()
    registry.behave()
    assert site.run("verify", site.root, "--repair").code == 0
    assert (repository(site) / "manifests/1.0").exists()


def test_an_image_without_a_lock_is_repaired_from_where_a_person_says(site: Site, registry: FakeRegistry) -> None:
    image = registry.add_image("team/app", "1.0")
    source = f"docker://{registry.host}/team/app"
    assert site.run("add", site.root, f"{source}:1.0", "by/hand:1").code == 0
    (site.root / f"v2/by/hand/manifests/{image.digest}").resolve().unlink()
    ran = site.run("verify", site.root, "--repair")
    assert ran.code == 1
    assert "no applied lock names a source for it; name one that has it with --from" in ran.out
    assert site.run("verify", site.root, "--repair", "--from", source).code == 0
    assert site.scrubbed() == []


def test_a_lost_subset_is_made_again(site: Site, registry: FakeRegistry, platforms: FakeImage) -> None:
    registry.add_image("team/app", "1.0", platforms)
    site.publish(entry(registry, "team/app", "1.0") | {"platforms": ["linux/amd64"]})
    before = served(site.root)
    (repository(site) / "manifests/1.0").resolve().unlink()
    ran = site.run("verify", site.root, "--repair")
    assert ran.code == 0, ran.out
    assert served(site.root) == before


def test_broken_content_that_nothing_serves_is_removed(site: Site, image: FakeImage) -> None:
    stray = site.tree.blob_path(Digest.of(b"stray"))
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"rot")
    ran = site.run("verify", site.root, "--repair")
    assert ran.code == 0
    assert f"removed {stray.relative_to(site.root)}" in ran.out
    assert not stray.exists()


def test_a_tree_that_is_whole_is_not_even_held(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    with hold(site.tree):
        assert site.run("verify", site.root, "--repair").code == 0
        rewrite(site.tree.blob_path(image.images[0].layers[0].digest), b"rot")
        ran = site.run("verify", site.root, "--repair")
        assert (ran.code, "is held by another run" in ran.err) == (7, True)
    assert registry.requests == []


def test_a_repair_that_was_killed_is_finished_by_the_next(site: Site, registry: FakeRegistry, image: FakeImage) -> None:
    before = served(site.root)
    layer = image.images[0].layers[0].digest
    site.tree.blob_path(layer).unlink()
    registry.misbehave(Fault(on=layer, die_after=2000, stall=30, times=1))
    process = site.start("verify", site.root, "--repair")
    partial = site.root / INCOMING / f"{layer.hex}.part"
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert partial.stat().st_size == 2000
    assert site.run("verify", site.root, "--repair").code == 0
    assert [request.range for request in registry.asked("GET", layer)] == [None, "bytes=2000-"]
    assert served(site.root) == before


def test_options_of_a_repair_want_a_repair_and_a_server_is_none(site: Site, image: FakeImage) -> None:
    assert site.run("verify", site.root, "--dry-run").code == 2
    assert site.run("verify", "http://127.0.0.1:1", "--repair").code == 3


@pytest.fixture(scope="module")
def whole() -> Iterator[tuple[Path, FakeRegistry]]:
    """A tree of three tags in two repositories, and the registry that it came from."""
    shared = make_layer("shared", 3000)
    images = [make_image(f"app {n}", layers=[shared, make_layer(f"only {n}")]) for n in range(3)]
    with FakeRegistry() as registry, tempfile.TemporaryDirectory() as folder:
        pins: dict[str, dict[str, Pin]] = {"one": {}, "two": {}}
        for repo, tag, image in (
            ("one", "1", make_index(images[:2])),
            ("one", "2", images[2]),
            ("two", "1", images[0]),
        ):
            registry.add_image(repo, tag, image)
            row = image.descriptor
            pins[repo][tag] = Pin(digest=row.digest, media_type=row.media_type, size=row.size)
        lock = Lock(
            name="site",
            images=tuple(
                LockedImage(name=repo, source=f"docker://{registry.host}/{repo}", plain_http=True, tags=tags)
                for repo, tags in pins.items()
            ),
        )
        assert "site" in lock_text(lock)
        root = Path(folder) / "tree"
        sources = Sources(root, opener())
        with hold(Tree(root)) as writer:
            apply(prepare(lock, Tree(root), sources), writer, sources, Silent())
        yield root, registry


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_is_lost_or_broken_comes_back(whole: tuple[Path, FakeRegistry], data: st.DataObject) -> None:
    root, registry = whole
    before = served(root)
    victims = data.draw(st.lists(st.sampled_from(sorted(before)), unique=True, max_size=12))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(root, copy, symlinks=True)
        for victim in victims:
            path = copy / victim
            if path.is_symlink() or data.draw(st.booleans()):
                path.unlink()
            else:
                path.chmod(0o644)
                path.write_bytes(data.draw(st.binary(max_size=20)))
        tree, sources = Tree(copy), Sources(copy, opener())
        spare = Spare(parse_location(f"docker://{registry.host}/one", "test"), plain_http=True)
        report = scrub(tree, Silent(), 2)
        with hold(tree) as writer:
            repair(plan_repair(report, tree, sources, [spare], 2), writer, sources, Silent(), 2)
        assert scrub(tree, Silent(), 2).findings == ()
        assert served(copy) == before
