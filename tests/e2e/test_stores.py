"""Object stores: real OpenStack Swift, out of which clients pull; and publishes that are killed at random moments."""

import hashlib
import json
import os
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from e2e.made_tree import add_image, served
from e2e.rollout import Rollout, Run, make_inventory
from e2e.seat import Seat
from lab.engine import Engine
from lab.host import Host
from lab.images import Samples
from lab.names import resolved
from lab.network import LAB
from lab.store import ACCESS_KEY, SECRET_KEY, Store
from lab.swift import DOMAIN, KEY, PORT, USER, Swift
from seawall.tree import Tree
from unit.fork_server import ForkServer

KILLS = int(os.environ.get("SEAWALL_TEST_KILLS", "5"))
"""How often a publish to each store is killed."""
LARGE_BYTES = 70 * 1024 * 1024
"""More than one segment of Swift."""
CONTAINERS = ("native", "by-s3")


@pytest.fixture(scope="module")
def names(client_bookworm: Host) -> Iterator[dict[str, str]]:
    """The names of the containers, which this machine and the client resolve, with the port."""
    hosts = {name: f"{name}.auth-lab.{DOMAIN}" for name in CONTAINERS}
    line = f"{LAB.gateway} {' '.join(hosts.values())}"
    client_bookworm.run("sh", "-c", "cat >>/etc/hosts", stdin=f"{line}\n")
    with resolved(line):
        yield {name: f"{host}:{PORT}" for name, host in hosts.items()}


def filled(folder: Path, samples: Samples) -> Seat:
    """A seat with a tree: an image of a few layers, one of two platforms, and one with a large layer."""
    seat = Seat(folder)
    for image, name in ((samples.layers, "team/app:1"), (samples.oci_index, "team/tool:1")):
        seat.ask("add", "tree", f"docker://{image.upstream}/{image.repository}:{image.tag}", name, "--plain-http")
    add_image(Tree(folder / "tree"), "team/large", [1000, LARGE_BYTES], random.Random(1))  # noqa: S311
    return seat


@pytest.mark.parametrize("container", CONTAINERS)
def test_clients_pull_out_of_swift_what_was_published_into_it(
    container: str,
    tmp_path: Path,
    samples: Samples,
    swift: Swift,
    names: dict[str, str],
    client_engine: Engine,
    client_bookworm: Host,
) -> None:
    seat = filled(tmp_path, samples)
    place = f"swift://{container}" if container == "native" else f"s3://{container}"
    seat = Seat(tmp_path, swift.env if container == "native" else swift.s3_env)
    swift.make_container(container)
    if container != "native":
        # The S3 API's own: nobody else could read what it sends in parts.
        swift.make_container(f"{container}+segments")
    first = seat.ask("publish", "tree", place)["destinations"][0]
    assert first["release"] == 3
    assert not seat.ask("publish", "tree", place)["changed"]

    url = f"http://{names[container]}"
    answer = requests.get(f"{url}/v2/team/app/manifests/1", timeout=10)
    assert answer.headers["Content-Type"] == samples.layers.media_type
    assert "Content-Encoding" not in answer.headers
    assert served(url, "team/large")
    if container == "native":
        assert answer.headers["Docker-Content-Digest"] == samples.layers.digest
        assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        assert "max-age=60" in answer.headers["Cache-Control"]
        # Two repositories with one large blob: the other gets a list of the same segments.
        segments = swift.ask("GET", f"{container}_segments?format=json").json()
        add_image(Tree(tmp_path / "tree"), "team/same", [1000, LARGE_BYTES], random.Random(1))  # noqa: S311
        assert seat.ask("publish", "tree", place)["destinations"][0]["copied"] == 2
        assert swift.ask("GET", f"{container}_segments?format=json").json() == segments
        assert served(url, "team/same") == served(url, "team/large")

    reference = f"{names[container]}/team/app:1"
    client_engine.docker("pull", reference)
    assert client_engine.docker("run", "--rm", "--pull=never", reference) == samples.layers.output()
    client_bookworm.run("ctr", "images", "pull", "--plain-http", "--snapshotter=native", reference)
    client_bookworm.run("podman", "pull", "--tls-verify=false", reference)
    tool = f"docker://{names[container]}/team/tool"
    listed = client_bookworm.run("skopeo", "list-tags", "--tls-verify=false", tool).stdout
    assert json.loads(listed)["Tags"] == ["1"]
    copy = ("skopeo", "--insecure-policy", "copy", "--all", "--src-tls-verify=false")
    client_bookworm.run(*copy, f"{tool}:1", f"dir:/tmp/{container}")


