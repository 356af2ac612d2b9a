"""Referrers: from a registry that knows no such API, through the tool, to clients that ask nginx for them."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from lab.command import run
from lab.host import Host
from lab.images import OCI_INDEX, OCI_MANIFEST, Samples
from lab.upstream import Upstream

AS_OWNER = ("runuser", "-u", "seawall", "--")
REPOSITORY, TAG = "lab/signed", "2.0"
FOLDER = "/var/lib/seawall/signed"
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
def signed(upstream: Upstream, samples: Samples) -> Signed:
    """An image of two platforms upstream, with all that refers to it."""
    run(
        [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            f"docker://{samples.oci_index.reference}",
            f"docker://{upstream.address}/{REPOSITORY}:{TAG}",
        ]
    )
    path = f"{upstream.url}/v2/{REPOSITORY}/manifests/{TAG}"
    content = requests.get(path, headers={"Accept": OCI_INDEX}, timeout=10).content
    child = {key: json.loads(content)["manifests"][0][key] for key in ("mediaType", "digest", "size")}
    push_blob(upstream, b"{}")
    push_blob(upstream, b"cosign was here")
    tag = f"{digest_of(content).replace(':', '-')}.sig"
    return Signed(
        index=digest_of(content),
        child=child["digest"],
        of_index=attach(upstream, described(content, OCI_INDEX), b"about the index"),
        of_child=attach(upstream, child, b"about one image"),
        cosign=digest_of(push_manifest(upstream, artifact(b"cosign was here", None), tag)),
    )


@pytest.fixture(scope="module")
def lock(url: str, host: Host, upstream: Upstream, signed: Signed) -> str:
    """The lock, on the host, that was synced into the tree that the origin serves."""
    assert requests.get(f"{upstream.url}/v2/{REPOSITORY}/referrers/{signed.index}", timeout=10).status_code == 404
    entry = {
        "source": f"docker://{upstream.address}/{REPOSITORY}",
        "name": REPOSITORY,
        "tags": [TAG],
        "plain_http": True,
        "referrers": True,
    }
    host.run("install", "--directory", "--owner=seawall", FOLDER)
    images = json.dumps({"version": 1, "name": "signed", "images": [entry]})
    host.run(*AS_OWNER, "tee", f"{FOLDER}/images.yml", stdin=images)
    host.run(*AS_OWNER, "seawall", "lock", f"{FOLDER}/images.yml")
    host.run(*AS_OWNER, "seawall", "sync", f"{FOLDER}/images.lock", "/srv/seawall")
    return f"{FOLDER}/images.lock"


def listed(url: str, digest: str, query: str = "") -> requests.Response:
    return requests.get(f"{url}/v2/{REPOSITORY}/referrers/{digest}{query}", timeout=10)


def test_what_refers_to_an_index_and_to_its_images_is_listed(lock: str, url: str, signed: Signed) -> None:
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


def test_a_filter_is_left_to_the_client_who_is_not_told_otherwise(lock: str, url: str, signed: Signed) -> None:
    answer = listed(url, signed.index, "?artifactType=application/vnd.example.other")
    assert answer.content == listed(url, signed.index).content
    assert "OCI-Filters-Applied" not in answer.headers


def test_the_list_stands_behind_its_tag_too_and_is_no_tag_of_the_image(lock: str, url: str, signed: Signed) -> None:
    tag = signed.index.replace(":", "-")
    answer = requests.get(f"{url}/v2/{REPOSITORY}/manifests/{tag}", timeout=10)
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.content == listed(url, signed.index).content
    assert answer.headers["Docker-Content-Digest"] == digest_of(answer.content)
    tags = requests.get(f"{url}/v2/{REPOSITORY}/tags/list", timeout=10).json()["tags"]
    assert tags == [TAG, f"{tag}.sig"]
    cosign = requests.head(f"{url}/v2/{REPOSITORY}/manifests/{tag}.sig", timeout=10)
    assert cosign.headers["Docker-Content-Digest"] == signed.cosign


def test_the_tree_holds_and_so_does_the_server(lock: str, url: str, host: Host) -> None:
    assert host.run("seawall", "verify", "/srv/seawall").returncode == 0
    assert "all holds" in host.run("seawall", "verify", url, "--lock", lock).stdout
    assert "unchanged" in host.run(*AS_OWNER, "seawall", "sync", lock, "/srv/seawall").stdout
