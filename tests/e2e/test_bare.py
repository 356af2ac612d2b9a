"""A new user on a bare Debian: clone, `make up`, and nothing else."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.base import Image
from lab.engine import Engine
from lab.host import Host
from lab.network import Network

TOP = Path(__file__).resolve().parents[2]
ADDRESS = "198.18.0.21"
CHECKOUT = "/root/seawall"
SECONDS = 600


@pytest.fixture(scope="module")
def bare(
    engine: Engine, bare_image: Image, lab_network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A fresh machine with a clone of this checkout, as it stands in the working tree."""
    archive = tmp_path_factory.mktemp("clone") / "seawall.tar"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=TOP,
        check=True,
        capture_output=True,
    ).stdout
    subprocess.run(
        ["tar", "--create", "--file", archive, "--null", "--files-from=-", "--ignore-failed-read"],
        cwd=TOP,
        check=True,
        input=files,
    )
    with Host.start(engine, bare_image, "bare1", ADDRESS) as host:
        host.run("mkdir", CHECKOUT)
        host.put(archive, "/tmp/seawall.tar")  # noqa: S108 - a container of our own
        host.run("tar", "--extract", "--file", "/tmp/seawall.tar", "--directory", CHECKOUT)  # noqa: S108
        yield host


@pytest.fixture(scope="module")
def first(bare: Host) -> str:
    """What the first `make up` printed."""
    return make_up(bare)


def make_up(bare: Host) -> str:
    ran = bare.run("make", "--directory", CHECKOUT, "up", check=False, seconds=SECONDS)
    print(ran.stdout + ran.stderr)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return ran.stdout


def test_make_up_serves_an_image_and_says_how_to_pull_it(first: str) -> None:
    assert "docker pull 127.0.0.1:5000/busybox:latest" in first
    assert "Seawall is up" in first


def test_what_it_serves_can_be_pulled(first: str, bare: Host) -> None:
    ran = bare.run("seawall", "verify", "http://127.0.0.1:5000", "busybox:latest")
    assert "all holds" in ran.stdout


def test_the_default_image_has_two_platforms_and_two_layers(first: str, bare: Host) -> None:
    image = json.loads(bare.run("seawall", "inspect", "/srv/seawall", "busybox:latest", "--json").stdout)
    assert image["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert image["platforms"] == ["linux/amd64", "linux/arm64/v8"]
    for platform in image["images"]:
        layers = [blob for blob in platform["blobs"] if "layer" in blob["mediaType"]]
        assert len(layers) >= 2


def test_the_default_image_has_the_same_digest_each_time_it_is_made(first: str, bare: Host) -> None:
    layout = "/var/lib/seawall/images/busybox"
    before = bare.run("sha256sum", f"{layout}/index.json").stdout
    bare.run("rm", "-r", layout)
    make_up(bare)
    assert bare.run("sha256sum", f"{layout}/index.json").stdout == before


def test_it_changes_nothing_the_second_time_and_says_so(first: str, bare: Host) -> None:
    assert "nothing had to be changed" in make_up(bare)


def test_nginx_runs_without_an_init_system(first: str, bare: Host) -> None:
    users = bare.run("sh", "-c", "for p in /proc/[0-9]*; do ! grep -qs '^nginx$' $p/comm || stat -c %U $p; done").stdout
    assert set(users.split()) == {"root", "www-data"}
    assert bare.run("service", "nginx", "status").returncode == 0


def test_a_foreign_site_is_not_taken_over(first: str, bare: Host) -> None:
    bare.run("cp", "/etc/nginx/nginx.conf", "/etc/nginx/ours")
    bare.run("cp", "/etc/nginx/nginx.conf.distribution", "/etc/nginx/nginx.conf")
    bare.run("sh", "-c", "echo 'server { listen 8099; }' > /etc/nginx/conf.d/shop.conf")
    try:
        ran = bare.run("make", "--directory", CHECKOUT, "up", check=False, seconds=SECONDS)
        assert ran.returncode != 0
        assert "shop.conf" in ran.stdout
        assert "nginx_base_take_over" in ran.stdout
    finally:
        bare.run("rm", "/etc/nginx/conf.d/shop.conf")
        bare.run("mv", "/etc/nginx/ours", "/etc/nginx/nginx.conf")
