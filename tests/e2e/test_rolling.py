"""Rollouts on three origins and a builder: what is broken stops at the first host, which serves what it did before.

The hosts are copies of the session's origin, so that nginx and the tool are there already. Pulls go on all the while.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import requests
import yaml

from e2e.rollout import Rollout, Run, write_variables
from lab.base import Image
from lab.engine import Engine
from lab.host import Host
from lab.images import DOCKER_MANIFEST, Sample, Samples
from lab.network import Network

ORIGINS = {"o1": "198.18.0.61", "o2": "198.18.0.62", "o3": "198.18.0.63"}
BUILDER = ("build1", "198.18.0.60")
TREE = "/srv/seawall"
EMPTY = "/srv/elsewhere"
AS_OWNER = ("runuser", "-u", "seawall", "--")
BATCHES = "{rollout_serial: [1, '100%']}"
HAPROXY = """\
global
    stats socket /run/haproxy/admin.sock mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
frontend balancer
    bind :8080
    default_backend seawall_origins
backend seawall_origins
    option httpchk GET /health
    default-server check inter 500ms fall 2 rise 1
"""


@dataclass
class Watch:
    """What a client was told that asks the balancer all the time."""

    states: dict[str, set[str]]
    """What the balancer said of each server meanwhile."""
    tried: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass
class Site:
    rollout: Rollout
    hosts: dict[str, Host]
    builder: Host

    def play(self, *words: str, **variables: object) -> Run:
        playbook, *rest = words
        given = ["--extra-vars", BATCHES, "--extra-vars", json.dumps(variables)]
        return self.rollout.play(playbook, *rest, *given)

    def served(self, name: str, sample: Sample) -> str:
        """The digest that an origin, or the balancer, serves under a tag; empty where it has no such tag."""
        server = {**ORIGINS, "balancer": f"{BUILDER[1]}:8080"}[name]
        url = f"http://{server}/v2/{sample.repository}/manifests/{sample.tag}"
        return requests.head(url, timeout=10).headers.get("Docker-Content-Digest", "")

    def configuration(self, name: str) -> str:
        """Every byte of an origin's configuration, with modes."""
        ask = "cd /etc/nginx && find . -printf '%p %m %u\\n' | sort && cat nginx.conf seawall/*"
        return self.hosts[name].run("sh", "-c", ask).stdout

    def journal(self, host: Host) -> str:
        """Every release record, byte by byte."""
        return host.run("sh", "-c", f"cd {TREE}/releases && sha256sum *.json").stdout

    def health(self) -> list[int]:
        return [requests.get(f"http://{address}/health", timeout=10).status_code for address in ORIGINS.values()]

    @contextmanager
    def pulls(self, sample: Sample) -> Iterator[Watch]:
        """Ask the balancer for an image until the block ends; nothing may fail."""
        watch, stop = Watch({name: set() for name in ORIGINS}), threading.Event()

        def ask() -> None:
            while not stop.wait(0.05):
                watch.tried += 1
                try:
                    if self.served("balancer", sample) != sample.digest:
                        watch.failed.append("another digest")
                except requests.RequestException as error:
                    watch.failed.append(str(error))

        def look() -> None:
            while not stop.wait(1):
                for name, state in self.balancer().items():
                    watch.states[name].add(state)

        threads = [threading.Thread(target=ask), threading.Thread(target=look)]
        for thread in threads:
            thread.start()
        try:
            yield watch
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        print(f"FIGURE pulls through the balancer: {watch.tried} tried, {len(watch.failed)} failed")
        assert watch.tried > 0
        assert watch.failed == []

    def balancer(self) -> dict[str, str]:
        """What HAProxy says of each server."""
        ask = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); "
        ask += "s.sendall(b'show stat\\n'); print(s.makefile().read())"
        rows = self.builder.run("python3", "-c", ask, check=False).stdout.splitlines()
        cells = [row.split(",") for row in rows]
        return {row[1]: row[17] for row in cells if len(row) > 17 and row[1] in ORIGINS}


