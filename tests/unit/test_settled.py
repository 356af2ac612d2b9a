"""A sync with nothing to do says so at once, and takes no other for one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seawall.errors import ExitCode
from seawall.settled import applied_name, settled_tags
from seawall.tree import CATALOG, LOCKS, PENDING, PRIVATE, RELEASES
from seawall.writer import hold
from unit.fake_registry import FakeRegistry, make_artifact
from unit.tool_site import Site, entry
from unit.tree_work import holds

APP = "up.example/team/app"


@pytest.fixture
def settled(site: Site, registry: FakeRegistry) -> Site:
    """A site whose tree serves two tags of one image, one of another, and a signature, which has a tag of its own."""
    image = registry.add_image("team/app", "1")
    registry.add_image("team/app", "one", image)
    signature = registry.add_referrer("team/app", make_artifact("signature", image))
    registry.add_image("team/app", f"sha256-{image.digest.hex}.sig", signature)
    registry.add_image("team/tool", "1")
    site.publish(entry(registry, "team/app", "1", "one") | {"referrers": True}, entry(registry, "team/tool", "1"))
    registry.requests.clear()
    return site


def test_it_says_what_an_ordinary_one_says(settled: Site) -> None:
    answers, lines = [], []
    for _ in range(2):
        answers.append(settled.sync().answer)
        lines.append(settled.run("sync", settled.lock_file, settled.root).out)
        # To one who only compares bytes it is another lock from now on; as a lock it is the same.
        with settled.lock_file.open("a") as file:
            file.write("# changed by hand\n")
    assert answers[0] == answers[1]
    assert answers[0]["changed"] is False
    assert lines[0] == lines[1]
    assert "unchanged, serves 4 tags of the lock 'site'" in lines[0]


def test_it_asks_nobody_and_starts_nothing_that_it_does_not_use(settled: Site, registry: FakeRegistry) -> None:
    tools = Path(sys.modules["seawall"].__path__[0]).parent
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "seawall", "sync", settled.lock_file, settled.root],
        env={**os.environ, "PYTHONPATH": str(tools)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "unchanged" in ran.stdout
    read = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "seawall.tree" in read
    assert not {"concurrent.futures", "packaging", "pydantic", "requests", "rich", "seawall.lock", "ssl"} & read
    assert registry.requests == []


def lose(*path: str) -> Callable[[Site], object]:
    return lambda site: (site.root / Path(*path)).unlink()


def lose_the_digest(site: Site) -> None:
    link = site.root / "v2" / APP / "manifests/1"
    stored = site.tree.linked_manifest(APP, "1")
    assert stored
    link.with_name(str(stored.digest)).unlink()


def lose_the_signature(site: Site) -> None:
    next((site.root / "v2" / APP / "manifests").glob("sha256-*.sig")).unlink()


def move_a_tag(site: Site) -> None:
    other = site.tree.linked_manifest("up.example/team/tool", "1")
    assert other
    link = site.root / "v2" / APP / "manifests/1"
    link.unlink()
    link.symlink_to(site.tree.manifest_path(other))


def put_something_else(site: Site) -> None:
    link = site.root / "v2" / APP / "manifests/1"
    link.unlink()
    link.symlink_to("elsewhere")


def list_as_an_earlier_version(site: Site) -> None:
    first = site.root / "v2" / APP / "tags/list"
    content = first.read_bytes()
    first.unlink()
    first.write_bytes(content)


@pytest.mark.parametrize(
    "disturb",
    [
        lose("v2", APP, "manifests/one"),
        lose_the_digest,
        lose_the_signature,
        move_a_tag,
        put_something_else,
        list_as_an_earlier_version,
        lose(CATALOG, PRIVATE),
    ],
    ids=["tag", "digest", "referrer", "moved", "nonsense", "list", "catalog"],
)
def test_a_tree_that_is_not_as_the_lock_says_is_put_right(disturb: Callable[[Site], object], settled: Site) -> None:
    before = holds(settled.root)
    disturb(settled)
    assert settled_tags("site", settled.tree) is None
    assert settled.sync("--dry-run").answer["changed"] is True
    assert settled.sync().answer["changed"] is True
    now = holds(settled.root)
    assert {name: now[name] for name in before} == before
    assert settled_tags("site", settled.tree) == 4


def test_a_release_that_was_interrupted_is_finished(settled: Site) -> None:
    (settled.root / RELEASES / "1.json").rename(settled.root / RELEASES / PENDING)
    assert settled_tags("site", settled.tree) is None
    settled.sync()
    assert not (settled.root / RELEASES / PENDING).exists()


def test_only_the_lock_that_was_applied_last_is_taken_for_it(settled: Site) -> None:
    assert applied_name(settled.lock_file, settled.tree) == "site"
    applied = settled.root / LOCKS / "site.lock"
    applied.write_bytes(applied.read_bytes().swapcase())
    assert applied_name(settled.lock_file, settled.tree) is None
    settled.lock_file.unlink()
    assert applied_name(settled.lock_file, settled.tree) is None
    assert "images.lock: cannot be read" in settled.sync().err


def test_what_is_held_is_not_said_to_be_settled(settled: Site) -> None:
    with hold(settled.tree):
        assert settled.sync().code == ExitCode.HELD


def test_a_file_of_registries_is_read_even_so(settled: Site) -> None:
    wrong = settled.folder / "registries.conf"
    wrong.write_text("[[[")
    assert settled.sync("--registries-conf", str(wrong)).code == ExitCode.INPUT
