"""The laboratory works: what later tests rely on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from .base import Image
from .command import CommandFailedError
from .daemon import NotReadyError
from .engine import Engine
from .host import Host
from .images import Sample, Samples
from .network import Network
from .upstream import Upstream

pytest_plugins = ["lab.fixtures"]

PYTHON_INDEX = """
import urllib.request
print(urllib.request.urlopen("https://pypi.org/simple/six/", timeout=60).status)
"""


@pytest.fixture(scope="module")
def host(engine: Engine, host_image: Image, lab_network: Network) -> Iterator[Host]:
    with Host.start(engine, host_image, "h1", "198.18.0.31") as started:
        yield started


@pytest.fixture(scope="module")
def bare(engine: Engine, bare_image: Image, lab_network: Network) -> Iterator[Host]:
    with Host.start(engine, bare_image, "b1", "198.18.0.41") as started:
        yield started


def test_engine_is_empty_and_the_tests_own(engine: Engine, lab_folder: Path) -> None:
    assert engine.docker("info", "--format={{.DockerRootDir}}").startswith(str(lab_folder))


def test_failed_docker_command_says_what_docker_said(engine: Engine) -> None:
    with pytest.raises(CommandFailedError, match="No such container: nobody"):
        engine.docker("rm", "nobody")


def test_engine_that_cannot_start_shows_its_log(lab_folder: Path) -> None:
    with pytest.raises(NotReadyError, match="unknown flag: --nonsense"):
        Engine.start(lab_folder / "nonsense", options=["--nonsense"])


def test_host_boots_without_a_failed_unit(host: Host) -> None:
    assert host.run("systemctl", "is-system-running", "--wait").stdout == "running\n"
    assert host.run("systemctl", "is-active", "ssh").stdout == "active\n"


def test_host_installs_a_package_that_starts_its_service(host: Host) -> None:
    host.run("apt-get", "update")
    host.run("apt-get", "install", "--yes", "--no-install-recommends", "nginx-light")
    assert requests.get(f"http://{host.address}/", timeout=10).status_code == 200


def test_host_may_replace_the_files_that_docker_mounts(host: Host) -> None:
    for name in ("hosts", "hostname", "resolv.conf"):
        host.run("sh", "-c", f"cp /etc/{name} /etc/{name}.new && mv /etc/{name}.new /etc/{name}")


def test_host_comes_back_after_a_reboot(host: Host) -> None:
    before = host.run("stat", "-c", "%Z", "/proc/1").stdout
    host.run("systemctl", "reboot", check=False)
    host.engine.docker("wait", host.name, seconds=30)
    host.wait_booted()
    assert host.run("stat", "-c", "%Z", "/proc/1").stdout != before


def test_bare_machine_has_what_a_checkout_needs_and_no_more(bare: Host) -> None:
    found = bare.run(
        "sh", "-c", "for p in git make python3 sudo systemctl pip3 curl; do command -v $p; done; :"
    ).stdout.split()
    assert found == ["/usr/bin/git", "/usr/bin/make", "/usr/bin/python3"]


def test_bare_machine_reaches_the_package_mirrors(bare: Host) -> None:
    assert bare.run("python3", "-c", PYTHON_INDEX).stdout == "200\n"
    bare.run("apt-get", "update")


@pytest.mark.parametrize("fixture", ["host", "bare"])
def test_install_starts_no_service(fixture: str, request: pytest.FixtureRequest) -> None:
    machine: Host = request.getfixturevalue(fixture)
    for name in ("install", "packages.txt"):
        machine.put(Path(__file__).parent / name, f"/opt/{name}")
    machine.run("sh", "-c", "echo docker-registry > /opt/one.txt; rm -rf /var/lib/apt/lists/*")
    first = machine.run("/opt/install", "/opt/one.txt")
    assert "install: docker-registry" in first.stdout
    assert machine.run("/opt/install", "/opt/one.txt").stdout == ""
    processes = machine.run("sh", "-c", "cat /proc/[0-9]*/comm").stdout.split()
    assert "docker-registry" not in processes
    assert machine.run("ls", "/usr/sbin/policy-rc.d", check=False).returncode != 0
    if fixture == "host":
        enabled = machine.run("systemctl", "is-enabled", "docker-registry", check=False)
        assert enabled.stdout == "disabled\n"


def test_upstream_asks_for_a_password_if_told_to(lab_folder: Path, lab_network: Network) -> None:
    users = {"anna": "secret"}
    with Upstream.start(lab_folder / "private", port=5001, users=users) as registry:
        assert requests.get(f"{registry.url}/v2/", timeout=10).status_code == 401
        assert requests.get(f"{registry.url}/v2/", auth=("anna", "secret"), timeout=10).ok


def test_samples_are_of_every_kind(samples: Samples) -> None:
    assert len({sample.media_type for sample in samples}) == 4
    assert len({sample.digest for sample in samples}) == 4


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("layers", "linux/amd64"),
        ("docker_list", "linux/amd64"),
        ("docker_list", "linux/arm64"),
        ("oci_index", "linux/amd64"),
        ("oci_index", "linux/arm64"),
        ("oci_manifest", "linux/amd64"),
    ],
)
def test_empty_client_pulls_and_runs_a_sample(
    name: str, platform: str, samples: Samples, client_engine: Engine
) -> None:
    sample: Sample = getattr(samples, name)
    assert client_engine.docker("images", "--quiet", "--all") == ""
    client_engine.docker("pull", f"--platform={platform}", sample.pinned)
    output = client_engine.docker("run", "--rm", f"--platform={platform}", sample.pinned)
    assert output == sample.output(platform)


def test_empty_client_pulls_a_debian_image(debian_sample: Sample, client_engine: Engine) -> None:
    client_engine.docker("pull", debian_sample.reference)
    assert client_engine.docker("run", "--rm", debian_sample.reference) == debian_sample.output()
