"""Bundle and unbundle: what is new since a release, carried by hand, and not a byte believed."""

import io
import json
import os
import random
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from seawall.bundle import check_bundle
from seawall.digest import Digest
from seawall.errors import ExitCode, SourceError
from seawall.progress import Silent
from seawall.release import Release, TagMove
from seawall.unbundling import plan_unbundle
from seawall.unbundling import unbundle as carry_out
from seawall.writer import hold
from unit.fake_registry import FakeImage, FakeRegistry, make_image, make_index, make_layer
from unit.tool_site import Ran, Site, entry

NAME = "up.example/team/app"


@pytest.fixture
def images(site: Site, registry: FakeRegistry, platforms: FakeImage) -> list[FakeImage]:
    """Three releases: 1 is an index; 2 is new, and latest; 1 withdrawn and latest moved to a third; a tool stays."""
    base = make_layer("base", 50_000)
    images = [platforms, *(make_image(f"v{n}", layers=[base, make_layer(f"v{n}", 1000)]) for n in (2, 3))]
    registry.add_image("team/app", "1", images[0])
    registry.add_image("team/tool", "1", make_image("tool", layers=[]))
    tool = entry(registry, "team/tool", "1")
    site.publish(entry(registry, "team/app", "1"), tool)
    registry.add_image("team/app", "2", images[1])
    registry.add_image("team/app", "latest", images[1])
    site.publish(entry(registry, "team/app", "1", "2", "latest"), tool)
    registry.add_image("team/app", "latest", images[2])
    site.publish(entry(registry, "team/app", "2", "latest"), tool)
    return images


@pytest.fixture
def far(site: Site) -> Site:
    """A site that no line leads to."""
    folder = site.folder / "far"
    folder.mkdir()
    return Site(folder, site._capsys)


def bundle(site: Site, since: int, name: str = "bundle.tar") -> Path:
    ran = site.run("bundle", site.root, site.folder / name, "--since", since)
    assert ran.code == 0, ran.err
    return site.folder / name


def unbundle(far: Site, file: Path, *options: str) -> Ran:
    return far.run("unbundle", file, far.root, "--json", *options)


def members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def test_a_bundle_of_everything_makes_the_same_tree(site: Site, far: Site, images: list[FakeImage]) -> None:
    ran = unbundle(far, bundle(site, 0))
    assert ran.code == 0, ran.err
    assert far.tags() == site.tags()
    assert far.scrubbed() == []
    listed = far.run("releases", far.root, "--json").answer
    assert [(row["by"], row["lock"]) for row in listed] == [("unbundle", None)]


def test_a_bundle_holds_only_what_is_new_and_brings_a_tree_on(
    site: Site, far: Site, images: list[FakeImage], registry: FakeRegistry
) -> None:
    unbundle(far, bundle(site, 0))
    fourth = make_image("v4", layers=[make_layer("base", 50_000), make_layer("v4", 1000)])
    registry.add_image("team/app", "latest", fourth)
    registry.add_image("team/app", "index", make_index([fourth, images[2]]))
    site.publish(entry(registry, "team/app", "latest", "index"), entry(registry, "team/tool", "1"))
    file = bundle(site, 3)
    assert file.stat().st_size < 25_000
    assert fourth.manifest.config
    held = {name.rpartition("/")[2].partition(".")[0] for name in members(file)} - {"bundle"}
    index = site.tags()[f"{NAME}:index"].removeprefix("sha256:")
    assert held == {index, fourth.digest.hex, fourth.manifest.config.digest.hex, fourth.layers[1].digest.hex}
    ran = unbundle(far, file)
    assert ran.code == 0, ran.err
    assert far.tags() == site.tags()
    assert f"{NAME}:2" not in far.tags()
    assert far.scrubbed() == []
    assert far.run("rollback", far.root, 1).code == 0
    assert set(far.tags()) == {f"{NAME}:2", f"{NAME}:latest", "up.example/team/tool:1"}


