"""Archives of docker save as a source: what comes out of them, and what is refused."""

import gzip
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from seawall.digest import Digest
from seawall.errors import ExitCode
from seawall.manifest import MANIFEST_MAX_BYTES, parse_manifest
from seawall.media_type import DOCKER_MANIFEST, OCI_MANIFEST
from unit.archives import (
    SavedImage,
    layout_files,
    make_link,
    make_saved,
    make_tar,
    modern_files,
    saved_files,
    write_archive,
)
from unit.fake_registry import make_image, make_layer
from unit.tool_site import Site

Files = dict[str, bytes | tarfile.TarInfo]


@pytest.fixture
def archive(site: Site) -> Path:
    return site.folder / "saved.tar"


def stored(site: Site, reference: str) -> Any:
    """Return the manifest document that the tree has at *reference*."""
    repository, _, tag = reference.rpartition(":")
    return json.loads((site.root / "v2" / repository / "manifests" / tag).read_bytes())


def blob(site: Site, row: dict[str, Any]) -> bytes:
    return site.tree.blob_path(Digest.parse(row["digest"])).read_bytes()


@pytest.mark.parametrize("files", [saved_files, modern_files])
def test_a_saved_image_is_added_with_its_own_config_and_its_layers_compressed(
    site: Site, archive: Path, files: Callable[[SavedImage], Files]
) -> None:
    image = make_saved()
    write_archive(archive, files(image))
    ran = site.run("add", site.root, f"docker-archive:{archive}:team/app:1.0")
    assert ran.code == 0, ran.err
    document = stored(site, "docker.io/team/app:1.0")
    assert document["mediaType"] == DOCKER_MANIFEST.media_type
    assert document["config"]["digest"] == str(image.id)
    assert blob(site, document["config"]) == image.config
    assert [gzip.decompress(blob(site, row)) for row in document["layers"]] == list(image.layers)
    assert all(row["size"] < 20_000 for row in document["layers"])
    assert site.scrubbed() == []


def test_the_digest_is_the_same_however_the_image_was_saved(site: Site, archive: Path) -> None:
    image = make_saved()
    write_archive(archive, saved_files(image))
    zipped = site.folder / "saved.tar.gz"
    zipped.write_bytes(gzip.compress(archive.read_bytes()))
    modern = write_archive(site.folder / "modern.tar", modern_files(image))
    for number, file in enumerate((archive, zipped, modern)):
        assert site.run("add", site.root, f"docker-archive:{file}:team/app:1.0", f"app:{number}").code == 0
    assert len(set(site.tags().values())) == 1


def test_layers_that_are_compressed_already_stay_as_they_are(site: Site, archive: Path) -> None:
    image = make_saved(layers=3)
    came = (
        gzip.compress(image.layers[0]),
        zstandard.ZstdCompressor().compress(image.layers[1]),
        gzip.compress(image.layers[2][:5000]) + gzip.compress(image.layers[2][5000:]),
    )
    names = ["a", "b", "c"]
    files: Files = {**dict(zip(names, came, strict=True)), "config.json": image.config}
    files["manifest.json"] = json.dumps([image.row(names, "config.json")]).encode()
    write_archive(archive, files)
    ran = site.run("add", site.root, f"docker-archive:{archive}", "app:1")
    assert ran.code == 0, ran.err
    document = stored(site, "app:1")
    # Docker's manifest has no media type for zstd.
    assert document["mediaType"] == OCI_MANIFEST.media_type
    assert [row["mediaType"].rpartition("+")[2] for row in document["layers"]] == ["gzip", "zstd", "gzip"]
    assert [blob(site, row) for row in document["layers"]] == list(came)


