"""Pulls go on whatever happens to the site: requests, each answer checked, and a real engine's pulls."""

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import requests
import yaml

from e2e.rollout import Rollout
from lab.host import Host
from lab.images import Sample, Samples
from lab.load import Tally, Wanted, load
from lab.network import LAB
from lab.site import ORIGINS
from sites.rolled import FRONT, ORIGIN_URLS, Rolled

MOVING = "lab/moving"
TREE = "/srv/seawall"
AS_OWNER = ("runuser", "-u", "seawall", "--")
NOTICED_SECONDS = 30.0


@dataclass
class Load:
    """The load, and what it goes to."""

    wanted: list[Wanted]
    client: Host
    references: list[str]

    @contextmanager
    def __call__(self, *more: Wanted) -> Iterator[Tally]:
        with load(FRONT, [*self.wanted, *more], self.client, self.references) as tally:
            yield tally
            # What comes after counts as well.
            time.sleep(1)
        assert tally.requests.tried > 50
        assert tally.pulls.tried > 0
        assert tally.failed == []


@pytest.fixture(scope="module")
def under_load(rolled: Rolled, wanted: list[Wanted], client: Host, images: tuple[Sample, ...]) -> Load:
    return Load(wanted, client, [f"{sample.repository}:{sample.tag}" for sample in images])


@dataclass(frozen=True)
class Moving:
    """A repository whose tag is pointed at one image and then at another."""

    rollout: Rollout
    before: Sample
    after: Sample

    @property
    def wanted(self) -> Wanted:
        return Wanted(f"/v2/{MOVING}/manifests/{self.before.tag}", frozenset({self.before.digest, self.after.digest}))

    def declare(self, sample: Sample) -> None:
        """Write into the images file what the tag is to name."""
        document = yaml.safe_load(self.rollout.images_file.read_text())
        document["images"] = [row for row in document["images"] if row["name"] != MOVING]
        source = f"docker://{sample.upstream}/{sample.repository}"
        document["images"].append({"source": source, "name": MOVING, "tags": [sample.tag], "plain_http": True})
        self.rollout.images_file.write_text(yaml.safe_dump(document))

    def served(self) -> set[str]:
        """What the tag names now, on any origin."""
        asked = (requests.head(f"{url}{self.wanted.path}", timeout=10) for url in ORIGIN_URLS)
        return {answer.headers.get("Docker-Content-Digest", str(answer.status_code)) for answer in asked}


@pytest.fixture(scope="module")
def moving(rolled: Rolled, samples: Samples) -> Moving:
    moving = Moving(rolled.rollout, samples.layers, samples.oci_manifest)
    moving.declare(moving.before)
    run = rolled.rollout.play("playbooks/publish.yml")
    assert run.code == 0, run.output
    assert moving.served() == {moving.before.digest}
    return moving


def test_a_change_of_the_configuration_is_rolled_out(under_load: Load, rolled: Rolled) -> None:
    with under_load():
        changed = rolled.rollout.play("playbooks/origin.yml", "--extra-vars", "{origin_tag_max_age: 45}")
    assert changed.code == 0, changed.output
    assert changed.changed > 0
    assert max_ages() == {"max-age=45"}


def max_ages() -> set[str]:
    """For how long the origins let a cache answer for their catalog."""
    said = " ".join(requests.get(f"{url}/v2/_catalog", timeout=10).headers["Cache-Control"] for url in ORIGIN_URLS)
    return set(re.findall(r"max-age=\d+", said))


def test_a_publish_moves_a_tag_and_a_rollback_moves_it_back(
    under_load: Load, moving: Moving, origins: list[Host]
) -> None:
    listed = origins[0].run("ls", f"{TREE}/releases").stdout.split()
    newest = max(int(name.removesuffix(".json")) for name in listed if name != "pending.json")
    moving.declare(moving.after)
    with under_load(moving.wanted):
        published = moving.rollout.play("playbooks/publish.yml")
        assert published.code == 0, published.output
        assert moving.served() == {moving.after.digest}
        for host in origins:
            host.run(*AS_OWNER, "seawall", "rollback", TREE, str(newest))
        assert moving.served() == {moving.before.digest}
    moving.declare(moving.before)