def test_a_bundle_that_was_applied_changes_nothing_again(site: Site, far: Site, images: list[FakeImage]) -> None:
    file = bundle(site, 0)
    unbundle(far, file)
    before = {path: path.lstat().st_mtime_ns for path in far.root.rglob("*") if path.name != ".held"}
    again = unbundle(far, file)
    assert (again.code, again.answer["changed"], again.answer["release"]) == (0, False, None)
    assert {path: path.lstat().st_mtime_ns for path in far.root.rglob("*") if path.name != ".held"} == before


def test_bundles_may_overlap(site: Site, far: Site, images: list[FakeImage], registry: FakeRegistry) -> None:
    unbundle(far, bundle(site, 0))
    registry.add_image("team/app", "latest", images[1])
    site.publish(entry(registry, "team/app", "2", "latest"))
    for since in (1, 2, 0):
        ran = unbundle(far, bundle(site, since))
        assert ran.code == 0, ran.err
        assert far.tags() == site.tags()


def test_the_same_tree_and_release_make_the_same_bytes(site: Site, images: list[FakeImage]) -> None:
    assert bundle(site, 1, "a.tar").read_bytes() == bundle(site, 1, "b.tar").read_bytes()
    assert sorted(path.name for path in site.folder.glob("*.tar*")) == ["a.tar", "b.tar"]
    assert not list(site.folder.glob(".*"))


def test_rehearsals_show_what_would_happen_and_write_nothing(site: Site, far: Site, images: list[FakeImage]) -> None:
    file = site.folder / "bundle.tar"
    planned = site.run("bundle", site.root, file, "--since", 1, "--dry-run", "--json").answer
    assert not file.exists()
    made = site.run("bundle", site.root, file, "--since", 1, "--json").answer
    assert {**planned, "dry_run": False} == made
    file = bundle(site, 0)
    planned = unbundle(far, file, "--dry-run").answer
    assert not far.root.exists()
    assert {**planned, "dry_run": False, "release": 1} == unbundle(far, file).answer


def test_a_person_reads_what_was_bundled_and_what_came_of_it(site: Site, far: Site, images: list[FakeImage]) -> None:
    file = site.folder / "x.tar"
    assert "would hold releases 0 to 3: 4 tags" in site.run("bundle", site.root, file, "--since", 0, "--dry-run").out
    assert "holds releases 0 to 3: 4 tags" in site.run("bundle", site.root, file, "--since", 0).out
    planned = far.run("unbundle", file, far.root, "--dry-run").out
    assert f"move {NAME}:latest (none) -> sha256:{images[2].digest.hex[:12]}" in planned
    assert "would be: 3 tags moved" in planned
    assert f"{far.root}: release 1: 3 tags moved" in far.run("unbundle", file, far.root).out
    assert far.run("unbundle", file, far.root).out == f"{far.root}: unchanged, has all of {file}\n"


@pytest.mark.parametrize("since", [1, 2])
def test_a_tree_without_the_base_is_told_what_is_missing(
    since: int, site: Site, far: Site, images: list[FakeImage]
) -> None:
    ran = unbundle(far, bundle(site, since))
    assert ran.code == ExitCode.INPUT
    assert re.search(r" lacks \S*sha256:[0-9a-f]{64}", ran.err)
    assert f"is based on release {since} of the tree that it was made from, and " in ran.err
    assert "apply the bundles before it" in ran.err
    assert far.tags() == {}
    assert not [path for path in (far.root / "content").rglob("*") if path.is_file()]


def test_a_tag_that_is_elsewhere_is_not_moved(site: Site, far: Site, images: list[FakeImage]) -> None:
    unbundle(far, bundle(site, 0))
    far.run("tag", far.root, f"{NAME}:2", "latest")
    far.run("rm", far.root, f"{NAME}:2")
    # "latest" was at this image once, on its way; "2" was never missing after release 2.
    ran = unbundle(far, bundle(site, 2))
    assert ran.code == 0, ran.err
    far.run("rm", far.root, f"{NAME}:latest")
    before = far.tags()
    ran = unbundle(far, bundle(site, 2))
    assert ran.code == ExitCode.INPUT
    assert f"{NAME}:latest is missing in " in ran.err
    assert far.tags() == before


