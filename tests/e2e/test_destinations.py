"""Where a tree is published to, for real: a host with sshd and rsync, and an S3 store that clients then pull from."""

import hashlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator

import pytest

from e2e.seat import Seat, Ssh
from lab.engine import Engine
from lab.host import Host
from lab.images import Samples
from lab.names import resolved
from lab.network import LAB
from lab.store import DOMAIN, Store

REPLICA = "/srv/replica"
LARGE_BYTES = 60 * 1024 * 1024
NAME = f"images.{DOMAIN}"


@pytest.fixture(scope="module")
def rsync_host(ssh: Ssh, host: Host) -> Host:
    """The host with rsync, which is all that a publish wants there besides what every host has."""
    if host.run("which", "rsync", check=False).returncode:
        host.run("apt-get", "-qq", "update")
        host.run("apt-get", "-qq", "install", "--yes", "--no-install-recommends", "rsync")
    return host


@pytest.fixture
def filled(seat: Seat, samples: Samples) -> Seat:
    """A seat with a tree of two releases: an image of a few layers, and one of two platforms."""
    for image, name in ((samples.layers, "team/app:1"), (samples.oci_index, "team/tool:1")):
        source = f"docker://{image.upstream}/{image.repository}:{image.tag}"
        seat.ask("add", "tree", source, name, "--plain-http")
    return seat


@pytest.fixture
def at_ssh(filled: Seat, ssh: Ssh) -> Seat:
    """The same with ssh set up."""
    return Seat(filled.folder, {**filled.env, **ssh.env})


