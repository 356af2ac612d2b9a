"""Sync: the tree comes to serve what the lock says, whatever the source does on the way."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from seawall.errors import ExitCode, TreeError
from seawall.media_type import DOCKER_MANIFEST, MANIFEST_KINDS
from seawall.tree import HELD, INCOMING, LOCKS
from seawall.writer import hold
from unit.fake_registry import FakeImage, FakeRegistry, Fault, make_docker_list, make_image, make_index, make_layer
from unit.tool_site import Site, entry

NAME = "up.example/team/app"


def test_all_four_kinds_arrive_as_the_source_has_them(site: Site, registry: FakeRegistry) -> None:
    oci, docker = make_image("oci"), make_image("docker", kind=DOCKER_MANIFEST)
    images = {"oci": oci, "docker": docker, "index": make_index([oci]), "list": make_docker_list([docker])}
    for tag, image in images.items():
        registry.add_image("team/app", tag, image)
    site.publish(entry(registry, "team/app", *images))
    assert site.tags() == {f"{NAME}:{tag}": str(image.digest) for tag, image in images.items()}
    for tag, image in images.items():
        assert (site.root / f"v2/{NAME}/manifests/{tag}").read_bytes() == image.content
    assert {image.manifest.kind for image in images.values()} == set(MANIFEST_KINDS)
    assert site.scrubbed() == []


def test_the_tree_is_laid_out_as_promised(site: Site, registry: FakeRegistry, platforms: FakeImage) -> None:
    registry.add_image("team/app", "1.0", platforms)
    site.publish(entry(registry, "team/app", "1.0"))
    hex_ = platforms.digest.hex
    repository = site.root / "v2" / NAME
    target = Path(f"../../../../../content/manifests/sha256/{hex_[:2]}/{hex_}.oci-index")
    assert (repository / "manifests/1.0").readlink() == target
    assert (repository / f"manifests/{platforms.digest}").readlink() == target
    blobs = {digest for image in platforms.images for digest in image.blobs}
    assert {link.name for link in (repository / "blobs").iterdir()} == {str(digest) for digest in blobs}
    assert len(list((site.root / "content/blobs").rglob("*/*/*"))) == len(blobs) == 5
    assert (repository / "tags/list").read_text() == '{"name":"up.example/team/app","tags":["1.0"]}'
    assert not list((site.root / INCOMING).iterdir())


def test_the_tree_can_be_read_by_others_and_written_by_its_owner_alone(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1.0")
    before = os.umask(0o077)
    try:
        site.publish(entry(registry, "team/app", "1.0"))
    finally:
        os.umask(before)
    served = [site.root, *(site.root / "content").rglob("*"), *(site.root / "v2").rglob("*")]
    modes = {path.stat().st_mode & 0o777 for path in served if path.is_dir()}
    assert modes == {0o755}
    assert {path.stat().st_mode & 0o777 for path in served if path.is_file()} == {0o444}


def test_a_tree_that_was_moved_still_serves(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1.0")
    site.publish(entry(registry, "team/app", "1.0"))
    moved = site.folder / "elsewhere"
    site.root.rename(moved)
    assert site.run("verify", moved).code == ExitCode.OK


def test_a_second_sync_asks_nothing_and_changes_nothing(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1.0")
    site.publish(entry(registry, "team/app", "1.0"))
    before = {path: path.lstat().st_mtime_ns for path in site.root.rglob("*") if path.name != HELD}
    asked = len(registry.requests)
    again = site.sync()
    assert (again.code, again.answer["changed"], again.answer["requests"]) == (0, False, 0)
    assert len(registry.requests) == asked
    assert {path: path.lstat().st_mtime_ns for path in site.root.rglob("*") if path.name != HELD} == before


def test_a_second_lock_asks_nothing_and_upgrade_asks_anew(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1.0", make_image("old"))
    site.declare(entry(registry, "team/app", "1.0"))
    assert site.lock().answer["changed"] is True
    new = registry.add_image("team/app", "1.0", make_image("new"))
    kept = site.lock().answer
    assert (kept["changed"], kept["requests"]) == (False, 0)
    assert site.lock("--upgrade").answer["moved"][0]["after"] == str(new.digest)


def test_a_lock_serves_the_same_bytes_after_the_source_moved_on(site: Site, registry: FakeRegistry) -> None:
    old = registry.add_image("team/app", "1.0", make_image("old"))
    site.declare(entry(registry, "team/app", "1.0"))
    site.lock()
    registry.add_image("team/app", "1.0", make_image("new"))
    assert site.sync().code == 0
    assert site.tags() == {f"{NAME}:1.0": str(old.digest)}


def test_only_what_is_missing_is_fetched(site: Site, registry: FakeRegistry) -> None:
    base = make_layer("base", 9000)
    registry.add_image("team/app", "1", make_image("1", layers=[base, make_layer("one")]))
    registry.add_image("other/app", "1", make_image("2", layers=[base, make_layer("two")]))
    site.publish(entry(registry, "team/app", "1"))
    more = site.publish(entry(registry, "team/app", "1"), entry(registry, "other/app", "1"))
    assert sorted(row["size"] for row in more.answer["fetched"])[-1] == 1000
    assert len(registry.asked("GET", "/v2/other/app/blobs/")) == len(more.answer["fetched"])
    assert site.scrubbed() == []


def test_a_dry_run_shows_the_plan_and_does_nothing(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1.0")
    site.declare(entry(registry, "team/app", "1.0"))
    dry = site.lock("--dry-run")
    assert dry.answer["changed"] is True
    assert not site.lock_file.exists()
    site.lock()
    planned = site.sync("--dry-run").answer
    assert not site.root.exists()
    assert not registry.asked("GET", "/blobs/")
    done = site.sync().answer
    assert {**planned, "dry_run": False, "release": 1, "requests": done["requests"]} == done


def test_what_the_lock_names_no_more_is_withdrawn_and_stays_by_digest(site: Site, registry: FakeRegistry) -> None:
    old = registry.add_image("team/app", "1", make_image("1"))
    registry.add_image("team/app", "2", make_image("2"))
    site.publish(entry(registry, "team/app", "1", "2"))
    site.publish(entry(registry, "team/app", "2"))
    assert list(site.tags()) == [f"{NAME}:2"]
    assert (site.root / f"v2/{NAME}/manifests/{old.digest}").exists()
    assert (site.root / f"v2/{NAME}/tags/list").read_text().endswith('"tags":["2"]}')
    assert site.scrubbed() == []


def test_what_another_lock_put_there_stays(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1")
    registry.add_image("team/tool", "1")
    site.publish(entry(registry, "team/app", "1"), name="apps")
    site.lock_file.unlink()
    site.publish(entry(registry, "team/tool", "1"), name="tools")
    assert set(site.tags()) == {f"{NAME}:1", "up.example/team/tool:1"}


def test_the_locks_of_others_are_read_only_where_something_may_have_to_go(site: Site, registry: FakeRegistry) -> None:
    # They may be large, and what a sync costs is to grow with the change.
    registry.add_image("team/app", "1")
    registry.add_image("team/tool", "1")
    site.publish(entry(registry, "team/app", "1"), name="apps")
    other = site.root / LOCKS / "apps.lock"
    other.chmod(0o644)
    other.write_text("no lock")
    site.lock_file.unlink()
    site.publish(entry(registry, "team/tool", "1"), name="tools")
    site.declare(name="tools")
    site.lock("--upgrade")
    failed = site.sync()
    assert failed.code == ExitCode.TREE
    assert "apps.lock" in failed.err


def test_each_change_is_a_release_that_says_what_moved(site: Site, registry: FakeRegistry) -> None:
    old = registry.add_image("team/app", "1", make_image("old"))
    assert site.publish(entry(registry, "team/app", "1")).answer["release"] == 1
    new = registry.add_image("team/app", "1", make_image("new"))
    assert site.publish(entry(registry, "team/app", "1")).answer["release"] == 2
    assert sorted(path.name for path in (site.root / "releases").iterdir()) == ["1.json", "2.json"]
    text = (site.root / "releases/2.json").read_text()
    assert f'"before": "{old.digest}"' in text
    assert f'"after": "{new.digest}"' in text


def test_two_manifests_of_one_size_get_different_times(site: Site, registry: FakeRegistry) -> None:
    for tag in ("1", "2"):
        registry.add_image("team/app", tag, make_image(f"seed {tag}"))
    site.publish(entry(registry, "team/app", "1", "2"))
    stats = [(site.root / f"v2/{NAME}/manifests/{tag}").stat() for tag in ("1", "2")]
    assert stats[0].st_size == stats[1].st_size
    assert stats[0].st_mtime != stats[1].st_mtime
    assert max(stat.st_mtime for stat in stats) < time.time()


# A source that fails.


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(die_after=300), "3 tries"),
        (Fault(wrong_bytes=True), "other bytes"),
        (Fault(announce=100), "bytes"),
        (Fault(announce=-100), "bytes"),
        (Fault(endless=True), "more than"),
        (Fault(status=404), "404"),
        (Fault(status=500), "500"),
        (Fault(body=b"<html>login here</html>"), "bytes"),
    ],
    ids=["dies", "wrong bytes", "longer length", "shorter length", "endless", "gone", "broken", "web page"],
)
def test_a_source_that_fails_on_a_blob_changes_nothing(
    fault: Fault, says: str, site: Site, registry: FakeRegistry
) -> None:
    registry.add_image("team/app", "old")
    site.publish(entry(registry, "team/app", "old"))
    before = site.tags()
    image = registry.add_image("team/app", "new")
    site.declare(entry(registry, "team/app", "old", "new"))
    assert site.lock().code == 0
    fault.on = image.layers[0].digest
    registry.misbehave(fault)
    failed = site.sync()
    assert failed.code == ExitCode.SOURCE, failed.err
    last = failed.err.splitlines()[-1]
    assert str(image.layers[0].digest) in last
    assert "docker://" in last
    assert says in last
    assert failed.out == ""
    assert site.tags() == before
    assert site.scrubbed() == []
    registry.behave()
    assert site.sync().code == 0
    assert site.scrubbed() == []
    assert not list((site.root / INCOMING).iterdir())


def test_a_manifest_with_other_bytes_is_refused(site: Site, registry: FakeRegistry) -> None:
    image = registry.add_image("team/app", "1")
    site.declare(entry(registry, "team/app", "1"))
    site.lock()
    registry.misbehave(Fault(on=f"/manifests/{image.digest}", wrong_bytes=True))
    failed = site.sync()
    assert failed.code == ExitCode.SOURCE
    assert str(image.digest) in failed.err
    assert site.tags() == {}


def test_an_unknown_tag_is_named(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1")
    site.declare(entry(registry, "team/app", "1", "none-such"))
    failed = site.lock()
    assert failed.code == ExitCode.SOURCE
    assert f"docker://{registry.host}/team/app:none-such" in failed.err
    assert len(failed.err.splitlines()) == 1
    assert not site.lock_file.exists()


def test_refused_credentials_have_a_code_of_their_own(site: Site) -> None:
    with FakeRegistry("basic", username="ada", password="right") as registry:
        registry.add_image("team/app", "1")
        site.declare(entry(registry, "team/app", "1"))
        failed = site.lock()
    assert failed.code == ExitCode.CREDENTIALS
    assert f"docker login {registry.host}" in failed.err


def test_a_manifest_that_is_no_manifest_is_refused(site: Site, registry: FakeRegistry) -> None:
    image = registry.add_image("team/app", "1")
    registry.misbehave(Fault(on="/manifests/", headers={"Content-Type": "text/html"}))
    site.declare(entry(registry, "team/app", "1"))
    assert site.lock().code == 0, "the manifest says itself what it is"
    registry.behave()
    registry.store.manifests["team/app", "1"] = (b"<html>", "text/html")
    failed = site.lock("--upgrade")
    assert failed.code == ExitCode.SOURCE
    assert "is not JSON" in failed.err
    assert str(image.digest) in site.lock_file.read_text()


# A tree that cannot be written.


def test_a_folder_with_something_else_in_it_is_left_alone(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1")
    site.declare(entry(registry, "team/app", "1"))
    site.lock()
    site.root.mkdir()
    (site.root / "thesis.tex").touch()
    failed = site.sync()
    assert failed.code == ExitCode.TREE
    assert "thesis.tex" in failed.err
    assert [path.name for path in site.root.iterdir()] == ["thesis.tex"]


def test_a_tree_that_another_run_holds_is_left_to_it(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1")
    site.declare(entry(registry, "team/app", "1"))
    site.lock()
    with hold(site.tree):
        failed = site.sync()
    assert failed.code == ExitCode.HELD
    assert f"process {os.getpid()}" in failed.err
    assert site.sync().code == ExitCode.OK


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_tree_is_not_written(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1")
    site.publish(entry(registry, "team/app", "1"))
    os.chown(site.root, 65534, 65534)
    failed = site.sync()
    assert failed.code == ExitCode.TREE
    assert "belongs to nobody; run this as nobody" in failed.err
    assert site.sync("--dry-run").code == ExitCode.OK


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_ends_in_one_line_and_a_tree_that_still_serves(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "small", make_image("small"))
    large = make_image("large", layers=[make_layer("large", 3_000_000)])
    site.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "none", site.root], check=True)
    try:
        site.publish(entry(registry, "team/app", "small"))
        before = site.tags()
        registry.add_image("team/app", "large", large)
        site.declare(entry(registry, "team/app", "small", "large"))
        site.lock()
        failed = site.sync()
        assert failed.code == ExitCode.TREE
        assert "are free on its file system; make room" in failed.err
        # The room may also vanish on the way, after it was asked for.
        blob = large.layers[0]
        with hold(site.tree) as writer, pytest.raises(TreeError, match="no space is left") as caught:
            writer.add_blob(blob, iter([large.blobs[blob.digest]]), lambda _size: None)
        assert "\n" not in str(caught.value)
        assert not list((site.root / INCOMING).iterdir())
        assert site.tags() == before
        assert site.scrubbed() == []
    finally:
        subprocess.run(["umount", site.root], check=True)


def test_a_lock_of_another_name_does_not_take_over_a_lock_file(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1")
    site.publish(entry(registry, "team/app", "1"))
    site.declare(entry(registry, "team/app", "1"), name="other")
    failed = site.lock()
    assert failed.code == ExitCode.INPUT
    assert "is the lock 'site'" in failed.err
