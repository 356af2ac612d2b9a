"""Releases: what moved is recorded, and can be undone."""

import pytest

from seawall.errors import ExitCode
from seawall.release import Release, TagMove
from seawall.releasing import plan_rollback
from seawall.writer import hold
from unit.fake_registry import FakeImage, FakeRegistry, make_image
from unit.tool_site import Site, entry

NAME = "up.example/team/app"


@pytest.fixture
def images(site: Site, registry: FakeRegistry) -> list[FakeImage]:
    """Three releases: 1.0 and latest; latest moved and 2.0 new; 1.0 withdrawn."""
    old, new = make_image("old"), make_image("new")
    registry.add_image("team/app", "1.0", old)
    registry.add_image("team/app", "latest", old)
    site.publish(entry(registry, "team/app", "1.0", "latest"))
    registry.add_image("team/app", "2.0", new)
    registry.add_image("team/app", "latest", new)
    site.publish(entry(registry, "team/app", "1.0", "2.0", "latest"))
    site.publish(entry(registry, "team/app", "2.0", "latest"))
    return [old, new]


def served(**tags: FakeImage) -> dict[str, str]:
    return {f"{NAME}:{tag.replace('_', '.').removeprefix('v')}": str(image.digest) for tag, image in tags.items()}


def test_releases_are_listed_with_what_made_them(site: Site, images: list[FakeImage]) -> None:
    listed = site.run("releases", site.root, "--json").answer
    assert [(row["release"], row["by"], row["lock"], len(row["moved"])) for row in listed] == [
        (1, "sync", "site", 2),
        (2, "sync", "site", 2),
        (3, "sync", "site", 1),
    ]
    shown = site.run("releases", site.root).out.splitlines()
    assert shown[0].split() == ["RELEASE", "TIME", "BY", "LOCK", "TAGS", "REFERRERS"]
    assert len(shown) == 4


def test_a_rollback_brings_the_tags_back_as_they_were(site: Site, images: list[FakeImage]) -> None:
    old, new = images
    assert site.run("rollback", site.root, 1).code == 0
    assert site.tags() == served(v1_0=old, latest=old)
    assert (site.root / f"v2/{NAME}/tags/list").read_text().endswith('"tags":["1.0","latest"]}')
    assert site.scrubbed() == []
    assert site.run("rollback", site.root, 3).code == 0
    assert site.tags() == served(v2_0=new, latest=new)
    assert site.run("rollback", site.root, 0).code == 0
    assert site.tags() == {}
    assert [row["by"] for row in site.run("releases", site.root, "--json").answer][3:] == ["rollback"] * 3
    assert site.scrubbed() == []


def test_a_rollback_asks_no_source_and_a_second_one_changes_nothing(
    site: Site, images: list[FakeImage], registry: FakeRegistry
) -> None:
    asked = len(registry.requests)
    site.run("rollback", site.root, 2)
    again = site.run("rollback", site.root, 2, "--json").answer
    assert (again["changed"], again["release"]) == (False, None)
    assert len(registry.requests) == asked


def test_a_rehearsal_shows_the_moves_and_makes_none(site: Site, images: list[FakeImage]) -> None:
    before = site.tags()
    planned = site.run("rollback", site.root, 1, "--dry-run", "--json").answer
    assert site.tags() == before
    done = site.run("rollback", site.root, 1, "--json").answer
    assert planned["moved"] == done["moved"]
    assert "move up.example/team/app:2.0" in site.run("rollback", site.root, 3, "--dry-run").out


def test_after_a_rollback_the_lock_brings_its_tags_again(site: Site, images: list[FakeImage]) -> None:
    new = images[1]
    site.run("rollback", site.root, 1)
    assert site.sync().answer["changed"] is True
    assert f"{NAME}:2.0" in site.tags()
    assert site.tags()[f"{NAME}:latest"] == str(new.digest)


