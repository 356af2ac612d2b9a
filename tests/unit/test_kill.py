"""Killed at any moment, a command leaves a tree that serves what it served; and only one writes at a time."""

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seawall.errors import ExitCode
from seawall.tree import INCOMING
from unit.fake_registry import FakeRegistry, Fault
from unit.fork_server import Ended, ForkServer
from unit.tool_site import Site
from unit.tree_work import (
    TAGS,
    Prepare,
    a_prune,
    a_rollback,
    a_sync,
    a_tag,
    an_add,
    an_rm,
    an_unbundle,
    check,
    copy_tree,
    holds,
    locked,
    publish,
    renew,
    served,
)


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


# 200 moments of a sync, a rollback and a prune, in parts that can be tried side by side; 30 of each of the others.
MOMENTS = [(prepare, part, 50) for prepare in (a_sync, a_rollback, a_prune) for part in range(4)]
MOMENTS += [(prepare, 0, 30) for prepare in (an_add, an_rm, a_tag, an_unbundle)]


@pytest.mark.parametrize(("prepare", "part", "moments"), MOMENTS)
def test_killed_at_any_moment_the_tree_serves_what_it_served_and_the_next_run_finishes(
    prepare: Prepare, part: int, moments: int, site: Site, registry: FakeRegistry, tool: ForkServer
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
        copy_tree(start, site.root)

    begin()
    whole = run().steps
    assert site.scrubbed() == []
    before, after = holds(start), holds(site.root)
    assert served(before) != served(after)
    dice = random.Random(part)  # noqa: S311
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
