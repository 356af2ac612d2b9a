"""Tag lists and the catalog: right after every command, in a tree of any age, and without what is private."""

import json
from pathlib import Path

import pytest

from seawall.listing import PAGE_SIZES
from seawall.tree import Tree
from seawall.writer import hold
from unit.fake_registry import FakeRegistry, make_image
from unit.tool_site import Site, entry

NAME = "up.example/team/app"
TOOL = "up.example/team/tool"


def listed(site: Site, repository: str = NAME) -> list[str]:
    document = json.loads((site.root / f"v2/{repository}/tags/list").read_bytes())
    assert document["name"] == repository
    tags: list[str] = document["tags"]
    return tags


def catalog(site: Site) -> list[str]:
    repositories: list[str] = json.loads((site.root / "v2/_catalog").read_bytes())["repositories"]
    return repositories


@pytest.fixture
def filled(site: Site, registry: FakeRegistry) -> Site:
    for tag in ("1", "10", "9"):
        registry.add_image("team/app", tag, make_image(tag))
    registry.add_image("team/tool", "1")
    site.publish(entry(registry, "team/app", "1", "10", "9"), entry(registry, "team/tool", "1"))
    return site


def test_a_sync_lists_what_it_brought(filled: Site) -> None:
    assert listed(filled) == ["1", "10", "9"]
    assert catalog(filled) == [NAME, TOOL]
    assert filled.scrubbed() == []


