"""Publishing: nginx's process and configuration stay as they are while images come and tags move."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests

from e2e.rollout import Rollout
from lab.engine import Engine
from lab.host import Host
from lab.images import Sample, Samples

AS_OWNER = ("runuser", "-u", "seawall", "--")
LOCK = "/etc/seawall/lab/images.lock"


@pytest.fixture(scope="module")
def moving(engine: Engine, samples: Samples) -> Sample:
    """An image upstream whose tag the tests move."""
    sample = replace(samples.layers, repository="lab/moving")
    return replace(sample, digest=push(engine, samples.layers, sample))


@pytest.fixture(autouse=True)
def as_it_was(rollout: Rollout, served: tuple[Sample, ...]) -> Iterator[None]:
    """Leave the images file as the other tests expect it."""
    yield
    rollout.declare(served)


def push(engine: Engine, source: Sample, target: Sample) -> str:
    """Point the tag of *target*, upstream, at the image *source*; return the digest that it has there."""
    engine.docker("pull", f"--platform={source.platforms[0]}", source.reference)
    engine.docker("tag", source.reference, target.reference)
    pushed = engine.docker("push", target.reference)
    return str(re.findall(r"digest: (sha256:[0-9a-f]{64})", pushed)[0])


def nginx(host: Host) -> str:
    """Return what tells one nginx from another: its processes since when, and every byte of its configuration."""
    processes = host.run("sh", "-c", "ps -C nginx -o pid,ppid,lstart --no-headers").stdout
    assert processes
    return processes + host.run("sh", "-c", "find /etc/nginx -type f | sort | xargs sha256sum").stdout


def digest_of(url: str, sample: Sample) -> str:
    answer = requests.head(f"{url}/v2/{sample.repository}/manifests/{sample.tag}", timeout=10)
    assert answer.status_code == 200
    return answer.headers["Docker-Content-Digest"]


def test_a_second_image_and_a_moved_tag_need_no_reload(
    url: str,
    rollout: Rollout,
    host: Host,
    samples: Samples,
    served: tuple[Sample, ...],
    moving: Sample,
    engine: Engine,
) -> None:
    before = nginx(host)
    assert requests.get(f"{url}/v2/{moving.repository}/tags/list", timeout=10).status_code == 404
    rollout.declare([*served, moving])
    assert rollout.play("playbooks/publish.yml").code == 0
    assert digest_of(url, moving) == moving.digest

    # Upstream, the tag now names another image; here it stays until it is told to move.
    moved = push(engine, samples.docker_list, moving)
    assert moved != moving.digest
    host.run(*AS_OWNER, "seawall", "lock", "/etc/seawall/lab/images.yml")
    host.run(*AS_OWNER, "seawall", "sync", LOCK, "/srv/seawall")
    assert digest_of(url, moving) == moving.digest
    host.run(*AS_OWNER, "seawall", "lock", "/etc/seawall/lab/images.yml", "--upgrade")
    host.run(*AS_OWNER, "seawall", "sync", LOCK, "/srv/seawall")
    assert digest_of(url, moving) == moved, "the next request sees it"
    old = requests.get(f"{url}/v2/{moving.repository}/manifests/{moving.digest}", timeout=10)
    assert old.status_code == 200, "what was pulled by digest goes on"
    assert nginx(host) == before
    assert host.run("seawall", "verify", "/srv/seawall").returncode == 0


def test_a_tag_that_is_named_no_more_is_withdrawn(
    url: str, rollout: Rollout, host: Host, samples: Samples, served: tuple[Sample, ...], moving: Sample
) -> None:
    before = nginx(host)
    rollout.declare([*served, moving])
    assert rollout.play("playbooks/publish.yml").code == 0
    rollout.declare(served)
    assert rollout.play("playbooks/publish.yml").code == 0
    answer = requests.get(f"{url}/v2/{moving.repository}/manifests/{moving.tag}", timeout=10)
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"] == "MANIFEST_UNKNOWN"
    assert requests.get(f"{url}/v2/{moving.repository}/tags/list", timeout=10).json()["tags"] == []
    assert digest_of(url, samples.layers) == samples.layers.digest
    assert nginx(host) == before
