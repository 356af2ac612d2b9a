"""Publishing: a replica on this machine or another comes to hold what the tree holds, whatever happened before."""

import json
import os
import random
import shutil
import stat
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seawall.digest import Digest
from seawall.errors import ExitCode
from seawall.progress import Silent
from seawall.scrub import scrub
from seawall.tree import CATALOG, CONTENT, LOCKS, RELEASES, V2, Tree
from seawall.writer import hold
from unit.fake_registry import FakeRegistry, Fault
from unit.fake_ssh import FakeSsh
from unit.fork_server import ForkServer
from unit.tool_site import Site
from unit.tree_work import NAME, TAGS, TOOL, a_rollback, copy_tree, holds, is_list, publish, renew, served

pytestmark = pytest.mark.skipif(shutil.which("rsync") is None, reason="there is no rsync to publish with")

Entry = tuple[object, ...]


def tree_of(root: Path) -> Mapping[str, Entry]:
    """Return all that a tree holds: files with bytes, mode and time, links with where they lead.

    A link's own time is nobody's business: what is served through it has the time of the file that it leads to.
    """
    found: dict[str, Entry] = {}
    for top in (CATALOG, CONTENT, LOCKS, RELEASES, V2):
        for folder, _, names in os.walk(root / top):
            for name in names:
                path = Path(folder, name)
                seen = path.lstat()
                found[str(path.relative_to(root))] = (
                    (path.readlink(),)
                    if path.is_symlink()
                    else (int(seen.st_mtime), stat.S_IMODE(seen.st_mode), path.read_bytes())
                )
    return found


