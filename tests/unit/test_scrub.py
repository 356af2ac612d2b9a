"""Scrub: whatever is not as the tree promises is found, and named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from seawall.digest import Digest
from unit.fake_registry import FakeImage, FakeRegistry
from unit.tool_site import Site, entry

NAME = "up.example/team/app"


@pytest.fixture
def image(site: Site, registry: FakeRegistry, platforms: FakeImage) -> FakeImage:
    """An index that is served as 1.0 by a tree that is in order."""
    registry.add_image("team/app", "1.0", platforms)
    site.publish(entry(registry, "team/app", "1.0"))
    assert site.scrubbed() == []
    return platforms


def rewrite(path: Path, content: bytes) -> None:
    path = path.resolve()
    path.chmod(0o644)
    path.write_bytes(content)


def repository(site: Site) -> Path:
    return site.root / "v2" / NAME


def link_into_another_repository(site: Site, digest: Digest) -> None:
    folder = site.root / "v2/other"
    (folder / "manifests").mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / f"blobs/{digest}").symlink_to(f"../../../content/blobs/sha256/{digest.hex[:2]}/{digest.hex}")


DAMAGE: dict[str, tuple[Callable[[Site, FakeImage], object], str, str]] = {
    "a blob with other bytes": (
        lambda site, image: rewrite(site.tree.blob_path(image.images[0].layers[0].digest), b"x" * 5000),
        "wrong bytes",
        "hashes to sha256:",
    ),
    "a blob of another size": (
        lambda site, image: rewrite(site.tree.blob_path(image.images[0].layers[0].digest), b"x"),
        "wrong bytes",
        "another size",
    ),
    "a manifest with other bytes": (
        lambda site, image: rewrite(repository(site) / "manifests/1.0", image.content + b" "),
        "wrong bytes",
        "hashes to sha256:",
    ),
    "a manifest that is none": (
        lambda site, _: rewrite(repository(site) / "manifests/1.0", b"<html>"),
        "wrong bytes",
        "is not JSON",
    ),
    "a blob that is gone": (
        lambda site, image: site.tree.blob_path(image.images[1].layers[1].digest).unlink(),
        "dangling",
        "its blob is missing",
    ),
    "a manifest that is gone": (
        lambda site, image: (repository(site) / f"manifests/{image.images[0].digest}").resolve().unlink(),
        "dangling",
        "which is missing",
    ),
    "a blob that the repository does not serve": (
        lambda site, image: (repository(site) / f"blobs/{image.images[0].layers[0].digest}").unlink(),
        "missing",
        "does not serve",
    ),
    "a platform that the repository does not serve": (
        lambda site, image: (repository(site) / f"manifests/{image.images[0].digest}").unlink(),
        "missing",
        "names the manifest",
    ),
    "a tag whose manifest is not served by digest": (
        lambda site, image: (repository(site) / f"manifests/{image.digest}").unlink(),
        "missing",
        "is not served by its digest",
    ),
    "a tag that leads out of the tree": (
        lambda site, _: (repository(site) / "manifests/evil").symlink_to("/etc/passwd"),
        "foreign",
        "points at /etc/passwd",
    ),
    "a blob link that leads out of the tree": (
        lambda site, _: (repository(site) / f"blobs/sha256:{'0' * 64}").symlink_to("/etc/passwd"),
        "foreign",
        "points at /etc/passwd",
    ),
    "a blob link that no manifest names": (
        lambda site, image: link_into_another_repository(site, image.images[0].layers[0].digest),
        "unnamed",
        "no manifest of other names it",
    ),
    "a digest that points at another manifest": (
        lambda site, _: (repository(site) / f"manifests/sha256:{'0' * 64}").symlink_to(
            (repository(site) / "manifests/1.0").readlink()
        ),
        "foreign",
        "points at sha256:",
    ),
    "a file among the tags": (
        lambda site, _: (repository(site) / "manifests/notes.txt").write_text("x"),
        "foreign",
        "is not a link",
    ),
    "a file beside the repositories": (
        lambda site, _: (site.root / "v2/index.html").write_text("x"),
        "foreign",
        "is not part of a tree",
    ),
    "a file among the content": (
        lambda site, _: (site.root / "content/blobs/sha256/core").write_text("x"),
        "foreign",
        "is not part of a tree",
    ),
    "a file at the top": (lambda site, _: (site.root / "README").write_text("x"), "foreign", "is not part of a tree"),
    "a tag list that is behind": (
        lambda site, _: rewrite(repository(site) / "tags/list", json.dumps({"name": NAME, "tags": []}).encode()),
        "stale",
        "does not list what there is",
    ),
    "a tag list that is gone": (lambda site, _: (repository(site) / "tags/list").unlink(), "missing", "no list"),
    "a release record that is none": (
        lambda site, _: rewrite(site.root / "releases/1.json", b"{}"),
        "foreign",
        "is no release record",
    ),
    "a lock that is none": (lambda site, _: rewrite(site.root / "locks/site.lock", b"a: ["), "wrong bytes", "not YAML"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_named(damage: str, site: Site, image: FakeImage) -> None:
    break_it, kind, says = DAMAGE[damage]
    break_it(site, image)
    findings = site.scrubbed()
    assert any(row["kind"] == kind and says in row["what"] for row in findings), findings


def test_a_scrub_says_how_much_it_read(site: Site, image: FakeImage) -> None:
    ran = site.run("verify", site.root)
    assert ran.code == 0
    assert "1 tag, 3 manifests and 5 blobs" in ran.out
    assert str(image.digest) not in ran.out


def test_a_folder_that_is_no_tree_is_refused(site: Site) -> None:
    ran = site.run("verify", site.folder)
    assert ran.code == 6
    assert "is not a tree" in ran.err
