"""On a disk that is full a command says so in one line, the tree serves on, and with room the next run finishes."""

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from seawall.errors import ExitCode
from seawall.tree import INCOMING
from unit.fake_registry import FakeRegistry
from unit.tool_site import Ran, Site
from unit.tree_work import (
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
    renew,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")

ROOMY = "nr_blocks=8192,nr_inodes=8192"


@pytest.fixture
def site(site: Site) -> Iterator[Site]:
    """A site on a small file system of its own."""
    folder = site.folder / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=755,{ROOMY}", "none", folder], check=True)
    try:
        yield Site(folder, site._capsys)
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def little_room(folder: Path, what: str, free: int) -> Iterator[None]:
    """Leave the file system of *folder* only so many *free* blocks, or inodes."""
    figures = os.statvfs(folder)
    used = figures.f_blocks - figures.f_bfree if what == "nr_blocks" else figures.f_files - figures.f_ffree
    _remount(folder, f"{what}={used + free}")
    try:
        yield
    finally:
        _remount(folder, ROOMY)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.mark.parametrize("what", ["nr_blocks", "nr_inodes"])
@pytest.mark.parametrize("prepare", [a_sync, an_add, an_unbundle, a_rollback, a_tag, an_rm])
def test_wherever_the_room_ends_the_tree_serves_on_and_with_room_the_next_run_finishes(
    prepare: Prepare, what: str, site: Site, registry: FakeRegistry
) -> None:
    arguments = prepare(site, registry)
    start = site.root.rename(site.folder / "start")
    copy_tree(start, site.root)
    assert site.run(*arguments).code == 0
    before, after = holds(start), holds(site.root)
    dice = random.Random(what)  # noqa: S311
    free = refusals = 0
    while True:
        shutil.rmtree(site.root)
        copy_tree(start, site.root)
        with little_room(site.folder, what, free):
            ran = site.run(*arguments)
            now = check(site, before, after)
        if ran.code == 0:
            break
        refusals += 1
        assert_says_so(ran)
        assert_only_beginnings_are_left(site, registry, ran)
        if dice.random() < 0.3 or now != before:
            assert site.run(*arguments).code == 0
            assert holds(site.root) == after
        free += dice.randint(1, 6)
    assert holds(site.root) == after
    assert refusals


def assert_says_so(ran: Ran) -> None:
    line = ran.err.splitlines()[-1]
    assert ran.code == ExitCode.TREE
    assert "no space is left; make room" in line or "free on its file system; make room" in line


def assert_only_beginnings_are_left(site: Site, registry: FakeRegistry, ran: Ran) -> None:
    """A blob that was stopped because another found no room stays as far as it came, and the other does not stay."""
    contents = {digest.removeprefix("sha256:"): content for (_, digest), content in registry.store.blobs.items()}
    for left in (site.root / INCOMING).iterdir():
        assert left.suffix == ".part"
        assert contents[left.stem].startswith(left.read_bytes())
        assert left.stem not in ran.err


def test_a_prune_needs_no_room_to_make_some(site: Site, registry: FakeRegistry) -> None:
    arguments = a_prune(site, registry)
    for what in ("nr_blocks", "nr_inodes"):
        with little_room(site.folder, what, 0):
            assert site.run(*arguments, "--dry-run", "--json").answer["changed"] is (what == "nr_blocks")
            assert site.run(*arguments).code == 0
    assert site.scrubbed() == []


@pytest.mark.parametrize("what", ["nr_blocks", "nr_inodes"])
def test_a_lock_that_finds_no_room_stays_as_it_was(what: str, site: Site, registry: FakeRegistry) -> None:
    renew(site, registry, "first", "old", "t0")
    old = site.lock_file.read_bytes()
    registry.add_image("team/app", "old")
    names = set(site.folder.iterdir())
    with little_room(site.folder, what, 0):
        failed = site.lock("--upgrade")
    assert failed.code == ExitCode.INPUT
    assert "images.lock: cannot be written (No space left on device); check folder, room" in failed.err
    assert (set(site.folder.iterdir()), site.lock_file.read_bytes()) == (names, old)
    assert site.lock("--upgrade").answer["changed"] is True
    assert site.lock_file.read_bytes() != old
