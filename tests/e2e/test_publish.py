"""Publishing: nginx's process and configuration stay as they are while images come and tags move."""

import re

import requests

from e2e.rollout import Rollout
from lab.engine import Engine
from lab.host import Host
from lab.images import Samples
from lab.upstream import Upstream

ORIGIN = "198.18.0.11"


def nginx(host: Host) -> str:
    """Return what tells one nginx from another: its processes since when, and every byte of its configuration."""
    processes = host.run("sh", "-c", "ps -C nginx -o pid,ppid,lstart --no-headers").stdout
    assert processes
    return processes + host.run("sh", "-c", "find /etc/nginx -type f | sort | xargs sha256sum").stdout


def digest_of(url: str, repository: str, tag: str) -> str:
    answer = requests.head(f"{url}/v2/{repository}/manifests/{tag}", timeout=10)
    assert answer.status_code == 200
    return answer.headers["Docker-Content-Digest"]


def test_a_second_image_and_a_moved_tag_need_no_reload(
    url: str, rollout: Rollout, host: Host, samples: Samples, upstream: Upstream, engine: Engine
) -> None:
    before = nginx(host)
    moved = samples.layers
    assert digest_of(url, moved.repository, moved.tag) == moved.digest
    assert requests.get(f"{url}/v2/lab/platforms/tags/list", timeout=10).status_code == 404

    # Upstream, the tag now names another image; here, a second image is declared.
    other = samples.docker_list
    engine.docker("pull", f"--platform={other.platforms[0]}", other.reference)
    engine.docker("tag", other.reference, moved.reference)
    pushed = engine.docker("push", moved.reference)
    new = re.findall(r"digest: (sha256:[0-9a-f]{64})", pushed)[0]
    rollout.declare([samples.layers, samples.oci_index, other])
    host_lock = "/etc/seawall/lab/images.lock"
    kept = rollout.play("playbooks/publish.yml")
    assert kept.code == 0
    assert digest_of(url, moved.repository, moved.tag) == moved.digest, "a pin stays until it is told to move"
    assert digest_of(url, other.repository, other.tag) == other.digest

    # One retag on the host, by the tool alone.
    as_owner = ("runuser", "-u", "seawall", "--")
    host.run(*as_owner, "seawall", "lock", "/etc/seawall/lab/images.yml", "--upgrade")
    link = f"/srv/seawall/v2/{moved.repository}/manifests/{moved.tag}"
    assert moved.digest.removeprefix("sha256:") in host.run("readlink", link).stdout
    host.run(*as_owner, "seawall", "sync", host_lock, "/srv/seawall")
    assert digest_of(url, moved.repository, moved.tag) == new, "the next request sees it"
    assert requests.get(f"{url}/v2/{moved.repository}/manifests/{moved.digest}", timeout=10).status_code == 200
    assert nginx(host) == before
    assert host.run("seawall", "verify", "/srv/seawall").returncode == 0


def test_a_tag_that_is_named_no_more_is_withdrawn(url: str, rollout: Rollout, host: Host, samples: Samples) -> None:
    before = nginx(host)
    rollout.declare([samples.oci_index])
    assert rollout.play("playbooks/publish.yml").code == 0
    answer = requests.get(f"{url}/v2/{samples.layers.repository}/manifests/{samples.layers.tag}", timeout=10)
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"] == "MANIFEST_UNKNOWN"
    assert requests.get(f"{url}/v2/{samples.layers.repository}/tags/list", timeout=10).json()["tags"] == []
    assert digest_of(url, samples.oci_index.repository, samples.oci_index.tag) == samples.oci_index.digest
    assert nginx(host) == before
