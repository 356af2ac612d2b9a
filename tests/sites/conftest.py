"""What the tests of a whole site share: several hosts, reached over ssh as an account that may sudo.

They need the lab: run `make test-lab`.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host as Target

from e2e.rollout import TOP, Rollout, Run
from lab import base
from lab.engine import Engine
from lab.host import Host
from lab.images import Sample, Samples
from lab.load import Wanted
from lab.network import Network
from lab.site import BALANCER, CLIENT, ORIGINS, Site
from sites.rolled import FRONT, Rolled, all_of

pytest_plugins = ["lab.fixtures"]

EXPECTED = Path(__file__).parent / "expected"
TRIXIE = replace(base.HOST, suite="trixie")
# One origin is of the newer Debian, and its tree is on a small disk of its own.
NEWER = replace(ORIGINS[1], rootfs=TRIXIE, options=("--tmpfs=/srv/seawall:size=48m,mode=0755",))
MACHINES = (BALANCER, ORIGINS[0], NEWER, CLIENT)


@pytest.fixture(scope="session")
def site(engine: Engine, lab_network: Network, lab_folder: Path) -> Site:
    """The machines, on which nothing was done yet; the engine's end is theirs."""
    base.tarballs(base.HOST, TRIXIE, base.CLIENT, base.BARE, base.BUSYBOX)
    return Site.start(engine, lab_folder / "site", MACHINES)


@pytest.fixture(scope="session")
def origins(site: Site) -> list[Host]:
    return [site.hosts[machine.name] for machine in ORIGINS]


@pytest.fixture(scope="session")
def client(site: Site) -> Host:
    return site.hosts[CLIENT.name]


@pytest.fixture(scope="session")
def images(samples: Samples) -> tuple[Sample, ...]:
    """What the site is to serve."""
    return (samples.layers, samples.oci_index)


@pytest.fixture(scope="session")
def wanted(images: tuple[Sample, ...]) -> list[Wanted]:
    """All that clients ask for when they pull."""
    return all_of(images)


@pytest.fixture(scope="session")
def rollout(site: Site, images: tuple[Sample, ...], tmp_path_factory: pytest.TempPathFactory) -> Rollout:
    """inventory/lab as it is, but for its images, for machines that are not here, and where the lab's state is."""
    folder = tmp_path_factory.mktemp("site") / "lab"
    shutil.copytree(TOP / "inventory/lab", folder, ignore=shutil.ignore_patterns("images.lock"))
    hosts = yaml.safe_load((folder / "hosts.yml").read_text())
    for group in hosts["all"]["children"].values():
        group["hosts"] = {name: row for name, row in group["hosts"].items() if name in site.hosts}
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts))
    variables = folder / "group_vars/all.yml"
    more = {
        "lab_state": str(site.folder),
        "tree_min_free_bytes": 1_000_000,
        "client_endpoints": [{"url": url} for url in FRONT],
    }
    check = {"repository": images[0].repository, "reference": images[0].tag}
    known = yaml.safe_load(variables.read_text())
    variables.write_text(yaml.safe_dump({**known, **more, "balancer_check_manifests": [check]}))
    rollout = Rollout(folder, site.hosts[CLIENT.name].engine)
    rollout.declare(images)
    return rollout


@pytest.fixture(scope="session")
def rehearsed(rollout: Rollout) -> Run:
    """The whole site in check mode; asked for by the first test, when the hosts are bare."""
    return rollout.play("site.yml", "--check", "--diff")


@pytest.fixture(scope="session")
def rolled(rollout: Rollout) -> Rolled:
    """The whole site, rolled out to bare hosts."""
    start = time.monotonic()
    first = rollout.play("site.yml")
    assert first.code == 0, first.output
    print(f"site.yml on bare hosts: {time.monotonic() - start:.0f} s")
    return Rolled(rollout, first)


@pytest.fixture(scope="session", params=sorted(path.stem for path in EXPECTED.glob("*.yml")))
def tier(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What is expected of each host of a tier."""
    document: dict[str, Any] = yaml.safe_load((EXPECTED / f"{request.param}.yml").read_text())
    return document


@pytest.fixture
def targets(tier: dict[str, Any], rolled: Rolled, site: Site) -> list[Target]:
    """The hosts of a tier, for testinfra: over ssh, as the rollout came."""
    # One connection for all commands, as Ansible does it: a new one for each takes ten times as long.
    shared = f"-o ControlMaster=auto -o ControlPersist=60s -o ControlPath={site.folder}/%n.ssh"
    return [
        testinfra.get_host(f"ssh://{name}", ssh_config=str(site.ssh_config), ssh_extra_args=shared, sudo=True)
        for name in tier["hosts"]
    ]
