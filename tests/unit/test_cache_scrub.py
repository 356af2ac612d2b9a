"""``seawall scrub`` reads what nginx keeps, and takes away what is not what its key says."""

import hashlib
import struct
from pathlib import Path

import pytest

from seawall.errors import ExitCode
from unit.tool_site import Site

BLOB = bytes(range(256)) * 40
HEX = hashlib.sha256(BLOB).hexdigest()
PART = 4000
MANIFEST = b'{"schemaVersion":2}'
MANIFEST_HEX = hashlib.sha256(MANIFEST).hexdigest()


def keep(cache: Path, key: str, body: bytes, status: str = "200 OK", *, version: int = 5, **headers: str) -> Path:
    """Write *body* as nginx 1.22 keeps it."""
    lines = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    answer = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    begin = struct.calcsize("=Q5qIHHH") + 1 + 128 + 1 + 128 + 16
    head = f"\nKEY: {key}\n".encode()
    start = begin + len(head)
    fixed = struct.pack("=Q5qIHHH", version, 1, 0, 0, -1, 1, 0, 0, start, start + len(answer))
    name = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    path = cache / name[-1] / name[-3:-1] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(fixed.ljust(begin, b"\0") + head + answer.encode() + body)
    return path


def keep_slice(cache: Path, start: int, body: bytes, total: int = len(BLOB), said: str = "") -> Path:
    content_range = said or f"bytes {start}-{start + len(body) - 1}/{total}"
    key = f"sha256:{HEX} bytes={start}-{start + PART - 1}"
    return keep(cache, key, body, "206 Partial Content", Content_Range=content_range)


def keep_blob(cache: Path, blob: bytes = BLOB) -> list[Path]:
    return [keep_slice(cache, start, blob[start : start + PART]) for start in range(0, len(blob), PART)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def test_what_is_right_stays(site: Site, cache: Path) -> None:
    keep_blob(cache)
    keep(cache, f"/v2/lab/app/manifests/sha256:{MANIFEST_HEX} ", MANIFEST)
    keep(cache, "/v2/lab/app/manifests/1.0 docker.io", MANIFEST, Docker_Content_Digest=f"sha256:{MANIFEST_HEX}")
    keep(cache, "/v2/lab/app/tags/list ", b"{}")
    keep(cache, "/v2/lab/app/manifests/gone ", b"{}", "404 Not Found")
    # A permission has no body, and says how long what it permits is.
    permission = keep(cache, f"HEAD /v2/lab/app/blobs/sha256:{HEX} ", b"")
    permission.write_bytes(permission.read_bytes().replace(b"Content-Length: 0", b"Content-Length: 9"))
    # nginx is at it.
    (cache / "0123456789abcdef0123456789abcdef.0000000001").write_bytes(b"half")
    ran = site.run("scrub", cache, "--json")
    assert ran.code == 0
    assert ran.answer == {
        "changed": False,
        "dry_run": False,
        "files": 8,
        "hashed": 3,
        "incomplete": 0,
        "size": len(BLOB) + 2 * len(MANIFEST),
        "wrong": [],
        "removed": [],
    }


def test_a_blob_of_which_one_byte_is_wrong_goes_with_all_its_slices(site: Site, cache: Path) -> None:
    parts = keep_blob(cache, BLOB[:5000] + b"!" + BLOB[5001:])
    manifest = keep(cache, f"/v2/lab/app/manifests/sha256:{MANIFEST_HEX} ", MANIFEST)
    rehearsed = site.run("scrub", cache, "--dry-run")
    assert rehearsed.code == ExitCode.DOES_NOT_HOLD
    assert "would be removed" in rehearsed.out
    assert all(part.exists() for part in parts)
    ran = site.run("scrub", cache)
    assert ran.code == 0
    assert "3 faults" in ran.out
    assert not any(part.exists() for part in parts)
    assert manifest.exists()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (f"/v2/lab/app/manifests/sha256:{MANIFEST_HEX} ", ""),
        ("/v2/lab/app/manifests/1.0 ", f"sha256:{MANIFEST_HEX}"),
    ],
)
def test_a_manifest_of_other_bytes_goes(key: str, said: str, site: Site, cache: Path) -> None:
    path = keep(cache, key, b"other", Docker_Content_Digest=said)
    assert site.run("scrub", cache, "--json").answer["removed"] == [str(path)]
    assert not path.exists()


def test_a_tag_of_which_nobody_said_what_it_is_stays(site: Site, cache: Path) -> None:
    path = keep(cache, "/v2/lab/app/manifests/1.0 ", b"anything")
    assert site.run("scrub", cache).code == 0
    assert path.exists()


def test_what_is_too_short_goes(site: Site, cache: Path) -> None:
    path = keep(cache, "/v2/lab/app/tags/list ", b"0123456789")
    path.write_bytes(path.read_bytes()[:-1])
    part = keep_slice(cache, 0, BLOB[:PART])
    part.write_bytes(part.read_bytes()[:-1])
    assert sorted(site.run("scrub", cache, "--json").answer["removed"]) == sorted([str(path), str(part)])


def test_a_blob_that_is_not_all_there_is_left_until_it_is(site: Site, cache: Path) -> None:
    wrong = keep_blob(cache, b"!" + BLOB[1:])
    kept = wrong[1].read_bytes()
    wrong[1].unlink()
    assert site.run("scrub", cache, "--json").answer["incomplete"] == 1
    assert wrong[0].exists()
    wrong[1].write_bytes(kept)
    assert len(site.run("scrub", cache, "--json").answer["removed"]) == 3


def test_slices_that_contradict_each_other_go(site: Site, cache: Path) -> None:
    keep_slice(cache, 0, BLOB[:PART], total=len(BLOB))
    keep_slice(cache, PART, BLOB[PART : 2 * PART], total=len(BLOB) + 1)
    assert len(site.run("scrub", cache, "--json").answer["removed"]) == 2
    misnamed = keep_slice(cache, 0, BLOB[:PART], said=f"bytes 1-{PART}/{len(BLOB)}")
    assert site.run("scrub", cache, "--json").answer["removed"] == [str(misnamed)]


def test_what_nginx_replaced_meanwhile_stays(cache: Path) -> None:
    from seawall.cache_scrub import remove_wrong, scrub_cache  # noqa: PLC0415

    path = keep(cache, f"/v2/lab/app/manifests/sha256:{MANIFEST_HEX} ", b"other")
    report = scrub_cache(cache, lambda _: None)
    right = path.with_name("right")
    right.write_bytes(b"right")
    right.replace(path)
    assert list(remove_wrong(report.wrong)) == []
    assert path.read_bytes() == b"right"


def test_what_is_no_cache_is_said_in_one_line(site: Site, cache: Path) -> None:
    missing = site.run("scrub", cache / "none")
    assert (missing.code, missing.err.count("\n")) == (ExitCode.TREE, 1)
    keep(cache, "/v2/lab/app/tags/list ", b"{}", version=6)
    foreign = site.run("scrub", cache)
    assert foreign.code == ExitCode.TREE
    assert "not a file of an nginx cache" in foreign.err
