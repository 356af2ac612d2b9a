"""Repair of a tree that nginx serves: what rotted on the disk is whole again, and clients get the right bytes."""

import hashlib
import json
import re

import requests

from e2e.test_publish import AS_OWNER
from lab.engine import Engine
from lab.host import Host
from lab.images import Sample, Samples

TREE = "/srv/seawall"


def body(url: str, sample: Sample, kind: str, name: str) -> bytes:
    return requests.get(f"{url}/v2/{sample.repository}/{kind}/{name}", timeout=10).content


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def rot(host: Host, path: str, script: str) -> None:
    host.run("sh", "-c", f'file=$(realpath "$1") && chmod u+w "$file" && {script}', "rot", f"{TREE}/v2/{path}")


def test_a_tree_that_rotted_is_repaired_from_its_sources(
    url: str, host: Host, samples: Samples, served: tuple[Sample, ...], client_engine: Engine
) -> None:
    image, index = samples.layers, samples.oci_index
    layer = json.loads(body(url, image, "manifests", image.tag))["layers"][-1]["digest"]
    rot(host, f"{image.repository}/blobs/{layer}", 'printf rot | dd of="$file" conv=notrunc status=none')
    rot(host, f"{index.repository}/manifests/{index.digest}", 'truncate -s 100 "$file"')
    host.run("rm", f"{TREE}/v2/{served[-1].repository}/manifests/{served[-1].tag}")
    assert sha256(body(url, image, "blobs", layer)) != layer

    ran = host.run(*AS_OWNER, "seawall", "verify", TREE, "--repair", check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"from docker://{image.upstream}/{image.repository}" in ran.stdout
    assert f"from docker://{index.upstream}/{index.repository}" in ran.stdout
    assert re.search(r"[0-9]+ faults, 0 left", ran.stdout), ran.stdout

    assert sha256(body(url, image, "blobs", layer)) == layer
    assert sha256(body(url, index, "manifests", index.tag)) == index.digest
    assert sha256(body(url, served[-1], "manifests", served[-1].tag)) == served[-1].digest
    address = url.removeprefix("http://")
    reference = f"{address}/{image.repository}:{image.tag}"
    client_engine.docker("pull", reference)
    assert client_engine.docker("run", "--rm", "--pull=never", reference) == image.output()
    again = host.run("seawall", "verify", TREE)
    assert "all holds" in again.stdout
