"""Endpoints and edges that Ansible set up: a real Docker's pulls while origins end, and changes that do not serve.

The origins are nginx on the sandbox's own address: they end and start again at once, and count what they send.
"""

import io
import json
import random
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest
import yaml

from e2e.edge_site import Server, add_image, copy_tree, get, make_origin, running
from e2e.rollout import Rollout, Run, write_variables
from lab.base import Image
from lab.engine import Engine
from lab.host import Host
from lab.images import Sample, Samples
from lab.network import Network
from seawall.cli import main

EDGES = {"edge1": "198.18.0.41", "edge2": "198.18.0.42"}
ENDPOINTS = {"endpoint1": "198.18.0.51", "endpoint2": "198.18.0.52"}
ADDRESSES = {**EDGES, **ENDPOINTS}
PLAYBOOKS = ("playbooks/edge.yml", "playbooks/endpoint.yml")
TAG_SECONDS = 5
# An edge leaves an upstream that is away alone for ten.
NOTICED_SECONDS = 20.0
LARGE = 40_000_000
# A second for two slices of a blob: time to end in the midst of it.
RATE = "limit_rate 8m;"


@dataclass(frozen=True)
class Cdn:
    """Two edges, each with an endpoint before it, and two origins behind all."""

    rollout: Rollout
    hosts: dict[str, Host]
    origins: tuple[Server, Server]
    trees: tuple[Path, Path]

    def play(self, *playbooks: str, **variables: object) -> Run:
        batches = {"rollout_serial": [1, "100%"]}
        return self.rollout.play(*playbooks, "--extra-vars", json.dumps({**batches, **variables}))

    def configuration(self) -> dict[str, str]:
        """Every byte of each host's configuration, with modes."""
        ask = "cd /etc/nginx && find . -printf '%p %m %u\\n' | sort && cat nginx.conf seawall/*"
        return {name: host.run("sh", "-c", ask).stdout for name, host in self.hosts.items()}

    def sent(self, pattern: str) -> list[tuple[str, str, int, int]]:
        """What the origins answered to GET: method, path, status and bytes."""
        return [row for origin in self.origins for row in origin.sent(pattern) if row[0] == "GET"]

    def forget(self) -> None:
        for origin in self.origins:
            origin.forget()

    @contextmanager
    def away(self) -> Iterator[None]:
        """No origin answers until the block ends, and edges have noticed that."""
        for origin in self.origins:
            origin.kill()
        try:
            yield
        finally:
            for origin in self.origins:
                origin.start()
            deadline = time.monotonic() + NOTICED_SECONDS
            while any(
                get(f"http://{at}/v2/none/manifests/1").status_code != HTTPStatus.NOT_FOUND for at in EDGES.values()
            ):
                assert time.monotonic() < deadline
                time.sleep(0.2)