@pytest.mark.parametrize("since", ["4", "99"])
def test_a_release_that_never_was_is_refused(since: str, site: Site, images: list[FakeImage]) -> None:
    ran = site.run("bundle", site.root, site.folder / "x.tar", "--since", since)
    assert ran.code == ExitCode.INPUT
    assert "give one from 0 to 3" in ran.err
    assert not (site.folder / "x.tar").exists()


def test_no_bundle_is_made_of_half_a_release_or_of_a_damaged_tree(site: Site, images: list[FakeImage]) -> None:
    file = site.folder / "x.tar"
    blob = site.tree.blob_path(images[2].layers[1].digest)
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert site.run("bundle", site.root, file, "--since", 0).code == ExitCode.TREE
    blob.write_bytes(b"")
    assert site.run("bundle", site.root, file, "--since", 0).code == ExitCode.TREE
    with hold(site.tree) as writer:
        move = TagMove(NAME, "x", None, images[1].digest)
        writer.begin_release(Release(4, "2026-01-01T00:00:00Z", "tag", "", (move,)))
    ran = site.run("bundle", site.root, file, "--since", 0)
    assert ran.code == ExitCode.TREE
    assert "was interrupted" in ran.err
    assert not list(site.folder.glob("*.tar*")) + list(site.folder.glob(".*.tar*"))


# A bundle that was cut, damaged or forged.


def rewrite(file: Path, change: Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]) -> None:
    with tarfile.open(file) as tar:
        rows = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    with tarfile.open(file, "w") as tar:
        for info, content in [row for old in rows for row in change(*old)]:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))


def is_blob(info: tarfile.TarInfo) -> bool:
    return info.name.startswith("content/blobs/")


