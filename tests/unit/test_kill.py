"""Killed at any moment, a sync leaves a tree that serves what it served; and only one writes at a time."""

import contextlib
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from seawall.cli import main
from seawall.errors import ExitCode
from seawall.lock import read_lock
from seawall.progress import Silent
from seawall.scrub import scrub
from seawall.tree import INCOMING, PENDING, RELEASES
from unit.fake_registry import FakeRegistry, Fault, make_image, make_layer
from unit.tool_site import Site, entry

NAME = "up.example/team/app"
BATCHES, KILLS = 10, 20
TAGS = [f"t{number}" for number in range(4)]

Start = Callable[[], BaseProcess]


@pytest.fixture
def start(site: Site, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a sync of the site in a process of its own, forked from one that has read the tool already."""
    monkeypatch.setenv("PYTHONPATH", str(Path(sys.modules["seawall"].__path__[0]).parent))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seawall.cli", "seawall.commands.sync"])

    def start() -> BaseProcess:
        process = context.Process(target=main, args=(["sync", str(site.lock_file), str(site.root)],))
        process.start()
        return process

    return start


def renew(site: Site, registry: FakeRegistry, generation: str) -> None:
    """Point all tags of the registry at new images, which share a layer, and lock them."""
    shared = make_layer(f"{generation} shared", 150_000)
    for tag in TAGS:
        layers = [shared, make_layer(f"{generation} {tag}", 50_000)]
        registry.add_image("team/app", tag, make_image(f"{generation} {tag}", layers=layers))
    site.declare(entry(registry, "team/app", "old", *TAGS))
    assert site.lock("--upgrade").code == 0


def end(process: BaseProcess) -> int | None:
    process.join(30)
    return process.exitcode


def check(site: Site, served: dict[Path, bytes]) -> None:
    """See that the tree serves all that it served, and holds nothing that is wrong."""
    # A blob may be linked before its manifest: nobody asks for it yet. A list may be half written, but is one.
    findings = scrub(site.tree, Silent(), 2).findings
    assert {finding.kind for finding in findings if not is_list(finding.path)} <= {"unnamed"}
    assert "old" in json.loads((site.root / f"v2/{NAME}/tags/list").read_bytes())["tags"]
    assert NAME in json.loads((site.root / "v2/_catalog").read_bytes())["repositories"]
    for path, content in served.items():
        assert path.read_bytes() == content


def is_list(path: str) -> bool:
    return path.startswith((f"v2/{NAME}/tags/", "catalog/"))


@pytest.fixture(scope="module")
def strikes() -> list[str]:
    """Traces of work under way that kills left, in all batches."""
    return []


@pytest.mark.parametrize("batch", range(BATCHES))
def test_killed_at_any_moment_the_tree_serves_what_it_served_and_the_next_run_finishes(
    batch: int, site: Site, registry: FakeRegistry, start: Start, strikes: list[str]
) -> None:
    registry.add_image("team/app", "old")
    site.publish(entry(registry, "team/app", "old"))
    served = {path: path.read_bytes() for path in (site.root / f"v2/{NAME}").glob("[bm]*/*") if path.is_file()}
    assert len(served) > 4
    for generation in ("first", "second"):  # The first start also starts what forks.
        renew(site, registry, generation)
        began = time.monotonic()
        assert end(start()) == 0
        whole = time.monotonic() - began
    dice = random.Random(batch)  # noqa: S311
    is_done = True
    for attempt in range(KILLS):
        if is_done:
            renew(site, registry, f"{batch} {attempt}")
        process = start()
        time.sleep(dice.uniform(0, whole))
        process.kill()
        is_done = end(process) == 0
        check(site, served)
        strikes += [name for name in (INCOMING, f"{RELEASES}/{PENDING}") if has_something(site.root / name)]
    assert end(start()) == 0
    assert site.scrubbed() == []
    assert site.tags() == {str(reference): str(pin.digest) for reference, pin in read_lock(site.lock_file).pins.items()}
    assert not has_something(site.root / INCOMING)


def test_kills_struck_in_the_middle(strikes: list[str]) -> None:
    # Not of each batch: on a machine that others use, twenty moments may all be bad ones.
    assert len(strikes) >= BATCHES


def has_something(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(path.iterdir()) if path.is_dir() else path.exists()
    return False


def test_of_two_syncs_at_once_one_wins_and_the_other_says_why_not(
    site: Site, registry: FakeRegistry, start: Start
) -> None:
    old = registry.add_image("team/app", "old")
    renew(site, registry, "only")
    slow = registry.misbehave(Fault(on=old.layers[0].digest, stall=1.5, times=1))
    first = start()
    deadline = time.monotonic() + 20
    while not registry.asked("GET", slow.on):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = site.sync()
    assert second.code == ExitCode.HELD
    assert f"is held by another run (process {first.pid}); wait until it ends" in second.err
    assert end(first) == 0
    assert site.scrubbed() == []
    assert site.sync().answer["changed"] is False