def test_an_image_without_layers_and_one_with_an_empty_layer_are_added(site: Site, archive: Path) -> None:
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": None}}
    bare = SavedImage(json.dumps(config).encode(), (), ("bare:1",))
    config["rootfs"] = {"type": "layers", "diff_ids": [str(Digest.of(make_tar({})[:1024]))]}
    empty = SavedImage(json.dumps(config).encode(), (make_tar({})[:1024],), ("empty:1",))
    write_archive(archive, saved_files(bare, empty))
    for name in ("bare", "empty"):
        ran = site.run("add", site.root, f"docker-archive:{archive}:{name}:1")
        assert ran.code == 0, ran.err
    assert stored(site, "docker.io/library/bare:1")["layers"] == []
    assert len(stored(site, "docker.io/library/empty:1")["layers"]) == 1


def test_one_of_several_images_is_chosen_by_its_name(site: Site, archive: Path) -> None:
    one, two = make_saved("team/app:1.0"), make_saved("registry.example:5000/other:2", "team/app:2.0", seed="other")
    write_archive(archive, saved_files(one, two))
    assert site.run("add", site.root, f"docker-archive:{archive}:team/app:2.0").code == 0
    assert site.run("add", site.root, f"docker-archive:{archive}:registry.example:5000/other:2", "other").code == 0
    assert stored(site, "docker.io/team/app:2.0")["config"]["digest"] == str(two.id)
    assert set(site.tags()) == {"docker.io/team/app:2.0", "other:2"}
    ran = site.run("add", site.root, f"docker-archive:{archive}", "app:1")
    assert (ran.code, "holds 2 images" in ran.err) == (ExitCode.SOURCE, True)
    ran = site.run("add", site.root, f"docker-archive:{archive}:team/app:3")
    assert ran.code == ExitCode.SOURCE
    assert "team/app:1.0, registry.example:5000/other:2, team/app:2.0" in ran.err


def test_an_archive_is_locked_and_synced_and_costs_nothing_when_nothing_changed(site: Site, archive: Path) -> None:
    one, two = make_saved("team/app:1.0"), make_saved("team/app:2.0", seed="other")
    write_archive(archive, saved_files(one, two))
    site.publish({"source": "docker-archive:saved.tar:team/app", "tags": ["*"]})
    assert set(site.tags()) == {"docker.io/team/app:1.0", "docker.io/team/app:2.0"}
    archive.unlink()
    assert site.lock().code == 0
    assert site.sync().answer["changed"] is False


def test_a_sync_finds_out_that_an_archive_has_another_image_now(site: Site, archive: Path) -> None:
    write_archive(archive, saved_files(make_saved()))
    site.declare({"source": "docker-archive:saved.tar:team/app", "tags": ["1.0"]})
    assert site.lock().code == 0
    write_archive(archive, saved_files(make_saved(seed="other")))
    ran = site.sync()
    assert ran.code == ExitCode.SOURCE
    assert "docker-archive:saved.tar:docker.io/team/app:1.0: is sha256:" in ran.err
    assert "run seawall lock --upgrade" in ran.err
    assert site.tags() == {}


def test_two_sources_of_one_image_make_one_of_it(site: Site, archive: Path) -> None:
    write_archive(archive, saved_files(make_saved("team/app:1.0", "b:1")))
    write_archive(site.folder / "other.tar", modern_files(make_saved("team/app:1.0", "b:1")))
    site.publish(
        {"source": "docker-archive:saved.tar:team/app", "tags": ["1.0"]},
        {"source": "docker-archive:other.tar:b", "name": "a", "tags": ["1"]},
    )
    assert len(set(site.tags().values())) == 1
    assert site.scrubbed() == []


def test_blobs_that_a_tree_lost_come_from_the_archive_again(site: Site, archive: Path) -> None:
    write_archive(archive, saved_files(make_saved()))
    site.publish({"source": "docker-archive:saved.tar:team/app", "tags": ["1.0"]})
    lost = stored(site, "docker.io/team/app:1.0")["layers"][0]
    site.tree.blob_path(Digest.parse(lost["digest"])).unlink()
    (site.root / "v2/docker.io/team/app/manifests" / next(iter(site.tags().values()))).unlink()
    assert site.sync().code == 0
    assert site.scrubbed() == []


# Archives that lie