def seawall(*words: str | Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


def add(tree: Path, sample: Sample, name: str) -> None:
    seawall("add", tree, f"docker://{sample.reference}", name, "--plain-http")


def name_of(sample: Sample) -> str:
    return f"{sample.repository}:{sample.tag}"


@pytest.fixture(scope="module")
def cdn(
    engine: Engine,
    host_image: Image,
    lab_network: Network,
    samples: Samples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cdn]:
    folder = tmp_path_factory.mktemp("cdn")
    trees = (folder / "tree0", folder / "tree1")
    for sample in samples:
        add(trees[0], sample, name_of(sample))
    copy_tree(*trees)
    with ExitStack() as stack:
        made = [
            stack.enter_context(running(make_origin(folder / f"origin{number}", 18781 + number, tree, RATE)))
            for number, tree in enumerate(trees)
        ]
        upstreams = [f"http://{lab_network.gateway}:{18781 + number}" for number in range(2)]
        first = {name: ADDRESSES[name] for name in ("edge1", "endpoint1")}
        hosts = {name: stack.enter_context(Host.start(engine, host_image, name, first[name])) for name in first}
        inventory = folder / "inventory"
        inventory.mkdir()
        variables = {
            "edge_upstreams": upstreams,
            "edge_tag_max_age": TAG_SECONDS,
            "edge_purge_from": [lab_network.gateway],
            # tests/e2e/test_edge.py has a cache scrubbed.
            "edge_scrub_calendar": "",
            "endpoint_namespaces": [{"prefix": "", "target": "http://198.18.0.4{{ inventory_hostname[-1] }}"}],
            "rollout_images": [name_of(samples.layers)],
            "rolling_drain_seconds": 1,
        }
        write_variables(inventory, variables)
        declare(inventory, first)
        rollout = Rollout(inventory, engine)
        run = rollout.play(*PLAYBOOKS)
        assert run.code == 0, run.output
        # The second of each is a copy of the first, which has its packages.
        for name, second in (("edge1", "edge2"), ("endpoint1", "endpoint2")):
            engine.docker("commit", name, f"lab/{second}")
            image = Image(f"lab/{second}", "systemd")
            hosts[second] = stack.enter_context(Host.start(engine, image, second, ADDRESSES[second]))
        declare(inventory, ADDRESSES)
        yield Cdn(rollout, hosts, (made[0], made[1]), trees)


def declare(inventory: Path, names: dict[str, str]) -> None:
    """Write which hosts there are."""
    groups = {"edge": EDGES, "endpoint": ENDPOINTS}
    children = {group: {"hosts": dict.fromkeys(names.keys() & known.keys())} for group, known in groups.items()}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": children}}))


def test_docker_pulls_cold_and_warm_and_without_the_origins(cdn: Cdn, client_engine: Engine, samples: Samples) -> None:
    def pull_all() -> None:
        for sample in (samples.layers, samples.oci_index):
            image = f"{ENDPOINTS['endpoint1']}/{name_of(sample)}"
            client_engine.docker("pull", image)
            assert client_engine.docker("run", "--rm", image) == sample.output()
            client_engine.docker("image", "rm", "--force", image)

    cdn.forget()
    pull_all()
    cold = cdn.sent("/blobs/")
    assert cold
    assert len({path for _, path, _, _ in cold}) == len(cold), "each came once"
    cdn.forget()
    pull_all()
    assert cdn.sent("/blobs/") == []
    with cdn.away():
        # What tags name is to be asked for again, and nobody can say.
        time.sleep(TAG_SECONDS + 1.2)
        pull_all()
        cdn.hosts["edge1"].run("systemctl", "restart", "nginx")
        pull_all()


def test_an_origin_ends_in_the_midst_of_a_cold_blob_and_docker_notices_nothing(cdn: Cdn, client_engine: Engine) -> None:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        file = tarfile.TarInfo("random")
        file.size = LARGE
        archive.addfile(file, io.BytesIO(random.Random(1).randbytes(LARGE)))  # noqa: S311 - no secret
    for tree in cdn.trees:
        add_image(tree, "lab/large", "1.0", [layer.getvalue()])
    cdn.forget()
    first, second = cdn.origins
    ended = threading.Event()

    def end_the_first() -> None:
        while not [row for row in first.sent("/lab/large/blobs/") if row[3] > LARGE / 20] and not ended.is_set():
            time.sleep(0.1)
        first.kill()

    killer = threading.Thread(target=end_the_first)
    killer.start()
    try:
        client_engine.docker("pull", f"{ENDPOINTS['endpoint1']}/lab/large:1.0")
    finally:
        ended.set()
        killer.join()
        first.start()
    assert 0 < sum(row[3] for row in first.sent("/lab/large/blobs/")) < LARGE * 0.8
    assert 0 < sum(row[3] for row in second.sent("/lab/large/blobs/")) < LARGE * 1.1


def test_a_moved_tag_is_seen_everywhere_at_once_after_a_purge_or_when_it_is_due(cdn: Cdn, samples: Samples) -> None:
    def seen() -> set[str]:
        return {
            get(f"http://{address}/v2/lab/moving/manifests/1").headers["Docker-Content-Digest"]
            for address in ADDRESSES.values()
        }

    def point(tag: str) -> int:
        """Let lab/moving:1 name what another tag names; return the last release before."""
        last = max(int(path.stem) for path in (cdn.trees[0] / "releases").glob("[0-9]*.json"))
        for tree in cdn.trees:
            seawall("tag", tree, f"lab/moving:{tag}", "1")
        return last

    old, new = samples.layers, samples.oci_manifest
    for tree in cdn.trees:
        add(tree, old, "lab/moving:old")
        add(tree, new, "lab/moving:new")
    point("old")
    assert seen() == {old.digest}
    since = point("new")
    assert seen() == {old.digest}
    edges = [f"http://{address}" for address in EDGES.values()]
    seawall("purge", cdn.trees[0], *edges, "--at", "nginx", "--since", str(since))
    assert seen() == {new.digest}
    point("old")
    time.sleep(TAG_SECONDS + 1.2)
    assert seen() == {old.digest}


def test_an_edge_that_finds_nothing_behind_it_goes_back_and_stops_the_rollout(cdn: Cdn, samples: Samples) -> None:
    before = cdn.configuration()
    # nginx takes it, and what was asked once is answered by the cache.
    run = cdn.play("playbooks/edge.yml", edge_upstreams=["http://198.18.0.1:9"])
    assert run.code != 0
    assert "The rollout stopped at edge1" in run.said
    assert "Nothing behind edge1 answers it" in run.said
    assert "nginx serves what it served before" in run.said
    assert "edge2 " not in run.output.partition("PLAY RECAP")[2]
    assert cdn.configuration() == before
    for address in EDGES.values():
        assert get(f"http://{address}/health").status_code == 200
    cold = get(f"http://{EDGES['edge1']}/v2/{samples.docker_list.repository}/manifests/{samples.docker_list.tag}")
    assert cold.headers["Docker-Content-Digest"] == samples.docker_list.digest


def test_an_endpoint_that_leads_nowhere_goes_back_and_stops_the_rollout(cdn: Cdn, samples: Samples) -> None:
    before = cdn.configuration()
    elsewhere = [{"prefix": "", "target": f"http://{EDGES['edge1']}", "as": "no/such/place"}]
    run = cdn.play("playbooks/endpoint.yml", endpoint_namespaces=elsewhere)
    assert run.code != 0
    assert "The rollout stopped at endpoint1" in run.said
    assert "Status code was 404" in run.said
    assert "endpoint2 " not in run.output.partition("PLAY RECAP")[2]
    assert cdn.configuration() == before
    for address in ENDPOINTS.values():
        assert get(f"http://{address}/health").status_code == 200
        led = get(f"http://{address}/v2/{samples.layers.repository}/manifests/{samples.layers.tag}")
        assert led.headers["Docker-Content-Digest"] == samples.layers.digest
