"""Killed at any moment, a command leaves a tree that serves what it served; and only one writes at a time."""

import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest

from seawall.digest import Digest
from seawall.errors import ExitCode
from seawall.lock import read_lock
from seawall.progress import Silent
from seawall.scrub import scrub
from seawall.tree import CONTENT, INCOMING, LOCKS, RELEASES, V2
from unit.fake_registry import AMD64, ARM64, FakeRegistry, Fault, make_image, make_index, make_layer
from unit.fork_server import Ended, ForkServer
from unit.tool_site import Site, entry

NAME, TOOL = "up.example/team/app", "up.example/team/tool"
TAGS = [f"t{number}" for number in range(4)]

Arguments = list[object]
Seen = Mapping[str, object]
Prepare = Callable[[Site, FakeRegistry], Arguments]


@pytest.fixture
def site(site: Site) -> Iterator[Site]:
    """A site in memory, where there is room: what a killed process wrote is there whether or not it came to a disk."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else site.folder) as folder:
        yield Site(Path(folder), site._capsys)


@pytest.fixture(scope="module")
def tool() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def publish(site: Site, registry: FakeRegistry, generation: str, *tags: str) -> None:
    """Make the tree serve *tags*, the numbered ones at new images that share a layer, one of them of two platforms."""
    renew(site, registry, generation, *tags)
    assert site.sync().code == 0


def renew(site: Site, registry: FakeRegistry, generation: str, *tags: str) -> None:
    shared = make_layer(f"{generation} shared", 300_000)
    for tag in TAGS:
        layers = [shared, make_layer(f"{generation} {tag}", 50_000)]
        registry.add_image("team/app", tag, make_image(f"{generation} {tag}", layers=layers))
    pair = [make_image(generation, platform=platform) for platform in (AMD64, ARM64)]
    registry.add_image("team/app", TAGS[0], make_index(pair))
    registry.add_image("team/app", "old", make_image("old"))
    registry.add_image("team/tool", "1", make_image(f"{generation} tool", layers=[shared]))
    site.declare(entry(registry, "team/app", *tags), entry(registry, "team/tool", "1"))
    assert site.lock("--upgrade").code == 0


# What is killed, each with a tree on which it has much to do.


def a_sync(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS[:-1])
    renew(site, registry, "second", "old", *TAGS[1:])
    return ["sync", site.lock_file, site.root]


def a_rollback(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS[:-1])
    publish(site, registry, "second", "old", *TAGS[1:])
    publish(site, registry, "third", "old", *TAGS[2:])
    return ["rollback", site.root, 1]


def a_prune(site: Site, registry: FakeRegistry) -> Arguments:
    for generation in ("first", "second"):
        publish(site, registry, generation, "old", *TAGS)
    registry.add_image("team/gone", "1")
    assert site.run("add", site.root, f"docker://{registry.host}/team/gone:1", "gone:1", "--plain-http").code == 0
    assert site.run("rm", site.root, "gone:1").code == 0
    return ["prune", site.root, "--keep-releases", 1, "--grace", "0s"]


def an_add(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS)
    registry.add_image("team/app", "added", make_index([make_image("a"), make_image("b")]))
    return ["add", site.root, f"docker://{registry.host}/team/app:added", f"{NAME}:t1", "--plain-http"]


def an_rm(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS)
    return ["rm", site.root, f"{TOOL}:1", *(f"{NAME}:{tag}" for tag in TAGS)]


def a_tag(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS)
    return ["tag", site.root, f"{NAME}:old", TAGS[0]]


def an_unbundle(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS[:-1])
    shutil.copytree(site.root, site.folder / "far", symlinks=True)
    publish(site, registry, "second", "old", *TAGS[1:])
    file = site.folder / "bundle.tar"
    assert site.run("bundle", site.root, file, "--since", 1).code == 0
    shutil.rmtree(site.root)
    (site.folder / "far").rename(site.root)
    return ["unbundle", file, site.root]


# How a tree is looked at.


def holds(root: Path) -> Seen:
    """Return all that a tree holds: links with where they lead, content with its hash, records without their time."""
    found: dict[str, object] = {}
    for folder, _, names in chain.from_iterable(os.walk(root / top) for top in (V2, CONTENT, LOCKS, RELEASES)):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink():
                what: object = path.readlink()
            else:
                what = Digest.of(re.sub(rb'"time": ".*"', b"", path.read_bytes()))
            found[str(path.relative_to(root))] = what
    return found


def served(seen: Seen) -> Seen:
    """Return the part of what a tree holds that clients ask for."""
    return {name: what for name, what in seen.items() if name.startswith(f"{V2}/")}


def check(site: Site, before: Seen, after: Seen) -> Seen:
    """See that the tree is whole and serves what it served, or already what it is to serve; return what it holds."""
    now = holds(site.root)
    if now not in (before, after):  # These two are known to be whole.
        findings = scrub(site.tree, Silent(), 2).findings
        # A tag list may be ahead of its tags, and a blob linked before its manifest or longer: nobody asks for these.
        assert {finding.kind for finding in findings} <= {"stale", "unnamed"}, findings
    for name, what in served(now).items():
        assert what in {before.get(name), after.get(name)}, name
    assert (served(before).keys() & after.keys()) - now.keys() == set()
    return now


@pytest.mark.parametrize(
    ("prepare", "moments"),
    [(a_sync, 200), (a_rollback, 200), (a_prune, 200), (an_add, 30), (an_rm, 30), (a_tag, 30), (an_unbundle, 30)],
)
def test_killed_at_any_moment_the_tree_serves_what_it_served_and_the_next_run_finishes(
    prepare: Prepare, moments: int, site: Site, registry: FakeRegistry, tool: ForkServer
) -> None:
    arguments = prepare(site, registry)
    assert site.scrubbed() == []
    start = site.root.rename(site.folder / "start")

    def run(kill_at: int | None = None, delay: float = 0.0) -> Ended:
        ended = tool.run(*arguments, kill_at=kill_at, delay=delay)
        # What is gone cannot be taken away once more: that it really is gone is seen below.
        assert ended.was_killed or ended.code in ({0, ExitCode.INPUT} if prepare is an_rm else {0}), ended.err
        return ended

    def begin() -> None:
        shutil.rmtree(site.root, ignore_errors=True)
        # Nothing is ever written in its place, so the copy may share its files with what it is a copy of.
        shutil.copytree(start, site.root, symlinks=True, copy_function=os.link)

    begin()
    whole = run().steps
    assert site.scrubbed() == []
    before, after = holds(start), holds(site.root)
    assert served(before) != served(after)
    dice = random.Random(moments)  # noqa: S311
    kills = strikes = 0
    while kills < moments:
        begin()
        # Now and then the run that is to finish the work is killed as well.
        for _ in range(dice.choice((1, 1, 2))):
            kills += run(dice.randrange(whole), dice.choice((0.0, dice.uniform(0, 0.002)))).was_killed
            now = check(site, before, after)
            strikes += now != after and (now != before or any((site.root / INCOMING).iterdir()))
        run()
        assert holds(site.root) == after
        assert not list((site.root / INCOMING).iterdir())
    assert strikes >= moments / 3, "they were killed in the middle of their work"


# Two at once.


@pytest.mark.parametrize(
    "second",
    [
        ["sync", "{lock}", "{tree}"],
        ["prune", "{tree}", "--keep-releases", "1", "--grace", "0s"],
        ["rollback", "{tree}", 1],
    ],
    ids=["sync", "prune", "rollback"],
)
def test_beside_a_sync_that_is_under_way_a_second_run_says_why_not_and_works_afterwards(
    second: list[object], site: Site, registry: FakeRegistry
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    publish(site, registry, "second", "old", *TAGS)
    renew(site, registry, "third", "old", *TAGS)
    arguments = [str(word).format(lock=site.lock_file, tree=site.root) for word in second]
    before = holds(site.root)
    slow = registry.misbehave(Fault(on="/blobs/", stall=2, times=1))
    with site.start("sync", site.lock_file, site.root) as first:
        deadline = time.monotonic() + 60
        while slow.times:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        refused = site.run(*arguments)
        assert refused.code == ExitCode.HELD
        assert f"is held by another run (process {first.pid}); wait until it ends" in refused.err
        assert served(holds(site.root)) == served(before), "neither has changed anything so far"
        said = first.communicate(timeout=60)
    assert first.returncode == 0, said
    assert site.scrubbed() == []
    assert site.tags() == locked(site)
    assert site.run(*arguments).code == 0
    assert site.scrubbed() == []


@pytest.mark.parametrize("prepare", [a_sync, a_prune, a_rollback])
def test_of_two_that_start_at_once_both_end_well_or_one_is_refused(
    prepare: Prepare, site: Site, registry: FakeRegistry, tool: ForkServer
) -> None:
    arguments = prepare(site, registry)
    renew(site, registry, "last", "old", *TAGS)
    with ForkServer() as other, ThreadPoolExecutor(2) as pool:
        for attempt in range(6):
            renew(site, registry, f"attempt {attempt}", "old", *TAGS)
            racers = ((tool, ["sync", site.lock_file, site.root]), (other, arguments))
            ended = list(pool.map(lambda racer: racer[0].run(*racer[1]), racers))
            assert {end.code for end in ended} <= {0, ExitCode.HELD}, ended
            assert any(end.code == 0 for end in ended)
            assert site.scrubbed() == []
    assert site.sync().code == 0
    assert site.tags() == locked(site)


def locked(site: Site) -> dict[str, str]:
    return {str(reference): str(pin.digest) for reference, pin in read_lock(site.lock_file).pins.items()}