def with_row(image: SavedImage, **changes: Any) -> Files:
    files = saved_files(image)
    rows = json.loads(bytes(files["manifest.json"]))  # type: ignore[arg-type]
    return {**files, "manifest.json": json.dumps([rows[0] | changes]).encode()}


APP = make_saved(size=2000)
SAVED = saved_files(APP)
LAYER = next(name for name in SAVED if name.endswith("layer.tar"))


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "has no 'manifest.json'"),
        (SAVED | {"manifest.json": b"{"}, "not JSON"),
        (SAVED | {"manifest.json": b"[" * 100_000}, "not JSON"),
        (SAVED | {"manifest.json": b"[]"}, "lists no images"),
        (SAVED | {"manifest.json": b"[1]"}, "what is no image"),
        (SAVED | {"manifest.json": b"[" + b" " * MANIFEST_MAX_BYTES + b"]"}, f"larger than {MANIFEST_MAX_BYTES} bytes"),
        (with_row(APP, Config=None), "missing or no text"),
        (with_row(APP, Layers=[1]), "missing or no text"),
        (with_row(APP, RepoTags="app"), "missing or no text"),
        (with_row(APP, Config="../../etc/shadow"), "has no '../../etc/shadow'"),
        (with_row(APP, Layers=["a", "b"]), "has no layer 'a'"),
        (with_row(APP, Layers=[LAYER]), "names 2 layers, and manifest.json 1"),
        (with_row(APP, Layers=[LAYER, LAYER]), "layer 1 is sha256:"),
        (SAVED | {LAYER: make_tar({"other": b"bytes"})}, "layer 0 is sha256:"),
        (SAVED | {LAYER: make_link(LAYER, "layer.tar")}, "links that lead nowhere"),
        (SAVED | {LAYER: make_link(LAYER, "../../etc/passwd")}, "outside of it"),
        (SAVED | {LAYER: make_link(LAYER, "/etc/passwd", tarfile.LNKTYPE)}, "outside of it"),
        (SAVED | {"x": make_link("../x", "y")}, "outside of it"),
        (SAVED | {"x": make_link("dev", "", tarfile.CHRTYPE)}, "neither a file nor a link"),
        (SAVED | {f"{APP.id.hex}.json": b"{}"}, "holds other bytes"),
        (with_row(APP, Config="c") | {"c": b'{"rootfs": 1}'}, "no config of an image"),
        (with_row(APP, Config="c") | {"c": b'{"rootfs": {"diff_ids": [1]}}'}, "diff_ids that are no text"),
        (SAVED | {LAYER: gzip.compress(APP.layers[0])[:-9]}, "ends early"),
        (SAVED | {LAYER: b"\x1f\x8b" + make_layer("noise")}, "is damaged"),
    ],
)
def test_an_archive_that_lies_is_one_clear_error_and_nothing_is_written(
    site: Site, archive: Path, files: Files, complaint: str
) -> None:
    write_archive(archive, files)
    ran = site.run("add", site.root, f"docker-archive:{archive}:team/app:1.0")
    assert ran.code == ExitCode.SOURCE, ran.err
    assert complaint in ran.err
    assert ran.err.count("\n") == 1
    assert not site.root.exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [False, True])
def test_an_archive_that_ends_early_is_an_error(site: Site, archive: Path, share: float, zipped: bool) -> None:
    whole = make_tar(saved_files(APP)).rstrip(b"\0")
    whole = gzip.compress(whole) if zipped else whole
    archive.write_bytes(whole[: int(len(whole) * share)])
    ran = site.run("add", site.root, f"docker-archive:{archive}:team/app:1.0")
    assert ran.code == ExitCode.SOURCE, ran.err
    assert "ends early" in ran.err or "damaged" in ran.err
    assert not site.root.exists()


def test_two_members_of_one_name_are_refused(site: Site, archive: Path) -> None:
    body = make_tar(SAVED)
    again = make_tar({"manifest.json": b"[]"})
    archive.write_bytes(body.rstrip(b"\0") + b"\0" * (-len(body.rstrip(b"\0")) % 512) + again)
    ran = site.run("add", site.root, f"docker-archive:{archive}:team/app:1.0")
    assert (ran.code, "two members 'manifest.json'" in ran.err) == (ExitCode.SOURCE, True)


