"""Two origins behind one name: by HAProxy, and by an address that they share. Pulls go on whatever happens to one."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from e2e.exposure import assert_exposed_as_stated
from e2e.pulls import THREADS, pulling
from e2e.rollout import TOP, Rollout, Run, write_variables
from lab.base import Image
from lab.command import run
from lab.engine import Engine
from lab.host import Host
from lab.images import Sample, Samples
from lab.network import Network
from seawall.tree import Tree

ADDRESSES = {"ha1": "198.18.0.41", "ha2": "198.18.0.42", "balancer1": "198.18.0.43"}
CLIENT = "198.18.0.1"
SHARED = "198.18.0.40"
URL = f"http://{ADDRESSES['balancer1']}"
PLAYBOOKS = ("playbooks/origin.yml", "playbooks/balancer.yml", "playbooks/keepalived.yml")
DRAIN_FILE = "/var/lib/seawall/drained"


@dataclass(frozen=True)
class Site:
    """Two origins with one tree, a balancer, and what was rolled out to them."""

    hosts: dict[str, Host]
    rollout: Rollout
    rehearsed: Run
    played: Run
    wanted: dict[str, str]
    """Paths of manifests and blobs, each with its digest."""
    large: tuple[str, str]
    """Path and digest of a blob of some size."""

    @property
    def balancer(self) -> Host:
        return self.hosts["balancer1"]

    def tell_haproxy(self, command: str) -> str:
        """Say *command* at the admin socket, as a rollout does."""
        script = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock');"
            "s.sendall(sys.argv[1].encode() + b'\\n'); s.shutdown(1); sys.stdout.write(s.makefile().read())"
        )
        return self.balancer.run("python3", "-c", script, command).stdout

    def states(self) -> dict[str, str]:
        """What HAProxy says of each origin."""
        rows = [line.split(",") for line in self.tell_haproxy("show stat").splitlines()]
        return {row[1]: row[17] for row in rows if row[0] == "seawall_origins" and row[1] != "BACKEND"}

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = 30) -> float:
        """Return after how many seconds it *holds*."""
        start = time.monotonic()
        while not holds():
            assert time.monotonic() < start + seconds, f"not in {seconds} s: {what}; {self.states()}"
            time.sleep(0.1)
        return time.monotonic() - start

    def wait_for_states(self, *states: str) -> float:
        return self.wait(f"origins are {states}", lambda: [s.split()[0] for s in self.states().values()] == [*states])


def make_tree(folder: Path, engine: Engine, samples: tuple[Sample, ...]) -> Tree:
    """A tree with *samples*, made here: what carries one to origins is tested elsewhere."""
    rollout = Rollout(folder, engine)
    rollout.declare(samples)
    environment = {**os.environ, "PYTHONPATH": str(TOP / "tools")}
    for arguments in (["lock", rollout.images_file], ["sync", rollout.lock_file, folder / "tree"]):
        subprocess.run([sys.executable, "-m", "seawall", *map(str, arguments)], env=environment, check=True)
    return Tree(folder / "tree")


def blobs(tree: Tree, repository: str) -> dict[str, str]:
    """Paths of the blobs of *repository*, the largest first, each with its digest."""
    links = sorted((tree.root / "v2" / repository / "blobs").iterdir(), key=lambda link: -link.stat().st_size)
    return {f"/v2/{repository}/blobs/{link.name}": link.name for link in links}


@pytest.fixture(scope="module")
def site(
    engine: Engine,
    host_image: Image,
    lab_network: Network,
    samples: Samples,
    debian_sample: Sample,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("balancer")
    layers = samples.layers
    tree = make_tree(folder, engine, (layers, debian_sample))
    inventory = folder / "inventory"
    inventory.mkdir()
    origins = {
        "ha1": {"keepalived_enabled": True, "keepalived_address": ADDRESSES["ha1"], "keepalived_priority": 150},
        "ha2": {"keepalived_enabled": True, "keepalived_address": ADDRESSES["ha2"]},
    }
    groups = {"origin": {"hosts": origins}, "balancer": {"hosts": {"balancer1": None}}}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    write_variables(
        inventory,
        {
            "origin_proxies": [ADDRESSES["balancer1"]],
            "origin_namespaces": [{"prefix": "lab/layers", "access": "address", "addresses": [CLIENT]}],
            "balancer_origins": [{"name": name, "address": f"{ADDRESSES[name]}:80"} for name in origins],
            "balancer_check_manifests": [
                {
                    "repository": debian_sample.repository,
                    "reference": debian_sample.tag,
                    "digest": debian_sample.digest,
                }
            ],
            # Containers may have fewer files open than hosts.
            "balancer_max_connections": 1000,
            "keepalived_virtual_addresses": [f"{SHARED}/24"],
            "keepalived_peers": [ADDRESSES[name] for name in origins],
        },
    )
    rollout = Rollout(inventory, engine)
    with ExitStack() as stack:
        hosts = {
            name: stack.enter_context(Host.start(engine, host_image, name, address))
            for name, address in ADDRESSES.items()
        }
        for name in origins:
            hosts[name].put(tree.root, "/srv/seawall")
        rehearsed = rollout.play(*PLAYBOOKS, "--check", "--diff")
        played = rollout.play(*PLAYBOOKS)
        assert played.code == 0, played.output
        wanted = {f"/v2/{layers.repository}/manifests/{layers.tag}": layers.digest} | blobs(tree, layers.repository)
        large = next(iter(blobs(tree, debian_sample.repository).items()))
        yield Site(hosts, rollout, rehearsed, played, wanted, large)


def test_rehearsal_and_second_run_tell_the_truth(site: Site) -> None:
    assert (site.rehearsed.code, site.rehearsed.changed > 0) == (0, True), site.rehearsed.output
    again = site.rollout.play(*PLAYBOOKS)
    assert (again.code, again.changed) == (0, 0), again.output


def test_docker_pulls_through_the_balancer(site: Site, client_engine: Engine, debian_sample: Sample) -> None:
    reference = f"{ADDRESSES['balancer1']}/{debian_sample.repository}:{debian_sample.tag}"
    assert f"Digest: {debian_sample.digest}" in client_engine.docker("pull", reference)


def test_origins_know_who_asked_and_believe_nobody_but_the_balancer(site: Site) -> None:
    path = next(iter(site.wanted))
    assert requests.get(URL + path, timeout=10).status_code == 200
    # The namespace is for the address of this machine alone.
    asked = site.hosts["ha2"].run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", URL + path).stdout
    assert asked == "403"
    forged = ("-H", f"X-Forwarded-For: {CLIENT}")
    for url in (URL, f"http://{ADDRESSES['ha1']}"):
        asked = site.hosts["ha2"].run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *forged, url + path).stdout
        assert asked == "403", url
    lines = []
    for name in ("ha1", "ha2"):
        site.hosts[name].run("nginx", "-s", "reopen")
        lines += site.hosts[name].run("cat", "/var/log/nginx/access.log").stdout.splitlines()
    asked_by = {line["client"] for line in map(json.loads, lines) if line["path"] == path}
    assert asked_by == {CLIENT, ADDRESSES["ha2"]}


def test_a_slow_client_is_waited_for(site: Site) -> None:
    path, digest = site.large
    hashed, start = hashlib.sha256(), time.monotonic()
    with requests.get(URL + path, timeout=30, stream=True) as answer:
        # A good while longer than an origin may keep silent.
        for number, piece in enumerate(answer.iter_content(1 << 20)):
            hashed.update(piece)
            time.sleep(4 if number in {0, 5} else 0)
    assert time.monotonic() - start > 8
    assert f"sha256:{hashed.hexdigest()}" == digest


def drain_by_file(site: Site) -> None:
    site.hosts["ha1"].run("install", "-D", "/dev/null", DRAIN_FILE)
    site.wait_for_states("DOWN", "UP")
    site.hosts["ha1"].run("rm", DRAIN_FILE)


def drain_by_socket(site: Site) -> None:
    site.tell_haproxy("set server seawall_origins/ha1 state drain")
    site.wait_for_states("DRAIN", "UP")
    site.tell_haproxy("set server seawall_origins/ha1 state ready")


def stop_nginx(site: Site) -> None:
    site.hosts["ha1"].run("systemctl", "stop", "nginx")
    site.wait_for_states("DOWN", "UP")
    site.hosts["ha1"].run("systemctl", "start", "nginx")


def kill(site: Site) -> None:
    ha1 = site.hosts["ha1"]
    ha1.engine.docker("kill", ha1.name)
    site.wait_for_states("DOWN", "UP")
    ha1.engine.docker("start", ha1.name)


def pause(site: Site) -> None:
    ha1 = site.hosts["ha1"]
    ha1.engine.docker("pause", ha1.name)
    site.wait_for_states("DOWN", "UP")
    ha1.engine.docker("unpause", ha1.name)


def cut_off(site: Site) -> None:
    # The cable is pulled: the other end of the host's interface is one of this machine.
    index = int(site.hosts["ha1"].run("cat", "/sys/class/net/eth0/iflink").stdout)
    # Asked of the kernel: /sys is the one of the machine, and knows nothing of the sandbox.
    links = json.loads(run(["ip", "-json", "link", "show"]).stdout)
    (cable,) = (link["ifname"] for link in links if link["ifindex"] == index)
    run(["ip", "link", "set", cable, "down"])
    site.wait_for_states("DOWN", "UP")
    run(["ip", "link", "set", cable, "up"])


def lose_content(site: Site) -> None:
    ha1 = site.hosts["ha1"]
    ha1.run("mv", "/srv/seawall", "/srv/away")
    site.wait_for_states("DOWN", "UP")
    ha1.run("mv", "/srv/away", "/srv/seawall")


def reload(site: Site) -> None:
    for _ in range(5):
        site.balancer.run("systemctl", "reload", "haproxy")
        time.sleep(0.3)


@pytest.mark.parametrize(
    "happens",
    [drain_by_file, drain_by_socket, stop_nginx, kill, pause, cut_off, reload],
    ids=lambda happens: happens.__name__,
)
def test_no_pull_fails_whatever_happens_to_one_origin(site: Site, happens: Callable[[Site], None]) -> None:
    site.wait_for_states("UP", "UP")
    with pulling(URL, site.wanted) as tally:
        time.sleep(0.5)
        happens(site)
        site.wait_for_states("UP", "UP")
        time.sleep(0.5)
    assert tally.tried > 50
    assert tally.failed == []
    # What was under way, and no more.
    assert tally.resumed <= THREADS
    # Until an origin that keeps silent is given up, and once more while the balancer has not noticed.
    assert tally.slowest < 8


def test_an_origin_that_lacks_the_image_is_sent_nothing(site: Site) -> None:
    site.wait_for_states("UP", "UP")
    lose_content(site)
    site.wait_for_states("UP", "UP")


def test_no_origin_at_all_is_an_error_that_clients_understand(site: Site) -> None:
    for name in ("ha1", "ha2"):
        site.tell_haproxy(f"set server seawall_origins/{name} state maint")
    try:
        answer = requests.get(f"{URL}/v2/", timeout=10)
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"
    finally:
        for name in ("ha1", "ha2"):
            site.tell_haproxy(f"set server seawall_origins/{name} state ready")
    site.wait_for_states("UP", "UP")


def test_what_it_is_at_is_told_to_the_host_itself_alone(site: Site) -> None:
    said = site.balancer.run("curl", "-s", "http://127.0.0.1:8405/metrics").stdout
    assert 'haproxy_backend_active_servers{proxy="seawall_origins"} 2' in said
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{ADDRESSES['balancer1']}:8405/stats", timeout=5)


def test_the_services_are_exposed_no_more_than_is_said(site: Site) -> None:
    assert_exposed_as_stated(site.balancer, "haproxy.service")
    assert_exposed_as_stated(site.hosts["ha1"], "keepalived.service")


def test_a_configuration_that_haproxy_refuses_never_takes_its_place(site: Site) -> None:
    before = site.balancer.run("cat", "/etc/haproxy/haproxy.cfg").stdout
    ran = site.rollout.play("playbooks/balancer.yml", "--extra-vars", "{balancer_listen: ['192.0.2.1.1:8000']}")
    assert ran.code != 0
    assert "Render haproxy.cfg" in ran.output
    assert site.balancer.run("cat", "/etc/haproxy/haproxy.cfg").stdout == before
    assert site.states() == {"ha1": "UP", "ha2": "UP"}


# --- an address that both share -------------------------------------------------------------------------------------


def holders(site: Site) -> list[str]:
    """Who has the shared address."""
    shown = {name: site.hosts[name].run("ip", "-brief", "address", check=False).stdout for name in ("ha1", "ha2")}
    return [name for name, text in shown.items() if f"{SHARED}/" in text]


def wait_for_holder(site: Site, name: str) -> float:
    return site.wait(f"{name} holds the address", lambda: holders(site) == [name])


def reaches(site: Site) -> bool:
    """Whether the address leads to a server that has what is wanted."""
    path, digest = next(iter(site.wanted.items()))
    try:
        answer = requests.get(f"http://{SHARED}{path}", timeout=1)
    except requests.RequestException:
        return False
    return f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == digest


def test_the_address_moves_when_its_holder_is_drained_and_stays_there(site: Site) -> None:
    (first,) = holders(site)
    (second,) = {"ha1", "ha2"} - {first}
    site.wait("the address answers", lambda: reaches(site))
    with pulling(f"http://{SHARED}", site.wanted) as tally:
        site.hosts[first].run("install", "-D", "/dev/null", DRAIN_FILE)
        moved = wait_for_holder(site, second)
        time.sleep(1)
        site.hosts[first].run("rm", DRAIN_FILE)
        time.sleep(6)
    print(f"the address moved in {moved:.1f} s")
    # A drained host serves what it is asked, so that only the move itself can be felt.
    assert len(tally.failed) <= 8, tally.failed
    assert holders(site) == [second]


def test_the_address_moves_when_its_holder_dies(site: Site) -> None:
    (first,) = holders(site)
    (second,) = {"ha1", "ha2"} - {first}
    dying = site.hosts[first]
    dying.engine.docker("kill", dying.name)
    gone = site.wait("the address answers", lambda: reaches(site), seconds=10)
    print(f"the address answered again in {gone:.1f} s")
    dying.engine.docker("start", dying.name)
    dying.wait_booted()
    time.sleep(5)
    assert holders(site) == [second]