def extra(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[tarfile.TarInfo, bytes], object]:
    def change(info: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        added = tarfile.TarInfo(name)
        added.type, added.linkname = kind, link
        return [(info, content), *([(added, b"evil")] if info.name == "bundle.json" else [])]

    return change


def flipped(info: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(info, bytes([content[0] ^ 1]) + content[1:] if is_blob(info) else content)]


def shortened(info: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(info, content[:-1] if is_blob(info) else content)]


def without_blobs(info: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [] if is_blob(info) else [(info, content)]


def twice(info: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(info, content), (info, content)]


def other_manifest(info: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    is_manifest = info.name.startswith("content/manifests/")
    return [(info, content.replace(b'"schemaVersion":2', b'"schemaVersion":1') if is_manifest else content)]


def index(**changes: object) -> Callable[[tarfile.TarInfo, bytes], object]:
    def change(info: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        if info.name != "bundle.json":
            return [(info, content)]
        document = json.loads(content)
        for name, value in changes.items():
            target = document if name in document else document["repositories"][0]
            target[name] = value(target.get(name)) if callable(value) else value
        return [(info, json.dumps(document).encode())]

    return change


NOWHERE = str(Digest.of(b"nowhere"))
FORGERIES = {
    "flipped bit": flipped,
    "shorter blob": shortened,
    "blobs missing": without_blobs,
    "members twice": twice,
    "other manifest": other_manifest,
    "absolute": extra("/etc/evil"),
    "climbing": extra("content/blobs/sha256/../../../../evil"),
    "in v2": extra(f"v2/{NAME}/manifests/evil"),
    "unlisted": extra(f"content/blobs/sha256/{'ab' * 32}"[:22] + "ab/" + "ab" * 32),
    "symlink": extra("content", tarfile.SYMTYPE, "/etc"),
    "hard link": extra("content/blobs/sha256/ab", tarfile.LNKTYPE, "/etc/passwd"),
    "device": extra("content/evil", tarfile.CHRTYPE),
    "folder": extra("content", tarfile.DIRTYPE),
    "pipe": extra("content/evil", tarfile.FIFOTYPE),
    "climbing repository": index(repository="../../evil"),
    "reserved repository": index(repository="a/manifests/b"),
    "no tag": index(tags=[{"tag": "../evil", "path": [None, NOWHERE]}]),
    "tag to nowhere": index(tags=[{"tag": "evil", "path": [None, NOWHERE]}]),
    "tag without a path": index(tags=[{"tag": "evil", "path": [None]}]),
    "manifest not listed": index(manifests=lambda rows: rows[1:]),
    "blob not listed": index(blobs=lambda rows: rows[1:]),
    "blob that nobody names": index(blobs=lambda rows: [*rows, {"digest": NOWHERE, "size": 1}]),
    "other size": index(blobs=lambda rows: [{**row, "size": row["size"] + 1} for row in rows]),
    "climbing base": index(base={"../../evil": [NOWHERE]}),
    "base that is not there": index(base={"a/b": [NOWHERE]}),
    "twice the repository": index(repositories=lambda rows: rows * 2),
    "later version": index(version=2),
    "unknown field": index(unknown=1),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_bundle_is_refused_and_nothing_of_it_stays(
    name: str, site: Site, far: Site, images: list[FakeImage]
) -> None:
    file = bundle(site, 0)
    rewrite(file, FORGERIES[name])  # type: ignore[arg-type]
    ran = unbundle(far, file)
    assert ran.code in {ExitCode.SOURCE, ExitCode.INPUT}, ran
    assert str(file) in ran.err.splitlines()[-1]
    assert ran.out == ""
    left = [path for path in far.root.rglob("*") if not path.is_dir() and path.name != ".held"]
    assert left == []
    assert not (site.folder / "evil").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99])
def test_a_bundle_that_was_cut_is_refused(share: float, site: Site, far: Site, images: list[FakeImage]) -> None:
    file = bundle(site, 0)
    content = file.read_bytes().rstrip(b"\0")
    file.write_bytes(content[: int(len(content) * share)])
    ran = unbundle(far, file)
    assert ran.code == ExitCode.SOURCE, ran
    assert not far.root.exists()


def test_noise_at_any_place_is_refused_or_does_no_harm(site: Site, far: Site, images: list[FakeImage]) -> None:
    file = bundle(site, 0)
    content = file.read_bytes()
    dice = random.Random(4)  # noqa: S311
    for _ in range(60):
        place = dice.randrange(len(content.rstrip(b"\0")))
        file.write_bytes(content[:place] + dice.randbytes(8) + content[place + 8 :])
        ran = unbundle(far, file, "--dry-run")
        assert ran.code in {0, ExitCode.SOURCE, ExitCode.INPUT}, ran
    assert not far.root.exists()


def test_a_header_that_claims_to_be_huge_does_not_fill_the_memory(site: Site, far: Site) -> None:
    file = site.folder / "huge.tar"
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 10**10
    file.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate(file, 10**10 + 2048)
    ran = unbundle(far, file)
    assert ran.code == ExitCode.SOURCE
    assert "a header is too large" in ran.err


def test_a_file_that_changes_after_it_was_checked_moves_no_tag(
    site: Site, far: Site, images: list[FakeImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bundle(site, 0)
    checked = check_bundle(file, Silent())
    content = file.read_bytes()
    with hold(far.tree) as writer:
        unbundling = plan_unbundle(checked, far.tree, str(file))
        rewrite(file, flipped)
        with pytest.raises(SourceError, match="other bytes"):
            carry_out(unbundling, file, writer, Silent())
        rewrite(file, without_blobs)
        with pytest.raises(SourceError, match="no longer holds"):
            carry_out(unbundling, file, writer, Silent())
        file.write_bytes(content[:-40_000])
        with pytest.raises(SourceError):
            carry_out(unbundling, file, writer, Silent())
    assert far.tags() == {}
    file.write_bytes(content)
    assert unbundle(far, file).code == 0
    assert far.scrubbed() == []


@pytest.mark.parametrize("content", [b"", b"no tar", b"\x1f\x8b\x08\0", b"\0" * 10240])
def test_what_is_no_bundle_is_named(content: bytes, site: Site, far: Site) -> None:
    (site.folder / "x").write_bytes(content)
    for file, code in (("x", ExitCode.SOURCE), ("none", ExitCode.INPUT), (".", ExitCode.INPUT)):
        ran = unbundle(far, site.folder / file)
        assert ran.code == code
        assert "give what seawall bundle wrote" in ran.err
    assert not far.root.exists()