def large_image(seat: Seat) -> None:
    """Point team/app:1 of the seat's tree at an image with a layer that nothing compresses."""
    layout = seat.folder / "layout"
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def keep(content: bytes, media_type: str) -> dict[str, object]:
        hex_ = hashlib.sha256(content).hexdigest()
        (blobs / hex_).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{hex_}", "size": len(content)}

    layer = keep(os.urandom(LARGE_BYTES), "application/vnd.oci.image.layer.v1.tar")
    config = keep(
        json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode(),
        "application/vnd.oci.image.config.v1+json",
    )
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]}
    row = keep(json.dumps(manifest).encode(), media_type) | {"annotations": {"org.opencontainers.image.ref.name": "1"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [row]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    seat.ask("add", "tree", "oci:layout:1", "team/app:1")


FIND = (
    "-path",
    "*/.*",
    "-prune",
    "-o",
    "-type",
    "f",
    "-printf",
    r"%P %s %m %T@\n",
    "-o",
    "-type",
    "l",
    "-printf",
    r"%P %l\n",
)


def test_a_host_comes_to_hold_the_tree_byte_for_byte_and_says_in_one_line_why_not(
    at_ssh: Seat, ssh: Ssh, rsync_host: Host
) -> None:
    place = f"ssh://{ssh.place}{REPLICA}"
    assert at_ssh.ask("publish", "tree", place)["destinations"][0]["release"] == 2
    seen = subprocess.run(["find", at_ssh.folder / "tree", *FIND], check=True, capture_output=True, text=True).stdout
    there = rsync_host.run("find", REPLICA, *FIND).stdout
    assert sorted(there.splitlines()) == sorted(seen.splitlines())
    assert json.loads(rsync_host.run("seawall", "verify", REPLICA, "--json").stdout)["holds"]
    assert not at_ssh.ask("publish", "tree", place)["changed"]

    # The origin's own tree has another history.
    code, _, said = at_ssh.run("publish", "tree", f"ssh://{ssh.place}/srv/seawall")
    assert (code, said.count("\n"), "belongs to seawall; publish as seawall" in said) == (6, 1, True)
    unit = "--unit=holder"
    rsync_host.run(
        "systemd-run", unit, "--quiet", "flock", f"{REPLICA}/.held", "sh", "-c", "touch /run/holds; sleep 600"
    )
    rsync_host.run("sh", "-c", "until [ -e /run/holds ]; do sleep 0.1; done", seconds=30)
    code, _, said = at_ssh.run("publish", "tree", place)
    rsync_host.run("systemctl", "stop", "holder")
    assert (code, "is held by another run" in said) == (7, True)

    large_image(at_ssh)
    rsync_host.run("mkdir", "-p", "/srv/small")
    rsync_host.run("mount", "-t", "tmpfs", "-o", "size=16m", "none", "/srv/small")
    small = f"ssh://{ssh.place}/srv/small/tree"
    code, _, said = at_ssh.run("publish", "tree", small, place)
    assert (code, "no space is left there" in said) == (6, True)
    assert not at_ssh.ask("publish", "tree", place)["changed"], "the other one was served all the same"
    rsync_host.run("mount", "-o", "remount,size=200m", "/srv/small")
    assert at_ssh.ask("publish", "tree", small)["changed"]
    assert json.loads(rsync_host.run("seawall", "verify", "/srv/small/tree", "--json").stdout)["holds"]
    rsync_host.run("umount", "/srv/small")


def test_a_publish_to_a_host_that_is_killed_leaves_what_was_served_and_is_taken_up(
    at_ssh: Seat, ssh: Ssh, rsync_host: Host
) -> None:
    place, root = f"ssh://{ssh.place}/srv/killed", "/srv/killed"
    at_ssh.ask("publish", "tree", place)
    tags = f"readlink {root}/v2/team/app/manifests/1 {root}/v2/team/tool/manifests/1"
    before = rsync_host.run("sh", "-c", tags).stdout
    large_image(at_ssh)
    dice = random.Random(4)  # noqa: S311
    for wait in (0.2, dice.uniform(0.3, 1.5), dice.uniform(0.3, 3)):
        process = at_ssh.start("publish", "tree", place)
        time.sleep(wait)
        process.kill()
        process.communicate()
        after = rsync_host.run("sh", "-c", tags).stdout
        assert after.splitlines()[1] == before.splitlines()[1]
        rsync_host.run("sh", "-c", f"cat {root}/v2/team/*/manifests/1 {root}/v2/team/app/blobs/* >/dev/null")
    deadline = time.monotonic() + 60
    while (ended := at_ssh.run("publish", "tree", place))[0] == 7 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ended[0] == 0, ended
    assert rsync_host.run("sh", "-c", tags).stdout != before
    assert json.loads(rsync_host.run("seawall", "verify", root, "--json").stdout)["holds"]


@pytest.fixture(params=["store", "ceph_store"])
def bucket_store(request: pytest.FixtureRequest) -> Store:
    """A store with a bucket "images": SeaweedFS, and Ceph's gateway."""
    store: Store = request.getfixturevalue(request.param)
    return store


@pytest.fixture
def named_bucket(bucket_store: Store) -> Iterator[str]:
    """The name of the bucket "images", which this machine resolves."""
    with resolved(f"{LAB.gateway} {NAME}"):
        yield f"{NAME}:{bucket_store.url.rpartition(':')[2]}"


def test_clients_pull_out_of_a_bucket_what_was_published_into_it(
    filled: Seat, bucket_store: Store, named_bucket: str, client_engine: Engine, samples: Samples
) -> None:
    filled = Seat(filled.folder, {**filled.env, **bucket_store.env})
    assert filled.ask("publish", "tree", "s3://images", "--acl", "public-read")["destinations"][0]["release"] == 2
    assert not filled.ask("publish", "tree", "s3://images")["changed"]
    reference = f"{named_bucket}/team/app:1"
    client_engine.docker("pull", reference)
    assert client_engine.docker("run", "--rm", "--pull=never", reference) == samples.layers.output()
    listed = subprocess.run(
        ["skopeo", "list-tags", "--tls-verify=false", f"docker://{named_bucket}/team/tool"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(listed.stdout)["Tags"] == ["1"]
    copy = ["skopeo", "copy", "--all", "--src-tls-verify=false", f"docker://{named_bucket}/team/tool:1"]
    subprocess.run([*copy, f"dir:{filled.folder}/copied"], check=True, capture_output=True)
    filled.ask("add", "copy", "s3://images/v2/team/tool:1", "team/tool:1")
    assert filled.ask("verify", "copy")["holds"]