@pytest.mark.parametrize("content", [b"", b"no archive", make_layer("noise", 5000)])
def test_what_is_no_archive_is_refused(site: Site, archive: Path, content: bytes) -> None:
    archive.write_bytes(content)
    ran = site.run("add", site.root, f"docker-archive:{archive}:team/app:1.0")
    assert ran.code == ExitCode.SOURCE
    assert str(archive) in ran.err


def test_a_missing_archive_and_a_folder_are_refused(site: Site) -> None:
    for path, complaint in ((site.folder / "none.tar", "is missing"), (site.folder, "is not a file")):
        ran = site.run("add", site.root, f"docker-archive:{path}:app:1")
        assert (ran.code, complaint in ran.err) == (ExitCode.SOURCE, True)


# OCI layouts in an archive


@pytest.mark.parametrize("zipped", [False, True])
def test_a_layout_in_an_archive_arrives_as_it_is(site: Site, zipped: bool) -> None:
    image = make_image()
    content = make_tar(layout_files("stable", image))
    (site.folder / "layout.tar").write_bytes(gzip.compress(content) if zipped else content)
    site.publish({"source": "oci-archive:layout.tar", "name": "local/tools", "tags": ["*"]})
    assert site.tags() == {"local/tools:stable": str(image.digest)}
    assert site.scrubbed() == []
    assert site.run("add", site.root, f"oci-archive:{site.folder}/layout.tar", "one:1").code == 0
    assert site.run("add", site.root, f"oci-archive:{site.folder}/layout.tar:stable", "two").code == 0
    assert set(site.tags()) == {"local/tools:stable", "one:1", "two:stable"}


def test_a_layout_in_an_archive_whose_blob_is_a_link_is_refused(site: Site) -> None:
    image = make_image()
    files = layout_files("stable", image)
    name = f"blobs/sha256/{image.layers[0].digest.hex}"
    write_archive(site.folder / "layout.tar", files | {name: make_link(name, "index.json")})
    ran = site.run("add", site.root, f"oci-archive:{site.folder}/layout.tar", "one:1")
    assert (ran.code, "is not a file" in ran.err) == (ExitCode.SOURCE, True)
    assert site.tags() == {}


def test_a_manifest_is_made_the_same_way_for_good(site: Site, archive: Path) -> None:
    # Locks pin these digests: a change of the codec, or of how the manifest is written, would break every one of them.
    write_archive(archive, saved_files(APP))
    assert site.run("add", site.root, f"docker-archive:{archive}:team/app:1.0").code == 0
    content = (site.root / "v2/docker.io/team/app/manifests/1.0").read_bytes()
    assert parse_manifest(content, "test").digest == Digest.of(content)
    assert str(Digest.of(content)) == "sha256:a5168e5bf2d4719a8be01fdcf3549dd9c0e4c5f7c0934a744394cb8e40079c1d"


def peak_memory(*arguments: object) -> int:
    """Return how many bytes of memory the command line had at most, in a process of its own."""
    # Not by getrusage(2), which counts what the test had when it made the process.
    code = """
import atexit, pathlib
from seawall.cli import main
atexit.register(lambda: print(pathlib.Path("/proc/self/status").read_text()))
main()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(re.findall(r"VmHWM:\s+(\d+) kB", ran.stdout)[0]) * 1024


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_layer_of_any_size_takes_little_memory(site: Site, archive: Path, compression: str) -> None:
    # Half of it compresses to nothing, half not at all; both are held back somewhere by whoever holds back.
    block = make_layer("noise", 2**20)
    layer = make_tar({"a": b""})[:512] + block * 64 + bytes(64 * 2**20)
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]}}).encode()
    write_archive(archive, saved_files(SavedImage(config, (layer,))))
    peak = peak_memory("add", site.root, f"docker-archive:{archive}", "app:1", "--compression", compression)
    assert peak < 150e6
    assert site.tags().keys() == {"app:1"}