def kill(host: Host) -> None:
    host.engine.docker("kill", host.name)
    time.sleep(4)
    host.engine.docker("start", host.name)


def pause(host: Host) -> None:
    host.engine.docker("pause", host.name)
    time.sleep(8)
    host.engine.docker("unpause", host.name)


def cut_off(host: Host) -> None:
    host.engine.docker("network", "disconnect", LAB.name, host.name)
    time.sleep(4)
    host.engine.docker("network", "connect", f"--ip={host.address}", LAB.name, host.name)


@pytest.mark.parametrize("happens", [kill, pause, cut_off], ids=lambda happens: happens.__name__)
def test_one_origin_goes_away_and_comes_back(
    happens: Callable[[Host], None], under_load: Load, origins: list[Host]
) -> None:
    with under_load():
        happens(origins[0])
        origins[0].wait_booted()
        deadline = time.monotonic() + NOTICED_SECONDS
        while not answers(ORIGIN_URLS[0]) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert answers(ORIGIN_URLS[0])


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/v2/", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def test_the_disk_of_one_origin_fills(under_load: Load, rolled: Rolled, origins: list[Host], samples: Samples) -> None:
    """The site serves one image more afterwards."""
    full = origins[1]
    rollout = rolled.rollout
    declared = yaml.safe_load(rollout.images_file.read_text())
    one_more = {
        "source": f"docker://{samples.docker_list.upstream}/{samples.docker_list.repository}",
        "tags": [samples.docker_list.tag],
        "plain_http": True,
        "name": samples.docker_list.repository,
    }
    path = f"/v2/{samples.docker_list.repository}/manifests/{samples.docker_list.tag}"
    rollout.images_file.write_text(yaml.safe_dump({**declared, "images": [*declared["images"], one_more]}))
    with under_load():
        full.run("sh", "-c", f"cat /dev/zero > {TREE}/filler", check=False)
        stopped = rollout.play("playbooks/publish.yml")
        assert stopped.code != 0
        assert "origin2 has 0.00 Bytes free where /srv/seawall lies" in stopped.said
        assert requests.get(ORIGIN_URLS[1] + path, timeout=10).status_code == 404
        full.run("rm", f"{TREE}/filler")
        again = rollout.play("playbooks/publish.yml")
        assert again.code == 0, again.output
        assert requests.get(ORIGIN_URLS[1] + path, timeout=10).status_code == 200


def test_certificates_are_renewed(rolled: Rolled, wanted: list[Wanted]) -> None:
    """Runs last: the origins speak TLS meanwhile, which is asked for without the balancer."""
    rollout = rolled.rollout
    addresses = [machine.address for machine in ORIGINS]
    tls = {
        "origin_listen": ["443"],
        "origin_tls_made_here": True,
        "origin_tls_certificate": "/etc/ssl/seawall/lab.pem",
        "origin_tls_certificate_key": "/etc/ssl/seawall/lab.key",
        "lab_ca_enabled": True,
        "lab_ca_certificate_names": addresses,
        "lab_ca_certificate_days": 20,
        "lab_ca_certificate_renew_days": 10,
        # Which look for the origins where they do not listen now.
        "rolling_balancers": [],
    }
    made = rollout.play("playbooks/origin.yml", "--extra-vars", json.dumps(tls))
    assert made.code == 0, made.output
    before = {address: ssl.get_server_certificate((address, 443)) for address in addresses}
    # Twenty days are left: less than what is wanted now.
    sooner = {**tls, "lab_ca_certificate_days": 90, "lab_ca_certificate_renew_days": 30}
    authority = str(rollout.inventory / "lab_ca/authority.pem")
    with load([f"https://{address}" for address in addresses], wanted, authority=authority) as tally:
        renewed = rollout.play("playbooks/origin.yml", "--extra-vars", json.dumps(sooner))
    assert renewed.code == 0, renewed.output
    assert all(ssl.get_server_certificate((address, 443)) != before[address] for address in addresses)
    assert tally.requests.tried > 50
    assert tally.failed == []
    assert rollout.play("playbooks/origin.yml").code == 0


def test_the_sites_trees_are_sound_after_all_of_that(rolled: Rolled, origins: list[Host]) -> None:
    for host in origins:
        assert host.run(*AS_OWNER, "seawall", "verify", TREE).returncode == 0
