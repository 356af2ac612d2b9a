"""Compression: the same bytes on every machine, and layers of a layout that are compressed because somebody asked."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from seawall.compression import COMPRESSIONS, Compression, compressed, compression_of, decompressed
from seawall.digest import Digest
from seawall.errors import ExitCode, SourceError
from unit.archives import make_tar, write_archive
from unit.fake_registry import make_layer
from unit.tool_site import Site

CONTENT = b"".join(b"%d squared is %d\n" % (n, n * n) for n in range(400_000)) + make_layer("noise", 100_000)


def whole(content: bytes, compression: Compression, cut: int = 1024 * 1024, workers: int | None = None) -> bytes:
    pieces = (content[start : start + cut] for start in range(0, len(content), cut))
    return b"".join(compressed(pieces, compression, workers))


def unpacked(content: bytes, compression: Compression, cut: int = 65536) -> bytes:
    pieces = (content[start : start + cut] for start in range(0, len(content), cut))
    return b"".join(decompressed(pieces, compression, "test"))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_neither_threads_nor_how_it_comes_in_nor_time_changes_a_byte(compression: Compression) -> None:
    once = whole(CONTENT, compression, workers=1)
    assert len(once) < len(CONTENT) / 3
    for workers, cut in ((2, 4096), (3, 1_000_003), (8, len(CONTENT)), (None, 65536)):
        assert whole(CONTENT, compression, cut, workers) == once


@pytest.mark.parametrize(
    ("compression", "digest"),
    [
        ("gzip", "ab07e0cefad10eed3737bb122177371d40f2aa651c2be2b8115891f868bb9a1b"),
        ("zstd", "c59fb9f09f53b08c7cbcaff16e4595364fa0608edb442be283eba2a40005733d"),
    ],
)
def test_the_bytes_are_these_for_good(compression: Compression, digest: str) -> None:
    # Locks pin digests of what is compressed here: another codec, or version of one, that writes others breaks them.
    assert hashlib.sha256(whole(CONTENT, compression)).hexdigest() == digest


def test_gzip_says_neither_time_nor_name_nor_system() -> None:
    assert whole(b"x", "gzip")[:10] == b"\x1f\x8b\x08\x00" + b"\0" * 4 + b"\0\xff"


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_others_read_it(compression: Compression) -> None:
    packed = whole(CONTENT, compression)
    assert compression_of(packed) == compression
    if compression == "gzip":
        assert gzip.decompress(packed) == CONTENT
    else:
        reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        assert reader.read() == CONTENT


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(content=st.binary(max_size=3000), cut=st.integers(min_value=1, max_value=700))
def test_what_is_compressed_comes_back(compression: Compression, content: bytes, cut: int) -> None:
    assert unpacked(whole(content, compression, cut), compression, cut) == content


@pytest.mark.parametrize("cut", [1, 7, 10_000_000])
def test_gzip_of_several_members_and_padding_is_read(cut: int) -> None:
    packed = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two") + b"\0" * 700
    assert unpacked(packed, "gzip", cut) == b"one two"


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damage_is_an_error(compression: Compression) -> None:
    packed = bytearray(whole(CONTENT, compression))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(SourceError, match="is damaged"):
        unpacked(bytes(packed), compression)


def test_gzip_that_ends_early_or_is_followed_by_anything_is_an_error() -> None:
    packed = whole(CONTENT, "gzip")
    with pytest.raises(SourceError, match="ends early"):
        unpacked(packed[:-3], "gzip")
    with pytest.raises(SourceError, match="is damaged"):
        unpacked(packed + b"more", "gzip")


def test_zeros_that_unpack_to_a_thousand_times_their_size_come_in_small_pieces() -> None:
    for compression in COMPRESSIONS:
        packed = whole(bytes(64 * 1024 * 1024), compression)
        assert max(map(len, decompressed(iter((packed,)), compression, "test"))) <= 1024 * 1024


# A layout with plain layers


LAYER = make_tar({"etc/motd": b"hello\n" * 2000})
PLAIN = "application/vnd.oci.image.layer.v1.tar"


class PlainLayout:
    """An OCI layout in an archive; it is changed before it is written."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        self.done = self.blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(LAYER[:5120], mtime=0))
        self.rows: list[dict[str, Any]] = []

    def blob(self, media_type: str, content: bytes) -> dict[str, Any]:
        digest = Digest.of(content)
        self.files[f"blobs/sha256/{digest.hex}"] = content
        return {"mediaType": media_type, "digest": str(digest), "size": len(content)}

    def image(self, architecture: str = "amd64", diff_id: str = "", media_type: str = PLAIN) -> dict[str, Any]:
        layer = self.blob(media_type, LAYER)
        diff_ids = [diff_id or layer["digest"], str(Digest.of(LAYER[:5120]))]
        config = {"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob("application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
            "layers": [layer, self.done],
            "annotations": {"kept": "as it is"},
        }
        platform = {"os": "linux", "architecture": architecture}
        return self.blob(str(document["mediaType"]), json.dumps(document).encode()) | {"platform": platform}

    def index(self, *rows: dict[str, Any]) -> dict[str, Any]:
        media_type = "application/vnd.oci.image.index.v1+json"
        document = {"schemaVersion": 2, "mediaType": media_type, "manifests": list(rows)}
        return self.blob(media_type, json.dumps(document).encode())

    def write(self, folder: Path, row: dict[str, Any]) -> None:
        row = row | {"annotations": {"org.opencontainers.image.ref.name": "1"}}
        self.files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [row]}).encode()
        write_archive(folder / "layout.tar", self.files)


