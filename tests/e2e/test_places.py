"""Trees elsewhere, for real: a host with sshd, an S3 store, and the origin's nginx as any web server."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import requests
import yaml

from e2e.seat import PUSHED, Seat, Ssh
from lab.engine import Engine
from lab.host import Host
from lab.images import Samples
from lab.store import Store

AS_OWNER = "runuser -u seawall -- seawall"
LARGE_BYTES = 40 * 1024 * 1024


@pytest.fixture
def images(client_engine: Engine, samples: Samples) -> Engine:
    """An engine with an image of a few layers, app:1.2."""
    reference = f"{samples.layers.upstream}/{samples.layers.repository}:{samples.layers.tag}"
    client_engine.docker("pull", reference)
    client_engine.docker("tag", reference, "app:1.2")
    return client_engine


def large_image(engine: Engine, folder: Path) -> None:
    """Make app:next: a layer that nothing compresses, above those of app:1.2."""
    (folder / "large").write_bytes(os.urandom(LARGE_BYTES))
    engine.docker("create", "--name=next", "app:1.2")
    engine.docker("cp", str(folder / "large"), "next:/large")
    engine.docker("commit", "next", "app:next")
    engine.docker("rm", "next")


def test_an_image_is_pushed_to_a_path_a_host_and_a_bucket_and_taken_from_there(
    seat: Seat, ssh: Ssh, store: Store, images: Engine, host: Host, samples: Samples
) -> None:
    seat = Seat(seat.folder, {**seat.env, **ssh.env, "DOCKER_HOST": images.socket})
    places = ("tree", f"ssh://{ssh.place}{PUSHED}", "s3://images/prod")
    pushed = {}
    for place in places:
        options = ("--remote-command", AS_OWNER) if place.startswith("ssh:") else ()
        rehearsed = seat.ask("push", "app:1.2", place, "--as", "team/app", *options, "--dry-run")
        first = seat.ask("push", "app:1.2", place, "--as", "team/app", *options)
        again = seat.ask("push", "app:1.2", place, "--as", "team/app", *options)
        assert (first["changed"], first["release"], again["changed"]) == (True, 1, False)
        assert rehearsed["sent"] == first["sent"]
        pushed[place] = first["moved"][0]["after"]
    assert len(set(pushed.values())) == 1

    large_image(images, seat.folder)
    for place in places[1:]:
        options = ("--remote-command", AS_OWNER) if place.startswith("ssh:") else ()
        next_one = seat.ask("push", "app:next", place, "--as", "team/app:next", *options)
        # A layer and a config: what app:1.2 has too is there.
        assert len(next_one["sent"]) == 2
        assert max(row["size"] for row in next_one["sent"]) > LARGE_BYTES
    assert json.loads(host.run("runuser", "-u", "seawall", "--", "seawall", "verify", PUSHED, "--json").stdout)["holds"]

    for number, place in enumerate(places[1:]):
        document = {"version": 1, "name": "x", "images": [{"source": f"{place}/v2/team/app", "tags": ["*"]}]}
        (seat.folder / "images.yml").write_text(yaml.safe_dump(document))
        seat.ask("lock", "images.yml", "--upgrade")
        seat.ask("sync", "images.lock", f"copy{number}")
        assert seat.ask("verify", f"copy{number}")["holds"]
        listed = {row["reference"]: row["digest"] for row in seat.ask("ls", f"copy{number}")}
        assert set(listed) == {"team/app:1.2", "team/app:next"}
        assert listed["team/app:1.2"] == pushed[place]

    for place in places:
        images.docker("rmi", "--force", *images.docker("images", "--quiet", "--all").split())
        assert images.docker("images", "--quiet", "--all") == ""
        seat.ask("pull", place, "team/app:1.2", "--as", "back:1")
        assert images.docker("run", "--rm", "--pull=never", "back:1") == samples.layers.output()


def test_a_bucket_serves_what_was_pushed_to_anybody_over_plain_http(seat: Seat, store: Store, images: Engine) -> None:
    pusher = Seat(seat.folder, {**seat.env, "DOCKER_HOST": images.socket})
    pushed = pusher.ask("push", "app:1.2", "s3://images/web", "--as", "team/app")
    digest = pushed["moved"][0]["after"]
    base = f"{store.url}/images/web/v2/team/app"
    by_tag, by_digest = (requests.get(f"{base}/manifests/{target}", timeout=10) for target in ("1.2", digest))
    assert by_tag.content == by_digest.content
    assert f"sha256:{hashlib.sha256(by_tag.content).hexdigest()}" == digest
    media_type = by_tag.json()["mediaType"]
    for answer, cache in ((by_tag, "public, max-age=60, stale-if-error=86400"), (by_digest, "immutable")):
        assert answer.headers["Content-Type"] == media_type
        assert cache in answer.headers["Cache-Control"]
        assert answer.headers["x-amz-meta-docker-content-digest"] == digest
        assert "Content-Encoding" not in answer.headers
    assert requests.get(f"{base}/tags/list", timeout=10).json() == {"name": "team/app", "tags": ["1.2"]}

    for number, place in enumerate((f"{store.url}/images/web", "s3://images/web")):
        nobody = Seat(seat.folder, store.public_env)
        added = nobody.ask("add", f"from{number}", f"{place}/v2/team/app:1.2")
        assert added["moved"][0]["after"] == digest
        assert nobody.ask("verify", f"from{number}")["holds"]


def test_an_origin_is_a_web_server_like_any_other_and_a_host_like_any_other(
    seat: Seat, ssh: Ssh, url: str, samples: Samples
) -> None:
    seat = Seat(seat.folder, ssh.env)
    image = samples.oci_index
    for number, place in enumerate((url, f"ssh://{ssh.place}/srv/seawall")):
        added = seat.ask("add", f"tree{number}", f"{place}/v2/{image.repository}:{image.tag}")
        assert added["moved"][0]["after"] == image.digest
        assert seat.ask("verify", f"tree{number}")["holds"]


def test_why_a_host_cannot_be_reached_is_one_line(seat: Seat, ssh: Ssh) -> None:
    seat = Seat(seat.folder, ssh.env)
    source = f"ssh://{ssh.place}/srv/seawall/v2/lab/layers:1"
    known = (ssh.folder / "known_hosts").read_text()
    # Real ssh says so in its own words.
    try:
        (ssh.folder / "known_hosts").write_text("")
        unknown = seat.run("add", "tree", source)
        (ssh.folder / "known_hosts").write_text(known)
        refused = seat.run("add", "tree", source.replace("ssh://", "ssh://nobody@"))
    finally:
        (ssh.folder / "known_hosts").write_text(known)
    assert (unknown[0], refused[0]) == (4, 5)
    assert "has a host key that known_hosts does not have" in unknown[2]
    assert "takes none of the keys that ssh offers" in refused[2]
    assert [said.count("\n") for said in (unknown[2], refused[2])] == [1, 1]


def test_a_push_into_a_bucket_that_is_killed_leaves_what_was_served(seat: Seat, store: Store, images: Engine) -> None:
    seat = Seat(seat.folder, {**seat.env, "DOCKER_HOST": images.socket})
    place, folder = "s3://images/killed", "killed/v2/team/app"
    before = seat.ask("push", "app:1.2", place, "--as", "team/app:1")["moved"][0]["after"]
    large_image(images, seat.folder)
    client = store.client()
    served = []
    for wait in (0.0, 0.1, 0.4):
        process = seat.start("push", "app:next", place, "--as", "team/app:1")
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            objects = client.list_objects_v2(Bucket="images", Prefix=f"{folder}/blobs/").get("KeyCount", 0)
            uploads = client.list_multipart_uploads(Bucket="images", Prefix=folder).get("Uploads", ())
            if uploads or objects > 4:
                time.sleep(wait)
                process.kill()
        process.communicate()
        served.append(_served(f"{store.url}/images/{folder}"))
    # The first was killed while it sent its first blob; the others may have got further.
    assert served[0] == before
    after = seat.ask("push", "app:next", place, "--as", "team/app:1")
    assert _served(f"{store.url}/images/{folder}") != before
    assert after["release"] in {None, 2}


def _served(base: str) -> str:
    """Return what the tag names, having fetched every byte of it."""
    manifest = requests.get(f"{base}/manifests/1", timeout=10)
    assert manifest.status_code == 200
    digest = f"sha256:{hashlib.sha256(manifest.content).hexdigest()}"
    assert requests.get(f"{base}/manifests/{digest}", timeout=10).content == manifest.content
    for row in [manifest.json()["config"], *manifest.json()["layers"]]:
        blob = requests.get(f"{base}/blobs/{row['digest']}", timeout=60)
        assert f"sha256:{hashlib.sha256(blob.content).hexdigest()}" == row["digest"]
    assert requests.get(f"{base}/tags/list", timeout=10).json()["tags"] == ["1"]
    return digest