def push(engine: Engine, source: Sample, target: Sample) -> Sample:
    """Point the tag of *target*, upstream, at the image *source*."""
    engine.docker("pull", f"--platform={source.platforms[0]}", source.reference)
    engine.docker("tag", source.reference, target.reference)
    pushed = engine.docker("push", target.reference)
    return replace(target, digest=str(re.findall(r"digest: (sha256:[0-9a-f]{64})", pushed)[0]))


@pytest.fixture(scope="module")
def site(
    provisioned: Run,
    host: Host,
    engine: Engine,
    lab_network: Network,
    samples: Samples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Three origins, and a builder with HAProxy in front of them, which serve one image."""
    engine.docker("commit", host.name, "lab/rolling")
    image = Image("lab/rolling", "systemd")
    with ExitStack() as stack:
        hosts = {name: stack.enter_context(Host.start(engine, image, name, at)) for name, at in ORIGINS.items()}
        builder = stack.enter_context(Host.start(engine, image, *BUILDER))
        for one in (*hosts.values(), builder):
            one.run("sh", "-c", f"rm -rf {TREE} /etc/seawall/* /var/lib/seawall/configurations /etc/ssh/ssh_host_*")
            one.run("ssh-keygen", "-A")
        servers = "".join(f"    server {name} {address}:80\n" for name, address in ORIGINS.items())
        builder.run("apt-get", "-qq", "install", "--yes", "--no-install-recommends", "haproxy")
        builder.run("tee", "/etc/haproxy/haproxy.cfg", stdin=HAPROXY + servers)
        builder.run("systemctl", "restart", "haproxy")
        rollout = Rollout(_inventory(tmp_path_factory.mktemp("rolling")), engine)
        rollout.declare([samples.layers])
        site = Site(rollout, hosts, builder)
        began = time.monotonic()
        run = site.play(
            "playbooks/preflight.yml", *(f"playbooks/{name}.yml" for name in ("builder", "origin", "publish"))
        )
        assert run.code == 0, run.output
        print(
            f"FIGURE builder, origins and images on 3 hosts that have their packages: {time.monotonic() - began:.0f} s"
        )
        yield site


def _inventory(folder: Path) -> Path:
    origins = {
        name: {"publisher_address": address, "verify_url": f"http://{address}"} for name, address in ORIGINS.items()
    }
    groups = {"origin": origins, "builder": {BUILDER[0]: None}, "balancer": {BUILDER[0]: None}}
    children = {group: {"hosts": hosts} for group, hosts in groups.items()}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": children}}))
    variables = {
        "origin_listen": ["80"],
        "tree_images_files": ["{{ inventory_dir }}/images.yml"],
        "tree_update_lock": True,
        "publisher_from": [BUILDER[1]],
        # HAProxy sees it within a second.
        "rolling_drain_seconds": 1,
        "verify_record": True,
        # Its HAProxy is the test's own; what is looked at before anything changes are these.
        "balancer_take_over": True,
        "balancer_listen": ["8080"],
        "balancer_origins": [{"name": name, "address": f"{address}:80"} for name, address in ORIGINS.items()],
    }
    write_variables(folder, variables)
    return folder


def test_every_origin_has_the_builders_tree(site: Site, samples: Samples) -> None:
    assert {site.served(name, samples.layers) for name in ORIGINS} == {samples.layers.digest}
    assert len({site.journal(host) for host in (*site.hosts.values(), site.builder)}) == 1
    etags = {
        requests.head(f"http://{address}/v2/{samples.layers.repository}/manifests/1.0", timeout=10).headers["ETag"]
        for address in ORIGINS.values()
    }
    assert len(etags) == 1


def test_the_builders_key_opens_no_terminal_and_forwards_nothing(site: Site) -> None:
    key = site.hosts["o1"].run("cat", "/var/lib/seawall/.ssh/authorized_keys").stdout
    assert key.startswith(f'restrict,from="{BUILDER[1]}" ssh-ed25519 ')
    assert key.count("ssh-") == 1
    ssh = ("ssh", "-oBatchMode=yes", f"seawall@{ORIGINS['o1']}")
    refused = site.builder.run(*AS_OWNER, ssh[0], "-tt", *ssh[1:], "tty", check=False)
    assert "PTY allocation request failed" in refused.stderr
    # Known by its own key, and no other host is.
    assert site.builder.run(*AS_OWNER, *ssh, "true").returncode == 0
    unknown = site.builder.run(*AS_OWNER, "ssh", "-oBatchMode=yes", f"seawall@{BUILDER[1]}", "true", check=False)
    assert "Host key verification failed" in unknown.stderr


def test_a_rehearsal_of_what_is_done_finds_nothing_to_do(site: Site) -> None:
    run = site.play(*(f"playbooks/{name}.yml" for name in ("builder", "origin", "publish")), "--check", "--diff")
    assert (run.code, run.changed) == (0, 0), run.output
    assert site.health() == [200, 200, 200]


def test_a_good_change_takes_one_origin_after_the_other_out_of_the_balancer(site: Site, samples: Samples) -> None:
    before = {name: site.configuration(name) for name in ORIGINS}
    with site.pulls(samples.layers) as watch:
        run = site.play("playbooks/origin.yml", origin_tag_max_age=61)
    assert run.code == 0, run.output
    assert all(site.configuration(name) != before[name] for name in ORIGINS)
    assert all(any("DRAIN" in state for state in watch.states[name]) for name in ORIGINS), watch.states
    assert set(site.balancer().values()) == {"UP"}
    assert site.health() == [200, 200, 200]


def test_a_configuration_that_does_not_serve_stops_at_the_first_origin(site: Site, samples: Samples) -> None:
    before = {name: site.configuration(name) for name in ORIGINS}
    with site.pulls(samples.layers):
        # nginx takes it, and answers the ping; but there is nothing in that tree.
        run = site.play("playbooks/origin.yml", origin_tag_max_age=61, origin_tree=EMPTY)
    assert run.code != 0
    said = run.said
    assert "The rollout stopped at o1" in said
    assert "nginx serves what it served before" in said
    assert {name: site.configuration(name) for name in ORIGINS} == before
    assert "o2 " not in run.output.partition("PLAY RECAP")[2]
    assert set(site.balancer().values()) == {"UP"}
    assert site.health() == [200, 200, 200]


def test_a_host_that_fails_takes_its_whole_batch_back(site: Site, samples: Samples) -> None:
    before = {name: site.configuration(name) for name in ORIGINS}
    tree = f"{{{{ '{EMPTY}' if inventory_hostname == 'o2' else '{TREE}' }}}}"
    run = site.play("playbooks/origin.yml", origin_tag_max_age=62, origin_tree=tree, rollout_serial=["100%"])
    assert run.code != 0
    said = run.said
    assert "The rollout stopped at o2" in said
    assert "o3 went back because another host of its batch failed" in said
    assert {name: site.configuration(name) for name in ORIGINS} == before
    assert set(site.balancer().values()) == {"UP"}
    assert site.health() == [200, 200, 200]
    assert {site.served(name, samples.layers) for name in ORIGINS} == {samples.layers.digest}


def test_the_configuration_before_comes_back(site: Site, samples: Samples) -> None:
    with site.pulls(samples.layers):
        began = time.monotonic()
        run = site.play("playbooks/rollback.yml", configuration="previous")
        print(f"FIGURE rollback of the configuration on 3 origins: {time.monotonic() - began:.0f} s")
    assert run.code == 0, run.output
    assert all("max-age=60," in site.configuration(name) for name in ORIGINS)


def test_a_corrupt_blob_stops_at_the_first_origin_which_gets_its_tags_back(
    site: Site, samples: Samples, engine: Engine
) -> None:
    moving = push(engine, samples.docker_list, replace(samples.layers, repository="lab/moving", tag="1"))
    site.rollout.declare([samples.layers, moving])
    url = f"{samples.layers.upstream}/v2/{samples.layers.repository}/manifests/{samples.layers.digest}"
    manifest = requests.get(f"http://{url}", headers={"Accept": DOCKER_MANIFEST}, timeout=10).json()
    hex_digits = manifest["layers"][-1]["digest"].removeprefix("sha256:")
    blob = f"{TREE}/content/blobs/sha256/{hex_digits[:2]}/{hex_digits}"
    disk = site.hosts["o1"]
    disk.run("sh", "-c", f"cp -p {blob} /root/blob && printf X | dd of={blob} bs=1 seek=20 conv=notrunc")
    before = site.journal(site.hosts["o2"])
    with site.pulls(samples.layers):
        run = site.play("playbooks/builder.yml", "playbooks/publish.yml")
    disk.run("cp", "-p", "/root/blob", blob)
    assert run.code != 0
    said = run.said
    assert "The rollout stopped at o1" in said
    assert f"sha256:{hex_digits}" in said
    assert [site.served(name, moving) for name in ORIGINS] == ["", "", ""]
    assert site.journal(site.hosts["o1"]) == site.journal(site.builder) != before, "it was taken back at the builder"
    assert site.journal(site.hosts["o2"]) == site.journal(site.hosts["o3"]) == before, "no other was touched"


def test_what_was_rolled_back_is_not_applied_again_without_a_word(site: Site, samples: Samples) -> None:
    run = site.play("playbooks/builder.yml")
    assert run.code != 0
    assert "-e tree_apply_again=true" in run.said


def test_a_lock_that_upstream_does_not_know_stops_before_any_origin(site: Site, samples: Samples) -> None:
    lock = site.rollout.lock_file.read_text()
    site.rollout.lock_file.write_text(lock.replace(samples.layers.digest, f"sha256:{'0' * 64}"))
    journal = site.journal(site.hosts["o1"])
    try:
        with site.pulls(samples.layers):
            run = site.play("playbooks/builder.yml", tree_update_lock=False, tree_apply_again=True)
    finally:
        site.rollout.lock_file.write_text(lock)
    assert run.code != 0
    assert site.journal(site.hosts["o1"]) == journal


def test_one_image_comes_to_three_origins_is_proved_and_goes_back_in_seconds(site: Site, samples: Samples) -> None:
    moving = replace(samples.layers, repository="lab/moving", tag="1")
    with site.pulls(samples.layers):
        began = time.monotonic()
        run = site.play("playbooks/builder.yml", "playbooks/publish.yml", tree_apply_again=True)
        print(f"FIGURE publish of one image to 3 origins: {time.monotonic() - began:.0f} s")
        assert run.code == 0, run.output
        assert len({site.served(name, moving) for name in ORIGINS} - {""}) == 1
        proof = site.play("playbooks/verify.yml")
        assert proof.code == 0, proof.output
        record = yaml.safe_load(site.rollout.lock_file.with_suffix(".verified.yml").read_text())
        assert (record["result"], record["hosts"]) == ("holds", list(ORIGINS))
        assert record["lock"] == f"sha256:{hashlib.sha256(site.rollout.lock_file.read_bytes()).hexdigest()}"
        last = len(site.journal(site.builder).splitlines())
        began = time.monotonic()
        run = site.play("playbooks/rollback.yml", release=last - 1)
        print(f"FIGURE rollback of 3 origins and the builder: {time.monotonic() - began:.0f} s")
    assert run.code == 0, run.output
    assert "images.lock on the controller still says what was rolled back" in run.said
    assert [site.served(name, moving) for name in ORIGINS] == ["", "", ""]
    assert len({site.journal(host) for host in (*site.hosts.values(), site.builder)}) == 1


def test_a_release_that_not_all_know_alike_is_refused(site: Site) -> None:
    journal = site.journal(site.builder)
    run = site.play("playbooks/rollback.yml", release=99)
    assert run.code != 0
    assert "has no record of release 99; its last one is" in run.said
    record = f"{TREE}/releases/1.json"
    site.hosts["o3"].run("sed", "-i", 's/"by": "sync"/"by": "tag"/', record)
    try:
        run = site.play("playbooks/rollback.yml", release=1)
    finally:
        site.hosts["o3"].run("sed", "-i", 's/"by": "tag"/"by": "sync"/', record)
    assert run.code != 0
    assert "Release 1 is another one on o3 than on build1" in run.said
    assert site.journal(site.builder) == journal