def manifest(site: Site, digest: str) -> Any:
    stored = site.tree.stored_manifest(Digest.parse(digest))
    assert stored is not None
    return json.loads(site.tree.read_manifest(stored).content)


ENTRY = {"source": "oci-archive:layout.tar", "name": "app", "tags": ["1"]}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_plain_layers_of_an_index_are_compressed_where_that_is_asked(site: Site, compression: Compression) -> None:
    layout = PlainLayout()
    layout.write(site.folder, layout.index(layout.image(), layout.image("arm64")))
    site.publish(ENTRY | {"compression": compression})
    assert f"compression: {compression}" in site.lock_file.read_text()
    rows = manifest(site, site.tags()["app:1"])["manifests"]
    assert [row["platform"]["architecture"] for row in rows] == ["amd64", "arm64"]
    for row in rows:
        image = manifest(site, row["digest"])
        assert image["annotations"] == {"kept": "as it is"}
        assert image["layers"][0]["mediaType"] == f"{PLAIN}+{compression}"
        assert image["layers"][1] == layout.done
        content = site.tree.blob_path(Digest.parse(image["layers"][0]["digest"])).read_bytes()
        assert unpacked(content, compression) == LAYER
    assert site.scrubbed() == []


def test_a_layout_stays_as_it_is_where_nobody_asks(site: Site) -> None:
    layout = PlainLayout()
    row = layout.image()
    layout.write(site.folder, row)
    site.publish(ENTRY)
    assert site.tags() == {"app:1": row["digest"]}


def test_what_is_compressed_is_pinned_and_another_compression_is_pinned_anew(site: Site) -> None:
    layout = PlainLayout()
    layout.write(site.folder, layout.image())
    site.publish(ENTRY | {"compression": "gzip"})
    before = site.tags()
    (site.folder / "layout.tar").rename(site.folder / "away.tar")
    assert site.lock().answer["changed"] is False
    assert site.sync().answer["changed"] is False
    (site.folder / "away.tar").rename(site.folder / "layout.tar")
    site.declare(ENTRY | {"compression": "zstd"})
    assert site.lock().answer["changed"] is True
    assert site.sync().code == 0
    assert site.tags() != before


def test_fewer_platforms_are_carried_of_what_is_compressed(site: Site) -> None:
    layout = PlainLayout()
    layout.write(site.folder, layout.index(layout.image(), layout.image("arm64")))
    site.publish(ENTRY | {"compression": "gzip", "platforms": ["linux/arm64"]})
    rows = manifest(site, site.tags()["app:1"])["manifests"]
    assert [row["platform"]["architecture"] for row in rows] == ["arm64"]
    assert site.scrubbed() == []


def test_blobs_that_a_tree_lost_are_compressed_again(site: Site) -> None:
    layout = PlainLayout()
    layout.write(site.folder, layout.image())
    site.publish(ENTRY | {"compression": "gzip"})
    digest = site.tags()["app:1"]
    site.tree.blob_path(Digest.parse(manifest(site, digest)["layers"][0]["digest"])).unlink()
    (site.root / "v2/app/manifests" / digest).unlink()
    assert site.sync().code == 0
    assert site.scrubbed() == []


def test_a_plain_layer_that_the_config_does_not_name_is_refused(site: Site) -> None:
    layout = PlainLayout()
    layout.write(site.folder, layout.image(diff_id=str(Digest.of(b"other"))))
    ran = site.run("add", site.root, f"oci-archive:{site.folder}/layout.tar:1", "app", "--compression", "gzip")
    assert (ran.code, "names other layers" in ran.err) == (ExitCode.SOURCE, True)


def test_a_plain_layer_of_other_bytes_is_refused(site: Site) -> None:
    layout = PlainLayout()
    layout.write(site.folder, layout.image())
    layout.files[f"blobs/sha256/{Digest.of(LAYER).hex}"] = bytes(len(LAYER))
    write_archive(site.folder / "layout.tar", layout.files)
    ran = site.run("add", site.root, f"oci-archive:{site.folder}/layout.tar:1", "app", "--compression", "gzip")
    assert (ran.code, "holds other bytes" in ran.err) == (ExitCode.SOURCE, True)
    assert not site.root.exists()


def test_a_registry_has_no_compression(site: Site) -> None:
    site.declare({"source": "docker://h.example/app", "tags": ["1"], "compression": "gzip"})
    ran = site.lock()
    assert (ran.code, "the layers of docker://h.example/app stay as they are" in ran.err) == (ExitCode.INPUT, True)
    ran = site.run("add", site.root, "docker://h.example/app:1", "--compression", "zstd")
    assert ran.code == ExitCode.INPUT
