"""What the end-to-end tests share: a host with systemd that Ansible made an origin, and images upstream.

They need the lab: run `make test-e2e`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import testinfra
import yaml
from testinfra.host import Host as Target

from e2e.rollout import Rollout, Run, make_inventory
from lab.base import Image
from lab.engine import Engine
from lab.host import Host
from lab.images import Sample, Samples
from lab.network import Network

pytest_plugins = ["lab.fixtures"]

ORIGIN = "origin1"
ADDRESS = "198.18.0.11"


@pytest.fixture(scope="session")
def host(engine: Engine, host_image: Image, lab_network: Network) -> Iterator[Host]:
    """A Debian host with systemd on which nothing was done yet."""
    with Host.start(engine, host_image, ORIGIN, ADDRESS) as started:
        yield started


@pytest.fixture(scope="session")
def served(samples: Samples, debian_sample: Sample) -> tuple[Sample, ...]:
    """What the origin is to serve: images of a few layers, of two platforms, and of ordinary size."""
    return (samples.layers, samples.oci_index, debian_sample)


@pytest.fixture(scope="session")
def rollout(host: Host, served: tuple[Sample, ...], tmp_path_factory: pytest.TempPathFactory) -> Rollout:
    """The inventory of the site: one origin."""
    folder = make_inventory(
        tmp_path_factory.mktemp("inventory"),
        host,
        {
            "origin_listen": ["80"],
            "tree_images_files": ["{{ inventory_dir }}/images.yml"],
            "tree_update_lock": True,
            "verify_url": f"http://{ADDRESS}",
        },
    )
    rollout = Rollout(folder, host.engine)
    rollout.declare(served)
    return rollout


@pytest.fixture(scope="session")
def rehearsed(rollout: Rollout) -> Run:
    """The whole site in check mode, before anything was done."""
    return rollout.play("site.yml", "--check", "--diff")


@pytest.fixture(scope="session")
def provisioned(rehearsed: Run, rollout: Rollout) -> Run:
    """The whole site, rolled out for the first time."""
    run = rollout.play("site.yml")
    assert run.code == 0, run.output
    return run


@pytest.fixture(scope="session")
def url(provisioned: Run) -> str:
    """Where the origin answers."""
    return f"http://{ADDRESS}"


@pytest.fixture(scope="session")
def target(provisioned: Run, host: Host) -> Iterator[Target]:
    """The origin, for testinfra."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DOCKER_HOST", host.engine.socket)
        yield testinfra.get_host(f"docker://{host.name}")


@pytest.fixture(scope="session")
def expected() -> dict[str, object]:
    """What is expected of the origin."""
    text = (Path(__file__).parent / "expected" / f"{ORIGIN}.yml").read_text()
    document: dict[str, object] = yaml.safe_load(text)
    return document