def test_every_command_that_moves_tags_keeps_the_lists_right(filled: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/third", "x")
    for command, tags, repositories in (
        (("tag", filled.root, f"{NAME}:1", "2"), ["1", "10", "2", "9"], 2),
        (("rm", filled.root, f"{NAME}:10", f"{NAME}:9"), ["1", "2"], 2),
        (("add", filled.root, f"docker://{registry.host}/team/third:x", "third", "--plain-http"), ["1", "2"], 3),
        (("rollback", filled.root, 1), ["1", "10", "9"], 3),
        (("rm", filled.root, f"{NAME}:1", f"{NAME}:10", f"{NAME}:9"), [], 3),
        (("rollback", filled.root, 0), [], 3),
    ):
        ran = filled.run(*command)
        assert ran.code == 0, ran.err
        assert listed(filled) == tags, command
        assert len(catalog(filled)) == repositories
        assert filled.scrubbed() == [], command


def test_a_repository_that_is_pruned_leaves_the_catalog_and_nothing_of_its_list(
    filled: Site, registry: FakeRegistry
) -> None:
    filled.publish(entry(registry, "team/app", "1"))
    assert filled.run("prune", filled.root, "--keep-releases", 1, "--grace", "0s").code == 0
    assert catalog(filled) == [NAME]
    assert not (filled.root / f"v2/{TOOL}").exists()
    assert not (filled.root / f"catalog/to/{TOOL}").exists()
    assert filled.scrubbed() == []


def test_a_bundle_brings_the_lists_along(filled: Site, tmp_path: Path) -> None:
    far = tmp_path / "far"
    assert filled.run("bundle", filled.root, tmp_path / "b.tar", "--since", 0).code == 0
    assert filled.run("unbundle", tmp_path / "b.tar", far).code == 0
    assert filled.run("verify", far).code == 0
    assert snapshot(far) == snapshot(filled.root)


def test_two_trees_that_list_the_same_have_the_same_files(filled: Site, registry: FakeRegistry) -> None:
    before = snapshot(filled.root)
    assert filled.run("tag", filled.root, f"{NAME}:1", "5").code == 0
    assert snapshot(filled.root) != before
    assert filled.run("rm", filled.root, f"{NAME}:5").code == 0
    assert snapshot(filled.root) == before


def test_a_tag_that_only_moves_writes_no_list(filled: Site) -> None:
    before = snapshot(filled.root)
    assert filled.run("tag", filled.root, f"{NAME}:1", "9").code == 0
    assert snapshot(filled.root) == before


def test_what_is_private_is_in_no_page_of_the_catalog(filled: Site, registry: FakeRegistry) -> None:
    (filled.root / "private").write_text("other\nup.example/team/tool\n")
    assert filled.sync().answer["changed"] is True
    assert catalog(filled) == [NAME]
    assert not [path for path in (filled.root / "catalog").rglob("*") if "tool" in str(path.relative_to(filled.root))]
    assert listed(filled, TOOL) == ["1"]
    assert filled.sync().answer["changed"] is False
    assert (
        filled.run("add", filled.root, f"docker://{registry.host}/team/tool:1", f"{TOOL}/deep:1", "--plain-http").code
        == 0
    )
    assert (
        filled.run("add", filled.root, f"docker://{registry.host}/team/tool:1", f"{TOOL}s:1", "--plain-http").code == 0
    )
    assert catalog(filled) == [NAME, f"{TOOL}s"]
    assert filled.scrubbed() == []
    (filled.root / "private").unlink()
    assert [row["path"] for row in filled.scrubbed()]
    assert filled.run("lists", filled.root).out == f"{filled.root}: 0 tag lists and the catalog written\n"
    assert catalog(filled) == [NAME, TOOL, f"{TOOL}/deep", f"{TOOL}s"]
    assert filled.scrubbed() == []


def make_old(site: Site) -> None:
    """Leave the lists as a version did that knew no pages."""
    with hold(Tree(site.root)) as writer:
        for repository in (NAME, TOOL):
            text = (site.root / f"v2/{repository}/tags/list").read_text()
            folder = site.root / f"v2/{repository}/tags"
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            (folder / "list").write_text(text)
        for path in sorted((site.root / "catalog").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        (site.root / "catalog").rmdir()
        (site.root / "v2/_catalog").unlink()
        writer.settle()


def test_the_lists_of_an_earlier_version_get_their_pages_at_the_next_sync(filled: Site) -> None:
    before = snapshot(filled.root)
    make_old(filled)
    assert {row["what"].partition(":")[0] for row in filled.scrubbed()} == {"has no pages"}
    assert "write the tag list of" in filled.run("sync", filled.lock_file, filled.root, "--dry-run").out
    assert filled.sync().answer["changed"] is True
    assert snapshot(filled.root) == before
    assert filled.sync().answer["changed"] is False


def test_the_lists_of_an_earlier_version_get_their_pages_by_hand(filled: Site) -> None:
    before = snapshot(filled.root)
    make_old(filled)
    planned = filled.run("lists", filled.root, "--dry-run", "--json").answer
    assert planned == {"changed": True, "dry_run": True, "repositories": [NAME, TOOL], "catalog": True}
    assert filled.run("lists", filled.root).out == f"{filled.root}: 2 tag lists and the catalog written\n"
    assert snapshot(filled.root) == before
    assert filled.run("lists", filled.root).out == f"{filled.root}: unchanged\n"


@pytest.mark.parametrize(
    "break_it",
    [
        lambda tags: (tags / "after/10:n").unlink(),
        lambda tags: (tags / "to/10:").unlink(),
        lambda tags: (tags / "after/5:n").symlink_to("../to/9:"),
        lambda tags: ((tags / "after/:n").unlink(), (tags / "after/:n").symlink_to("../to/9:")),
        lambda tags: ((tags / "to/-:10000").unlink(), (tags / "to/-:10000").write_text("{}")),
    ],
)
def test_a_list_that_is_damaged_is_found_and_made_right(break_it: object, filled: Site) -> None:
    before = snapshot(filled.root)
    break_it(filled.root / f"v2/{NAME}/tags")  # type: ignore[operator]
    assert len(filled.scrubbed()) == 1
    assert filled.run("lists", filled.root, "--json").answer["repositories"] == [NAME]
    assert snapshot(filled.root) == before
    assert filled.scrubbed() == []


def test_adding_one_tag_to_thousands_writes_a_bounded_number_of_files(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "v0")
    site.publish(entry(registry, "team/app", "v0"))
    manifests = site.root / f"v2/{NAME}/manifests"
    for number in range(1, 3000):
        (manifests / f"v{number}").symlink_to((manifests / "v0").readlink())
    assert site.run("lists", site.root).code == 0
    before = {
        path: path.lstat().st_ino for path in (site.root / "v2").rglob("*") if not path.is_dir() or path.is_symlink()
    }
    assert site.run("tag", site.root, f"{NAME}:v0", "v1500-more").code == 0
    after = {
        path: path.lstat().st_ino for path in (site.root / "v2").rglob("*") if not path.is_dir() or path.is_symlink()
    }
    assert sum(before.get(path) != inode for path, inode in after.items()) < 30
    assert len(before.keys() - after.keys()) < 10
    assert len(listed(site)) == 3001 < PAGE_SIZES[-1]
    assert site.scrubbed() == []


def snapshot(root: Path) -> dict[str, object]:
    """Return every file and link of the lists, with times."""
    found = [*root.glob("v2/**/tags/**/*"), *root.glob("catalog/**/*"), root / "v2/_catalog"]
    return {
        str(path.relative_to(root)): path.readlink() if path.is_symlink() else (path.read_bytes(), path.stat().st_mtime)
        for path in found
        if path.is_symlink() or path.is_file()
    }