@pytest.mark.parametrize(("number", "code"), [("4", ExitCode.INPUT), ("-1", ExitCode.USAGE), ("x", ExitCode.USAGE)])
def test_a_release_that_never_was_is_refused(number: str, code: int, site: Site, images: list[FakeImage]) -> None:
    before = site.tags()
    assert site.run("rollback", site.root, "--", number).code == code
    assert site.tags() == before


def test_a_rollback_to_what_is_no_longer_there_is_refused(site: Site, images: list[FakeImage]) -> None:
    before = site.tags()
    (site.root / f"v2/{NAME}/manifests/{images[0].digest}").unlink()
    ran = site.run("rollback", site.root, 1)
    assert ran.code == ExitCode.INPUT
    assert "any more; sync a lock that names it" in ran.err
    assert site.tags() == before


def test_an_interrupted_release_is_undone_with_the_others(site: Site, images: list[FakeImage]) -> None:
    old, new = images
    move = TagMove(NAME, "2.0", new.digest, old.digest)
    with hold(site.tree) as writer:
        writer.begin_release(Release(4, "2026-01-01T00:00:00Z", "tag", "", (move,)))
        writer.link_manifest(NAME, "2.0", site.tree.linked_manifest(NAME, str(old.digest)))  # type: ignore[arg-type]
    assert site.tags()[f"{NAME}:2.0"] == str(old.digest)
    assert plan_rollback(site.tree, 3).moves == (TagMove(NAME, "2.0", old.digest, new.digest),)
    assert site.run("rollback", site.root, 3).code == 0
    assert site.tags() == served(v2_0=new, latest=new)
    assert not (site.root / "releases/pending.json").exists()
    assert site.scrubbed() == []


def test_a_tag_is_pointed_at_what_another_names(site: Site, images: list[FakeImage]) -> None:
    old, new = images
    assert site.run("tag", site.root, f"{NAME}:2.0", "stable").code == 0
    assert site.tags()[f"{NAME}:stable"] == str(new.digest)
    assert site.run("tag", site.root, f"{NAME}@{old.digest}", "stable", "--json").answer["release"] == 5
    assert site.tags()[f"{NAME}:stable"] == str(old.digest)
    assert site.run("tag", site.root, f"{NAME}@{old.digest}", "stable").out.endswith("unchanged\n")
    assert site.scrubbed() == []


def test_what_a_person_tagged_survives_the_next_sync(
    site: Site, images: list[FakeImage], registry: FakeRegistry
) -> None:
    site.run("tag", site.root, f"{NAME}:2.0", "stable")
    site.publish(entry(registry, "team/app", "latest"))
    assert set(site.tags()) == {f"{NAME}:latest", f"{NAME}:stable"}


def test_tags_are_taken_away_and_their_manifests_stay(site: Site, images: list[FakeImage]) -> None:
    new = images[1]
    assert site.run("rm", site.root, f"{NAME}:2.0", f"{NAME}:latest").code == 0
    assert site.tags() == {}
    assert site.tree.linked_manifest(NAME, str(new.digest)) is not None
    assert site.run("rollback", site.root, 3).code == 0
    assert site.tags() == served(v2_0=new, latest=new)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tag", f"{NAME}:none", "x"], "is not in"),
        (["tag", f"{NAME}:2.0", "no/tag"], "is not a tag"),
        (["rm", f"{NAME}:none"], "is not in"),
        (["rm", f"{NAME}:2.0", f"{NAME}:none"], "is not in"),
        (["rm", f"{NAME}@sha256:{'0' * 64}"], "names a digest"),
    ],
)
def test_a_mistake_moves_nothing(arguments: list[str], says: str, site: Site, images: list[FakeImage]) -> None:
    before = site.tags()
    ran = site.run(arguments[0], site.root, *arguments[1:])
    assert ran.code == ExitCode.INPUT
    assert says in ran.err
    assert site.tags() == before
