"""What the end-to-end tests share: a host with systemd that Ansible made an origin, and images upstream.

They need the lab: run `make test-e2e`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import testinfra
import yaml
from testinfra.host import Host as Target

from e2e.rollout import Rollout, Run, make_inventory
from lab import base
from lab.base import Image
from lab.engine import Engine
from lab.host import NESTED_ENGINE_OPTIONS, STORAGE, Host
from lab.images import Sample, Samples
from lab.network import Network

pytest_plugins = ["lab.fixtures", "e2e.seat"]

ORIGIN = "origin1"
ADDRESS = "198.18.0.11"


@pytest.fixture(scope="session")
def client_bookworm(engine: Engine, lab_network: Network, root_file_systems: None) -> Iterator[Host]:
    """A machine that pulls: Docker 20.10, containerd 1.6, podman 4.3, buildah 1.28, skopeo 1.9."""
    yield from _client(engine, "bookworm", "198.18.0.31")


@pytest.fixture(scope="session")
def client_trixie(engine: Engine, lab_network: Network, root_file_systems: None) -> Iterator[Host]:
    """A machine that pulls: Docker 26.1, containerd 1.7, podman 5.4, buildah 1.39, skopeo 1.18."""
    yield from _client(engine, "trixie", "198.18.0.32")


def _client(engine: Engine, suite: str, address: str) -> Iterator[Host]:
    # The command line is a package of its own there.
    packages = (*base.CLIENT.packages, *(("docker-cli",) if suite == "trixie" else ()))
    image = base.host_image(engine, replace(base.CLIENT, suite=suite, packages=packages))
    options = (*NESTED_ENGINE_OPTIONS, "--volume=/var/lib/containers")
    with Host.start(engine, image, f"client-{suite}", address, options=options) as started:
        started.run("tee", "/etc/containers/storage.conf", stdin=STORAGE)
        yield started


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
            # Nobody looks at its health answer.
            "rolling_drain_seconds": 0,
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
def provisioned(request: pytest.FixtureRequest, rollout: Rollout) -> Run:
    """The whole site, rolled out for the first time."""
    if any("rehearsed" in getattr(test, "fixturenames", ()) for test in request.session.items):
        # Afterwards it cannot be rehearsed any more.
        request.getfixturevalue("rehearsed")
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