def test_of_two_who_publish_to_swift_at_once_one_wins_and_what_is_no_more_goes(tmp_path: Path, swift: Swift) -> None:
    swift.make_container("two")
    tree = Tree(tmp_path / "tree")
    dice = random.Random(2)  # noqa: S311
    add_image(tree, "team/app", [1000, LARGE_BYTES], dice)
    add_image(tree, "team/tool", [1000, 2000], dice)
    seat = Seat(tmp_path, swift.env)
    runs = [seat.start("publish", "tree", "swift://two") for _ in range(2)]
    said = [run.communicate(timeout=120)[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert 0 in codes
    if codes != [0, 0]:
        assert sorted(codes) == [0, 7]
        assert "is being published to by another run" in said[codes.index(7)]
    assert not seat.ask("publish", "tree", "swift://two")["changed"]

    seat.ask("rm", "tree", "team/app:1")
    seat.ask("prune", "tree", "--keep-releases", "1", "--grace", "0s")
    seat.ask("publish", "tree", "swift://two", "--delete", "--grace", "0s")
    assert not swift.ask("GET", "two_segments").text
    assert "team/app/manifests" not in swift.ask("GET", "two").text
    assert served(f"{swift.storage_url}/two", "team/tool")

    code, _, line = Seat(tmp_path, {**swift.env, "OS_PASSWORD": "s3cret"}).run("publish", "tree", "swift://two")
    assert (code, "refuses these credentials" in line, "s3cret" in line) == (5, True, False)


@pytest.fixture(scope="module")
def store_site(
    provisioned: Run, host: Host, ceph_store: Store, swift: Swift, tmp_path_factory: pytest.TempPathFactory
) -> Rollout:
    """The origin as the host that asks two stores, and publishes its tree to them."""
    variables = {
        "store_s3_bucket": "made",
        "store_s3_endpoint": ceph_store.url,
        "store_s3_access_key": ACCESS_KEY,
        "store_s3_secret_key": SECRET_KEY,
        "store_s3_cors": ["https://ui.example"],
        "store_s3_tree": "/srv/seawall",
        "store_swift_container": "made",
        "store_swift_cloud": {
            "auth_type": "v1password",
            "auth": {"auth_url": f"{swift.url}/auth/v1.0", "username": USER, "password": KEY},
        },
        "store_swift_cors": ["https://ui.example"],
        "store_swift_tree": "/srv/seawall",
    }
    folder = make_inventory(tmp_path_factory.mktemp("stores"), host, variables, group="store")
    return Rollout(folder, host.engine)


def test_the_roles_make_stores_once_and_a_check_tells_what_they_would_do(
    store_site: Rollout, host: Host, ceph_store: Store, swift: Swift, samples: Samples
) -> None:
    urls = (f"{ceph_store.url}/made", f"{swift.storage_url}/made")
    rehearsed = store_site.play("playbooks/store.yml", "--check")
    assert rehearsed.code == 0, rehearsed.output
    assert rehearsed.changed
    assert not any(requests.get(f"{url}/v2/", timeout=10).ok for url in urls)

    played = store_site.play("playbooks/store.yml")
    assert played.code == 0, played.output
    assert KEY not in played.output
    for url in urls:
        assert served_as(url, samples)
        assert requests.get(url, timeout=10).status_code in {401, 403}, "nobody may list"
        asked = {"Origin": "https://ui.example"}
        told = requests.get(f"{url}/v2/", headers=asked, timeout=10).headers
        assert told["Access-Control-Allow-Origin"] == "https://ui.example"
    for command in (("prepare", "s3://made", "--cors", "https://ui.example"), ("publish", "/srv/seawall", "s3://made")):
        as_account = ("runuser", "-u", "seawall", "--", "env", "HOME=/var/lib/seawall", "seawall", *command, "--json")
        assert not json.loads(host.run(*as_account).stdout)["changed"]

    again = store_site.play("playbooks/store.yml")
    assert (again.code, again.changed) == (0, 0), again.output


def served_as(url: str, samples: Samples) -> bool:
    image = samples.layers
    answer = requests.get(f"{url}/v2/{image.repository}/manifests/{image.tag}", timeout=10)
    return f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == image.digest


@dataclass(frozen=True)
class Target:
    """Where a publish is killed."""

    seat: Seat
    place: str
    url: str
    options: tuple[str, ...]
    large: int
    """Bytes of a blob that is sent in parts there."""


@pytest.fixture(params=["store", "ceph_store", "swift"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    if request.param != "swift":
        store: Store = request.getfixturevalue(request.param)
        public = ("--acl", "public-read")
        return Target(Seat(tmp_path, store.env), "s3://images/kills", f"{store.url}/images/kills", public, 12_000_000)
    swift: Swift = request.getfixturevalue("swift")
    swift.make_container("kills")
    return Target(Seat(tmp_path, swift.env), "swift://kills", f"{swift.storage_url}/kills", (), LARGE_BYTES)


def test_a_publish_that_is_killed_leaves_what_was_served_and_the_next_one_finishes(target: Target) -> None:
    dice = random.Random(KILLS)  # noqa: S311
    tree = Tree(target.seat.folder / "tree")
    command = ("publish", tree.root, target.place, *target.options)
    small = [50_000] * 10
    add_image(tree, "team/still", small, dice)
    add_image(tree, "team/moving", small, dice)
    with ForkServer(target.seat.env) as tool:
        took, struck, ended = [timed(tool, command)], 0, 0
        still, before = served(target.url, "team/still"), served(target.url, "team/moving")
        for number in range(KILLS):
            # Every fifth with a blob in parts, which takes longer than all else.
            after = add_image(tree, "team/moving", [*small, *([target.large] if number % 5 == 0 else [])], dice)
            struck += tool.run(*command, kill_after=dice.uniform(0, statistics.median(took))).was_killed
            now = served(target.url, "team/moving")
            assert now in {before, after}, "it is as it was, or as it is to be"
            assert served(target.url, "team/still") == still
            ended += now == after
            took.append(timed(tool, command))
            assert served(target.url, "team/moving") == after
            before = after
    assert not target.seat.ask(*command)["changed"]
    print(f"{target.place}: killed {struck} times of {KILLS}, {ended} of them after the tag had moved")


def timed(tool: ForkServer, command: tuple[object, ...]) -> float:
    """Let a publish come to its end; return the seconds that it took."""
    began = time.monotonic()
    run = tool.run(*command)
    assert run.code == 0, run.err
    return time.monotonic() - began
