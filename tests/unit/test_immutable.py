"""Immutable tags never move: not in the lock, not in the tree."""

from typing import Any

import pytest

from seawall.errors import ExitCode
from unit.fake_registry import FakeImage, FakeRegistry, make_image
from unit.tool_site import Ran, Site, entry

NAME = "up.example/team/app"
OLD, NEW = make_image("old"), make_image("new")


def declare(site: Site, registry: FakeRegistry, *tags: Any, immutable: Any = True) -> None:
    site.declare(entry(registry, "team/app", *tags) | {"immutable": immutable})


@pytest.fixture
def moved(site: Site, registry: FakeRegistry) -> FakeRegistry:
    """1.0 and latest are published, 1.0 as immutable, and have both moved at the source."""
    for tag in ("1.0", "latest"):
        registry.add_image("team/app", tag, OLD)
    declare(site, registry, "1.0", "latest", immutable=["1.*"])
    assert site.lock().code == 0
    assert site.sync().code == 0
    for tag in ("1.0", "latest"):
        registry.add_image("team/app", tag, NEW)
    return registry


def assert_refused(ran: Ran, tag: str, old: FakeImage = OLD, new: FakeImage = NEW) -> None:
    assert ran.code == ExitCode.INPUT
    assert f"{NAME}:{tag}: is immutable and must not move from {old.digest} to {new.digest}" in ran.err


def served(site: Site, tag: str) -> str:
    return site.tags()[f"{NAME}:{tag}"]


def test_the_lock_says_which_tags_are_immutable_and_stays_when_one_moved(site: Site, moved: FakeRegistry) -> None:
    before = site.lock_file.read_text()
    assert before.count("immutable: true") == 1
    assert site.lock().answer["changed"] is False
    assert_refused(site.lock("--upgrade"), "1.0")
    assert site.lock_file.read_text() == before


def test_a_tag_that_is_not_immutable_moves_beside_one_that_is(site: Site, moved: FakeRegistry) -> None:
    moved.add_image("team/app", "1.0", OLD)
    moves = site.lock("--upgrade").answer["moved"]
    assert [row["reference"] for row in moves] == [f"{NAME}:latest"]


def test_a_tag_cannot_become_immutable_and_move_at_once(site: Site, moved: FakeRegistry) -> None:
    declare(site, moved, "1.0", "latest")
    ran = site.lock("--upgrade")
    assert_refused(ran, "1.0")
    assert "nor may 1 more" in ran.err


def test_another_source_does_not_move_it_either(site: Site, moved: FakeRegistry) -> None:
    moved.add_image("other/app", "1.0", NEW)
    site.declare(entry(moved, "other/app", "1.0", name=NAME))
    assert_refused(site.lock(), "1.0")


def test_once_it_is_not_immutable_any_more_it_moves(site: Site, moved: FakeRegistry) -> None:
    declare(site, moved, "1.0", "latest", immutable=False)
    assert_refused(site.lock("--upgrade"), "1.0")
    assert site.lock().code == 0
    assert site.sync().code == 0
    assert site.lock("--upgrade").code == 0
    assert site.sync().code == 0
    assert served(site, "1.0") == str(NEW.digest)


def test_a_sync_moves_no_tag_that_the_applied_lock_says_is_immutable(site: Site, moved: FakeRegistry) -> None:
    site.lock_file.unlink()
    declare(site, moved, "1.0", "latest", immutable=False)
    assert site.lock().code == 0
    before = site.tags()
    assert_refused(site.sync(), "1.0")
    assert_refused(site.sync("--dry-run"), "1.0")
    assert site.tags() == before


def test_a_sync_moves_no_tag_that_its_own_lock_says_is_immutable(site: Site, moved: FakeRegistry) -> None:
    site.lock_file.unlink()
    moved.add_image("team/app", "1.0", OLD)
    declare(site, moved, "latest", immutable=True)
    assert site.lock().code == 0
    assert_refused(site.sync(), "latest")
    assert served(site, "latest") == str(OLD.digest)


def test_a_sync_moves_no_tag_that_another_lock_says_is_immutable(site: Site, moved: FakeRegistry) -> None:
    site.lock_file.unlink()
    site.declare(entry(moved, "team/app", "1.0"), name="other")
    assert site.lock().code == 0
    assert_refused(site.sync(), "1.0")


def test_nobody_tags_over_an_immutable_tag(site: Site, moved: FakeRegistry) -> None:
    assert site.lock("--upgrade").code == ExitCode.INPUT
    moved.add_image("team/app", "1.0", OLD)
    assert site.lock("--upgrade").code == 0
    assert site.sync().code == 0
    assert_refused(site.run("tag", site.root, f"{NAME}:latest", "1.0"), "1.0")
    assert site.run("tag", site.root, f"{NAME}:1.0", "latest").code == 0
    assert site.run("tag", site.root, f"{NAME}:1.0", "1.0").code == 0


def test_after_a_rollback_a_sync_brings_an_immutable_tag_back(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1.0", OLD)
    site.publish(entry(registry, "team/app", "1.0"))
    registry.add_image("team/app", "1.0", NEW)
    site.publish(entry(registry, "team/app", "1.0"))
    declare(site, registry, "1.0")
    assert site.lock().code == 0
    assert site.sync().code == 0
    assert site.run("rollback", site.root, 1).code == 0
    assert served(site, "1.0") == str(OLD.digest)
    assert site.sync().code == 0
    assert served(site, "1.0") == str(NEW.digest)


def test_an_immutable_tag_can_be_withdrawn(site: Site, moved: FakeRegistry) -> None:
    declare(site, moved, "latest", immutable=False)
    assert site.lock().code == 0
    assert site.sync().code == 0
    assert set(site.tags()) == {f"{NAME}:latest"}


def test_a_tag_that_is_named_immutable_has_to_be_carried(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1.0")
    declare(site, registry, "1.0", immutable=["1.O"])
    ran = site.lock()
    assert ran.code == ExitCode.INPUT
    assert "immutable names 1.O, which is not carried" in ran.err