@pytest.fixture(params=["path", "ssh"])
def place(request: pytest.FixtureRequest, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the replica is spelled: a folder with a space in its name, here or on a host."""
    replica = site.folder / "a replica"
    if request.param == "path":
        return str(replica)
    FakeSsh(tmp_path, monkeypatch)
    return f"ssh://joe@tree.example:2222{replica}"


@pytest.fixture
def replica(site: Site) -> Path:
    return site.folder / "a replica"


def published(site: Site, place: object, *options: object) -> dict[str, object]:
    ran = site.run("publish", site.root, place, *options, "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.answer["destinations"]
    assert ran.answer["changed"] == row["changed"]
    return dict(row)


def tags_of(root: Path) -> dict[str, str]:
    return {str(reference): str(stored.digest) for reference, stored in Tree(root).references() if stored}


def findings(root: Path) -> list[str]:
    return [finding.path for finding in scrub(Tree(root), Silent(), 2).findings]


def test_a_replica_comes_to_hold_every_byte_link_and_time_of_the_tree_release_after_release(
    site: Site, registry: FakeRegistry, place: str, replica: Path
) -> None:
    for generation, tags in (("first", ("old", *TAGS)), ("second", ("old", *TAGS[1:])), ("third", TAGS[:2])):
        publish(site, registry, generation, *tags)
        row = published(site, place)
        assert (row["changed"], row["release"]) == (True, site.tree.last_release())
        assert tree_of(replica) == tree_of(site.root)
        assert findings(replica) == []
        again = published(site, place)
        assert (again["changed"], again["files"], again["links"]) == (False, 0, 0)
    assert not list((replica / ".incoming").iterdir())


def test_a_rehearsal_sends_nothing_and_tells_what_would_come(site: Site, registry: FakeRegistry, replica: Path) -> None:
    publish(site, registry, "first", "old", *TAGS)
    rehearsed = published(site, replica, "--dry-run")
    assert not replica.exists()
    assert rehearsed["size"] == published(site, replica)["size"]
    publish(site, registry, "second", "old", *TAGS)
    before = tree_of(replica)
    rehearsed = published(site, replica, "--dry-run")
    assert tree_of(replica) == before
    assert rehearsed["size"] == published(site, replica)["size"]


def test_everybody_may_read_a_replica_whatever_the_umask(site: Site, registry: FakeRegistry, replica: Path) -> None:
    publish(site, registry, "first", "old", *TAGS)
    before = os.umask(0o077)
    try:
        published(site, replica)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (replica, *replica.rglob("*"))}
    folders = {path for path in modes if path.is_dir() and path.name != ".incoming"}
    assert {modes[path] for path in folders} == {0o755}
    assert all(modes[path] & 0o444 == 0o444 for path in modes.keys() - folders if not path.name.startswith("."))


# What is refused.


def refused(site: Site, replica: object, code: int, says: str) -> None:
    ran = site.run("publish", site.root, replica, "--json")
    assert (ran.code, ran.answer["changed"]) == (code, False), ran.err
    last = ran.err.splitlines()[-1]
    assert last.startswith(f"seawall: {replica}")
    assert says in last
    assert ran.answer["destinations"][0]["error"] == last.removeprefix("seawall: ")


def test_a_folder_that_is_no_copy_of_the_tree_is_refused_and_left_alone(
    site: Site, registry: FakeRegistry, replica: Path
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    replica.mkdir()
    (replica / "photos").touch()
    refused(site, replica, ExitCode.TREE, "is not a tree and not empty (it holds 'photos')")
    (replica / "photos").unlink()
    shutil.copytree(site.root, replica, symlinks=True, dirs_exist_ok=True)
    assert site.run("rm", replica, f"{TOOL}:1").code == 0
    before = tree_of(replica)
    refused(site, replica, ExitCode.TREE, "has release 2, and ")
    assert site.run("rm", site.root, f"{NAME}:old").code == 0
    refused(site, replica, ExitCode.TREE, "it has a history of its own")
    shutil.copy(replica / "releases/1.json", replica / "releases/pending.json")
    refused(site, replica, ExitCode.TREE, "is in the middle of a release of its own")
    (replica / "releases/pending.json").unlink()
    assert tree_of(replica) == before


def test_a_replica_that_is_written_meanwhile_is_refused_and_taken_afterwards(
    site: Site, registry: FakeRegistry, place: str, replica: Path
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    with hold(Tree(replica)):
        refused(site, place, ExitCode.HELD, f"is held by another run (process {os.getpid()})")
    assert published(site, place)["changed"]
    assert tree_of(replica) == tree_of(site.root)


def test_the_tree_itself_and_what_cannot_be_written_are_refused(site: Site, registry: FakeRegistry) -> None:
    publish(site, registry, "first", "old", *TAGS)
    refused(site, site.root, ExitCode.TREE, "is the tree itself")
    (site.folder / "file").touch()
    refused(site, site.folder / "file/x", ExitCode.TREE, "cannot be written")
    for spelled in ("https://cdn.example", "ssh:host/path"):
        ran = site.run("publish", site.root, spelled)
        assert (ran.code, "is no place" in ran.err) == (ExitCode.INPUT, True)
    ran = site.run("publish", site.root, site.folder / "a", site.folder / "a")
    assert (ran.code, "names one destination twice" in ran.err) == (ExitCode.INPUT, True)


@pytest.mark.parametrize("missing", ["rsync", "flock"])
def test_what_a_host_has_not_installed_is_named(
    missing: str, site: Site, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "env", "rsync", "flock", "find", "sha256sum", "sync", "timeout", "xargs", "stat"):
        if name != missing:
            (tools / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tools))
    refused(site, site.folder / "replica", ExitCode.SOURCE, f"has no {missing} to run; install {missing} there")


@pytest.mark.parametrize(
    ("said", "code", "says"),
    [
        ("Host key verification failed.", ExitCode.SOURCE, "has a host key that known_hosts does not have"),
        ("joe@tree.example: Permission denied (publickey).", ExitCode.CREDENTIALS, "takes none of the keys"),
        ("ssh: connect to host tree.example port 22: No route to host", ExitCode.SOURCE, "is not reached"),
    ],
)
def test_one_host_that_cannot_be_reached_does_not_stop_the_others(
    said: str,
    code: int,
    says: str,
    site: Site,
    registry: FakeRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    FakeSsh(tmp_path, monkeypatch).misbehave(say=said, code=255)
    near = [site.folder / "one", site.folder / "two"]
    ran = site.run("publish", site.root, near[0], "ssh://tree.example/srv/seawall", near[1], "--json")
    assert ran.code == code
    assert [row["error"] is None for row in ran.answer["destinations"]] == [True, False, True]
    assert f"seawall: ssh://tree.example/srv/seawall: tree.example {says}" in ran.err
    assert all(tree_of(root) == tree_of(site.root) for root in near)


# What happened before, or happens meanwhile.


def test_what_a_replica_has_pruned_comes_back_with_the_tag_that_names_it(
    site: Site, registry: FakeRegistry, replica: Path
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    publish(site, registry, "second", "old", *TAGS[1:])
    published(site, replica)
    assert site.run("rm", site.root, f"{TOOL}:1").code == 0
    published(site, replica)
    (replica / "locks/site.lock").unlink()
    pruned = site.run("prune", replica, "--keep-releases", 1, "--grace", "0s", "--json").answer
    assert pruned["removed"]
    assert pruned["repositories"] == [TOOL]
    assert site.run("rollback", site.root, 1).code == 0
    row = published(site, replica)
    assert row["files"]
    assert tree_of(replica).keys() >= {name for name in tree_of(site.root) if "/manifests/t" in name}
    assert findings(replica) == []
    assert tags_of(replica) == site.tags()


def test_where_records_are_lost_all_of_the_tree_is_compared(site: Site, registry: FakeRegistry, replica: Path) -> None:
    publish(site, registry, "first", "old", *TAGS)
    published(site, replica)
    assert site.run("rm", site.root, f"{TOOL}:1", f"{NAME}:old").code == 0
    publish(site, registry, "second", *TAGS[1:])
    (site.root / "releases/2.json").unlink()
    published(site, replica)
    assert tags_of(replica) == site.tags()
    assert findings(replica) == []
    publish(site, registry, "third", *TAGS)
    (site.root / "releases/3.json").unlink()
    refused(site, replica, ExitCode.TREE, "ends with release 3, whose record")


def test_damage_that_no_record_tells_of_is_mended_when_all_is_compared(
    site: Site, registry: FakeRegistry, replica: Path
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    published(site, replica)
    next(path for path in (replica / "content/blobs").rglob("*") if path.is_file()).unlink()
    (replica / f"v2/{NAME}/manifests/t1").unlink()
    (replica / f"v2/{NAME}/tags/list").unlink()
    assert not published(site, replica)["changed"]
    assert published(site, replica, "--all")["changed"]
    assert tree_of(replica) == tree_of(site.root)


def test_content_that_is_not_what_its_name_says_is_stopped_before_anything_leads_to_it(
    site: Site, registry: FakeRegistry, place: str, replica: Path
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    blob = max((site.root / "content/blobs").rglob("*"), key=lambda path: path.lstat().st_size)
    blob.chmod(0o644)
    blob.write_bytes(b"z" * blob.stat().st_size)
    ran = site.run("publish", site.root, place)
    assert ran.code == ExitCode.TREE
    assert f"{blob}: arrived with other bytes than its name says" in ran.err
    assert not any(path.is_symlink() for path in (replica / "v2").rglob("*"))
    assert not (replica / blob.relative_to(site.root)).exists()


def test_of_a_release_under_way_nothing_is_carried(site: Site, registry: FakeRegistry, replica: Path) -> None:
    publish(site, registry, "first", "old", *TAGS)
    ended = site.tags()
    renew(site, registry, "second", *TAGS[1:])
    with ForkServer() as tool:
        start = site.root.rename(site.folder / "start")
        copy_tree(start, site.root)
        step = tool.run("sync", site.lock_file, site.root).steps
        # Killed in the middle of moving its tags.
        while not site.tree.pending_release() or site.tags() == ended:
            shutil.rmtree(site.root)
            copy_tree(start, site.root)
            step -= 1
            tool.run("sync", site.lock_file, site.root, kill_at=step)
    assert published(site, replica)["release"] == 1
    assert findings(replica) == []
    assert tags_of(replica) == ended
    assert site.sync().code == 0
    assert published(site, replica)["release"] == 2
    assert tree_of(replica) == tree_of(site.root)


def test_beside_a_sync_that_is_under_way_the_release_before_it_is_carried(
    site: Site, registry: FakeRegistry, replica: Path
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    renew(site, registry, "second", "old", *TAGS[1:])
    slow = registry.misbehave(Fault(on="/blobs/", stall=2, times=1))
    with site.start("sync", site.lock_file, site.root) as sync:
        deadline = time.monotonic() + 60
        while slow.times:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert published(site, replica)["release"] == 1
        assert findings(replica) == []
        sync.communicate(timeout=60)
    assert sync.returncode == 0
    assert published(site, replica)["release"] == 2
    assert tree_of(replica) == tree_of(site.root)


def test_a_reader_finds_every_tag_at_every_moment(site: Site, registry: FakeRegistry, replica: Path) -> None:
    publish(site, registry, "first", "old", *TAGS)
    published(site, replica)
    publish(site, registry, "second", "old", *TAGS)
    tags = [replica / f"v2/{NAME}/manifests/{tag}" for tag in TAGS]
    tags += [replica / f"v2/{NAME}/tags/list", replica / "v2/_catalog"]
    done = threading.Event()
    seen: set[Digest] = set()

    def read() -> int:
        rounds = 0
        while not done.is_set():
            seen.update(Digest.of(tag.read_bytes()) for tag in tags)
            rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        published(site, replica)
        done.set()
        assert reader.result() > 100
    assert len(seen) == 2 * len(TAGS) + 2


def test_a_replica_keeps_its_own_word_on_what_its_catalog_leaves_out(
    site: Site, registry: FakeRegistry, replica: Path
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    replica.mkdir()
    (replica / "private").write_text(f"{TOOL}\n")
    published(site, replica)
    catalog = json.loads((replica / "v2/_catalog").read_bytes())["repositories"]
    assert catalog == [NAME]
    (replica / "private").write_text("")
    assert published(site, replica)["changed"]
    assert tree_of(replica) == tree_of(site.root)


def test_copies_of_a_tree_that_are_rolled_back_alike_stay_copies(
    site: Site, registry: FakeRegistry, replica: Path
) -> None:
    a_rollback(site, registry)
    published(site, replica)
    for root in (site.root, replica):
        assert site.run("rollback", root, 1, "--time", "2026-11-21T20:15:00Z").code == 0
        # Copies are not rolled back in the same second.
        time.sleep(1)
    assert site.tree.read_release(4).time == "2026-11-21T20:15:00Z"
    assert tree_of(replica) == tree_of(site.root)
    assert not published(site, replica)["changed"]


def test_copies_agree_with_one_lock(site: Site, registry: FakeRegistry, replica: Path) -> None:
    publish(site, registry, "first", "old", *TAGS)
    published(site, replica)
    for root in (site.root, replica):
        ran = site.run("diff", site.lock_file, root, "--all")
        assert (ran.code, "no difference" in ran.out) == (0, True)


# Killed.


@pytest.mark.parametrize("kind", ["path", "ssh"])
def test_killed_at_any_moment_a_replica_serves_what_it_served_and_the_next_run_finishes(
    kind: str, site: Site, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(site, registry, "first", "old", *TAGS[:-1])
    start, replica = site.folder / "start", site.folder / "replica"
    published(site, start)
    publish(site, registry, "second", "old", *TAGS[1:])
    # What a killed run cannot take away any more.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    if kind == "ssh":
        FakeSsh(tmp_path, monkeypatch)
    place = f"ssh://tree.example{replica}" if kind == "ssh" else str(replica)
    before, after = holds(start), holds(site.root)
    dice = random.Random(kind)  # noqa: S311
    shutil.copytree(start, replica, symlinks=True)
    began = time.monotonic()
    with site.start("publish", site.root, place) as whole:
        whole.communicate()
    took = time.monotonic() - began
    struck = tried = 0
    enough = 3 if kind == "path" else 1
    # How long it takes is a guess where others work as well: the guess follows what was struck.
    while (tried < 2 * enough or struck < enough) and tried < 40:
        tried += 1
        shutil.rmtree(replica)
        shutil.copytree(start, replica, symlinks=True)
        with site.start("publish", site.root, place) as process:
            time.sleep(dice.uniform(0.1, 1) * took)
            process.kill()
        now = holds(replica)
        struck += now not in (before, after)
        took *= 1.2 if now == before else 0.8 if now == after else 1
        for name, what in served(now).items():
            assert is_list(name) or Path(name).name.startswith(".") or what in {before.get(name), after.get(name)}
        kept = {name for name in served(before).keys() & after.keys() if not is_list(name)}
        assert kept <= now.keys()
        assert all(path.exists() for path in (replica / "v2").rglob("*") if path.is_symlink())
        deadline = time.monotonic() + 30
        # What it had started ends with it, but not in the same moment.
        while (ran := site.run("publish", site.root, place)).code == ExitCode.HELD and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ran.code == 0, ran.err
        assert holds(replica) == after
    assert struck >= enough
