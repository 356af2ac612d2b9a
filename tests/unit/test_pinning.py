"""Pinning: what filters find is pinned, and stays so until it is asked for anew."""

import pytest

from seawall.digest import Digest
from seawall.errors import ExitCode
from unit.fake_registry import FakeRegistry, make_image
from unit.tool_site import Site, entry

NAME = "up.example/team/app"


@pytest.fixture
def app(registry: FakeRegistry) -> FakeRegistry:
    """A registry whose team/app has 1.8, 1.9, 1.10, 2.0 and latest."""
    for tag in ("1.8", "1.9", "1.10", "2.0", "latest"):
        registry.add_image("team/app", tag)
    return registry


def locked(site: Site, *options: str) -> set[str]:
    ran = site.run("lock", site.images_file, *options)
    assert ran.code == 0, ran.err
    assert site.sync().code == 0
    return {reference.removeprefix(f"{NAME}:") for reference in site.tags()}


def test_what_filters_find_is_pinned_beside_what_is_named(site: Site, app: FakeRegistry) -> None:
    site.declare(entry(app, "team/app", "latest", "1.?", {"range": "<2", "newest": 1}))
    assert locked(site) == {"latest", "1.8", "1.9", "1.10"}
    assert len(app.asked("GET", "/tags/list")) == 1


def test_a_second_lock_asks_nothing_although_the_source_has_more(site: Site, app: FakeRegistry) -> None:
    site.declare(entry(app, "team/app", {"range": ">=1,<2", "newest": 2}))
    assert locked(site) == {"1.9", "1.10"}
    app.add_image("team/app", "1.11")
    assert (site.lock().answer["requests"], site.lock().answer["changed"]) == (0, False)
    assert locked(site, "--upgrade") == {"1.10", "1.11"}


def test_a_changed_filter_is_asked_anew_and_pins_stay(site: Site, app: FakeRegistry) -> None:
    site.declare(entry(app, "team/app", {"range": ">=1,<2", "newest": 2}, "2.*"))
    before = app.store.manifests["team/app", "1.10"][0]
    locked(site)
    app.add_image("team/app", "1.10", app.add_image("team/app", "2.0"))
    app.add_image("team/app", "2.1")
    site.declare(entry(app, "team/app", {"range": ">=1,<2", "newest": 3}, "2.*"))
    assert locked(site) == {"1.8", "1.9", "1.10", "2.0"}, "the other filter is not asked again"
    assert (site.root / f"v2/{NAME}/manifests/1.10").read_bytes() == before


def test_entries_of_one_source_share_their_place_in_the_lock(site: Site, app: FakeRegistry) -> None:
    site.declare(entry(app, "team/app", "2.*"), entry(app, "team/app", {"range": "<2"}, "latest"))
    assert locked(site) == {"1.8", "1.9", "1.10", "2.0", "latest"}
    assert site.lock().answer["changed"] is False


def test_an_upgrade_of_one_repository_asks_no_other(site: Site, app: FakeRegistry) -> None:
    app.add_image("other/app", "1", make_image("old"))
    site.declare(entry(app, "team/app", "1.*"), entry(app, "other/app", "1"))
    site.lock()
    new = app.add_image("other/app", "1", make_image("new"))
    app.add_image("team/app", "1.9", make_image("new"))
    app.add_image("team/app", "1.11")
    asked = len(app.requests)
    moves = site.lock("--upgrade", "--only", "up.example/other/app").answer["moved"]
    assert [(row["reference"], row["after"]) for row in moves] == [("up.example/other/app:1", str(new.digest))]
    assert len(app.requests) == asked + 1
    moves = site.lock("--upgrade", "--only", NAME, "--only", "up.example/other/app").answer["moved"]
    assert [row["reference"] for row in moves] == [f"{NAME}:1.11", f"{NAME}:1.9"]


def test_an_upgrade_of_a_repository_that_is_not_there_is_refused(site: Site, app: FakeRegistry) -> None:
    site.declare(entry(app, "team/app", "latest"))
    ran = site.lock("--upgrade", "--only", "team/app")
    assert ran.code == ExitCode.INPUT
    assert f"team/app: is no repository that the images file fills; give one of {NAME}" in ran.err
    assert site.lock("--only", NAME).code == ExitCode.USAGE


def test_what_moved_is_printed_as_a_table(site: Site, app: FakeRegistry) -> None:
    site.declare(entry(app, "team/app", "latest", "2.0"))
    site.lock()
    old = app.store.manifests["team/app", "latest"][0]
    new = app.add_image("team/app", "latest", make_image("new"))
    shown = site.run("lock", site.images_file, "--upgrade").out.splitlines()
    assert shown[0].split() == ["REFERENCE", "FROM", "TO"]
    assert shown[1].split() == [f"{NAME}:latest", f"sha256:{Digest.of(old).hex[:12]}", f"sha256:{new.digest.hex[:12]}"]
    assert len(shown) == 3
    assert len(site.run("lock", site.images_file).out.splitlines()) == 1


def test_a_filter_that_matches_nothing_is_named(site: Site, app: FakeRegistry) -> None:
    site.declare(entry(app, "team/app", "latest", {"range": ">=1", "suffix": "-alpine"}))
    ran = site.lock()
    assert ran.code == ExitCode.SOURCE
    assert "the filter {range: >=1, suffix: -alpine} matches none of 5 tags" in ran.err
    assert not site.lock_file.exists()


def test_two_entries_that_come_to_carry_one_tag_are_refused(site: Site, app: FakeRegistry) -> None:
    app.add_image("other/app", "1.8")
    site.declare(entry(app, "team/app", "1.*"), entry(app, "other/app", "1.8", name=NAME))
    ran = site.lock()
    assert ran.code == ExitCode.INPUT
    assert f"{NAME}:1.8 is carried by two entries" in ran.err


def test_named_tags_cost_no_tag_list(site: Site, app: FakeRegistry) -> None:
    site.declare(entry(app, "team/app", "latest"))
    site.lock()
    assert not app.asked("GET", "/tags/list")
