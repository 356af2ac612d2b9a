"""The laboratory as pytest fixtures; load them with `pytest_plugins = ["lab.fixtures"]`.

They need `tests/lab/sandbox`: run `tests/lab/sandbox python -m pytest ...`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import base, gateway, images
from .base import Image
from .engine import Engine
from .images import Sample, Samples
from .network import LAB, Namespace, Network
from .store import Store
from .swift import Swift
from .upstream import Upstream

CLIENT_ADDRESS = "198.18.0.200"


@pytest.fixture(scope="session")
def lab_folder() -> Path:
    """The sandbox's folder, which is removed with it; fails outside a sandbox."""
    folder = os.environ.get("SEAWALL_LAB_DIR")
    if folder is None:
        pytest.fail("this test needs the lab: tests/lab/sandbox python -m pytest ...")
    return Path(folder)


@pytest.fixture(scope="session")
def engine(lab_folder: Path) -> Iterator[Engine]:
    """The engine that runs the hosts."""
    with Engine.start(lab_folder / "engine") as started:
        yield started


@pytest.fixture(scope="session")
def lab_network(engine: Engine) -> Network:
    """The network 198.18.0.0/24, on which the sandbox itself is 198.18.0.1."""
    LAB.create(engine)
    return LAB


@pytest.fixture(scope="session")
def root_file_systems() -> None:
    """Have the root file systems in the cache; those that are not are made side by side."""
    base.tarballs(base.HOST, base.BARE, base.BUSYBOX)


@pytest.fixture(scope="session")
def host_image(engine: Engine, root_file_systems: None) -> Image:
    """A Debian host with systemd and sshd."""
    return base.host_image(engine)


@pytest.fixture(scope="session")
def bare_image(engine: Engine, root_file_systems: None) -> Image:
    """A fresh Debian machine with git, make and python3 only."""
    return base.bare_image(engine)


@pytest.fixture(scope="session")
def upstream(lab_folder: Path, lab_network: Network) -> Iterator[Upstream]:
    """An empty registry on 198.18.0.1:5000 to which everybody may push."""
    with Upstream.start(lab_folder / "upstream", host=lab_network.gateway) as started:
        yield started


@pytest.fixture(scope="session")
def store(lab_folder: Path, lab_network: Network) -> Iterator[Store]:
    """An S3 store on 198.18.0.1:8333, with a bucket "images" that everybody may read."""
    with Store.start(lab_folder / "store", host=lab_network.gateway) as started:
        yield started


@pytest.fixture(scope="session")
def ceph_store(lab_folder: Path, lab_network: Network) -> Iterator[Store]:
    """Ceph's S3 store on 198.18.0.1:8355, with a bucket "images" that everybody may list."""
    with gateway.start(lab_folder / "ceph", host=lab_network.gateway) as started:
        yield started


@pytest.fixture(scope="session")
def swift(lab_folder: Path, lab_network: Network) -> Iterator[Swift]:
    """OpenStack Swift on 198.18.0.1:8360, without a container."""
    with Swift.start(lab_folder / "swift", host=lab_network.gateway) as started:
        yield started


@pytest.fixture(scope="session")
def samples(engine: Engine, upstream: Upstream, root_file_systems: None) -> Samples:
    """One image of each kind of manifest, in the upstream."""
    return images.fill(engine, upstream)


@pytest.fixture(scope="session")
def debian_sample(engine: Engine, upstream: Upstream, bare_image: Image) -> Sample:
    """An image of ordinary size, in the upstream."""
    return images.push_debian(engine, upstream, bare_image)


@pytest.fixture
def client_engine(lab_folder: Path, lab_network: Network) -> Iterator[Engine]:
    """An engine without any image, on a machine of its own at 198.18.0.200."""
    namespace = Namespace.attach("client", CLIENT_ADDRESS, lab_network)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="client-", dir=lab_folder) as folder,
            Engine.start(Path(folder) / "engine", namespace=namespace.name) as started,
        ):
            yield started
    finally:
        namespace.detach()
