"""Referrers: from a registry that knows no such API, through the tool, to clients that ask nginx for them."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from lab.images import OCI_INDEX, OCI_MANIFEST
from lab.rendered import TOP, render, run_nginx
from lab.upstream import Upstream

REPOSITORY, TAG = "lab/signed", "2.0"
PORT = 8055
TYPE = "application/vnd.example.signature"


@dataclass(frozen=True)
class Signed:
    """What is upstream: an index, what refers to it and to its first image, and what cosign attached to it."""

    index: str
    child: str
    of_index: str
    of_child: str
    cosign: str


def described(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def push_blob(upstream: Upstream, content: bytes) -> None:
    begun = requests.post(f"{upstream.url}/v2/{REPOSITORY}/blobs/uploads/", timeout=10)
    ended = requests.put(begun.headers["Location"], params={"digest": digest_of(content)}, data=content, timeout=10)
    assert ended.status_code == 201, ended.text


def push_manifest(upstream: Upstream, document: dict[str, Any], target: str = "") -> bytes:
    content = json.dumps(document).encode()
    answer = requests.put(
        f"{upstream.url}/v2/{REPOSITORY}/manifests/{target or digest_of(content)}",
        data=content,
        headers={"Content-Type": document["mediaType"]},
        timeout=10,
    )
    assert answer.status_code == 201, answer.text
    return content


def artifact(content: bytes, subject: dict[str, Any] | None) -> dict[str, Any]:
    about = {"subject": subject, "artifactType": TYPE} if subject else {}
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [described(content, "application/vnd.example.blob")],
        "annotations": {"org.example.says": content.decode()},
        **about,
    }


def attach(upstream: Upstream, subject: dict[str, Any], content: bytes) -> str:
    """Push what refers to *subject* as clients do it where there is no API ("Referrers Tag Schema")."""
    push_blob(upstream, content)
    pushed = push_manifest(upstream, artifact(content, subject))
    rows = [described(pushed, OCI_MANIFEST) | {"artifactType": TYPE}]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}
    push_manifest(upstream, index, subject["digest"].replace(":", "-"))
    return digest_of(pushed)


@pytest.fixture(scope="module")
def folder(lab_folder: Path) -> Iterator[Path]:
    """A folder that nginx's workers can read."""
    with tempfile.TemporaryDirectory(prefix="referrers-", dir=lab_folder) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def registry(folder: Path) -> Iterator[Upstream]:
    """A registry of its own, so that nobody waits for an engine to make images."""
    with Upstream.start(folder / "upstream", host="127.0.0.1", port=5055) as started:
        yield started


@pytest.fixture(scope="module")
def signed(registry: Upstream) -> Signed:
    """An image of two platforms upstream, with all that refers to it."""
    children = []
    for architecture in ("amd64", "arm64"):
        config = json.dumps({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers"}}).encode()
        layer = f"what runs on {architecture}".encode()
        for blob in (config, layer):
            push_blob(registry, blob)
        image = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar")],
        }
        children.append(described(push_manifest(registry, image), OCI_MANIFEST))
    platforms = [{"os": "linux", "architecture": name} for name in ("amd64", "arm64")]
    rows = [child | {"platform": platform} for child, platform in zip(children, platforms, strict=True)]
    content = push_manifest(registry, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}, TAG)
    push_blob(registry, b"{}")
    push_blob(registry, b"cosign was here")
    tag = f"{digest_of(content).replace(':', '-')}.sig"
    return Signed(
        index=digest_of(content),
        child=children[0]["digest"],
        of_index=attach(registry, described(content, OCI_INDEX), b"about the index"),
        of_child=attach(registry, children[0], b"about one image"),
        cosign=digest_of(push_manifest(registry, artifact(b"cosign was here", None), tag)),
    )


def seawall(*arguments: object) -> str:
    """Run the tool as a person does; return what it prints."""
    command = [sys.executable, "-m", "seawall", *map(str, arguments)]
    ran = subprocess.run(command, cwd=TOP / "tools", check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def lock(folder: Path, registry: Upstream, signed: Signed) -> Path:
    """The lock that was synced into the tree that the origin serves."""
    assert requests.get(f"{registry.url}/v2/{REPOSITORY}/referrers/{signed.index}", timeout=10).status_code == 404
    entry = {
        "source": f"docker://{registry.address}/{REPOSITORY}",
        "name": REPOSITORY,
        "tags": [TAG],
        "plain_http": True,
        "referrers": True,
    }
    (folder / "images.yml").write_text(json.dumps({"version": 1, "name": "signed", "images": [entry]}))
    seawall("lock", folder / "images.yml")
    seawall("sync", folder / "images.lock", folder / "tree")
    return folder / "images.lock"


@pytest.fixture(scope="module")
def url(folder: Path, lock: Path) -> Iterator[str]:
    """Where nginx, configured as an origin is, serves the tree."""
    url = f"http://127.0.0.1:{PORT}"
    (folder / "nginx").mkdir()
    main_file = render(folder / "nginx", folder / "tree", {"origin_listen": [f"127.0.0.1:{PORT}"]})
    with run_nginx(main_file, f"{url}/v2/"):
        yield url


def listed(url: str, digest: str, query: str = "") -> requests.Response:
    return requests.get(f"{url}/v2/{REPOSITORY}/referrers/{digest}{query}", timeout=10)


def test_what_refers_to_an_index_and_to_its_images_is_listed(url: str, signed: Signed) -> None:
    for subject, referrer in ((signed.index, signed.of_index), (signed.child, signed.of_child)):
        answer = listed(url, subject)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == OCI_INDEX
        (row,) = answer.json()["manifests"]
        assert (row["digest"], row["artifactType"]) == (referrer, TYPE)
        assert row["annotations"]["org.example.says"].startswith("about")
        manifest = requests.get(f"{url}/v2/{REPOSITORY}/manifests/{referrer}", timeout=10)
        assert manifest.headers["Docker-Content-Digest"] == referrer
        (layer,) = manifest.json()["layers"]
        blob = requests.get(f"{url}/v2/{REPOSITORY}/blobs/{layer['digest']}", timeout=10)
        assert blob.text == row["annotations"]["org.example.says"]


def test_a_filter_is_left_to_the_client_who_is_not_told_otherwise(url: str, signed: Signed) -> None:
    answer = listed(url, signed.index, "?artifactType=application/vnd.example.other")
    assert answer.content == listed(url, signed.index).content
    assert "OCI-Filters-Applied" not in answer.headers


def test_the_list_stands_behind_its_tag_too_and_is_no_tag_of_the_image(url: str, signed: Signed) -> None:
    tag = signed.index.replace(":", "-")
    answer = requests.get(f"{url}/v2/{REPOSITORY}/manifests/{tag}", timeout=10)
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.content == listed(url, signed.index).content
    assert answer.headers["Docker-Content-Digest"] == digest_of(answer.content)
    tags = requests.get(f"{url}/v2/{REPOSITORY}/tags/list", timeout=10).json()["tags"]
    assert tags == [TAG, f"{tag}.sig"]
    cosign = requests.head(f"{url}/v2/{REPOSITORY}/manifests/{tag}.sig", timeout=10)
    assert cosign.headers["Docker-Content-Digest"] == signed.cosign


def test_the_tree_holds_and_so_does_the_server(url: str, folder: Path, lock: Path) -> None:
    seawall("verify", folder / "tree")
    assert "all holds" in seawall("verify", url, "--lock", lock)
    assert "unchanged" in seawall("sync", lock, folder / "tree")
