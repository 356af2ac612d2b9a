"""Verify by URL: whatever a client could not live with is found, and named."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from seawall.errors import ExitCode
from unit.fake_registry import FakeImage, FakeRegistry, Fault
from unit.tool_site import Ran, Site

REFERENCE = "team/app:1.0"


@pytest.fixture
def server(platforms: FakeImage) -> Iterator[FakeRegistry]:
    """A server that does everything right."""
    with FakeRegistry() as server:
        server.add_image("team/app", "1.0", platforms)
        # Like an origin, it is only read.
        server.misbehave(
            Fault(
                method="POST",
                status=405,
                body=b'{"errors":[{"code":"UNSUPPORTED","message":"read only"}]}',
            )
        )
        yield server


def verify(site: Site, server: FakeRegistry, *options: object) -> Ran:
    return site.run("verify", server.url, REFERENCE, "--json", *options)


def test_a_server_that_does_everything_right_holds(site: Site, server: FakeRegistry, platforms: FakeImage) -> None:
    ran = verify(site, server)
    assert ran.answer["failures"] == []
    assert ran.code == ExitCode.OK
    assert ran.answer["manifests"] == 3
    assert ran.answer["blobs"] == 5
    contents = {digest: content for image in platforms.images for digest, content in image.blobs.items()}
    assert ran.answer["size"] >= sum(map(len, contents.values()))
    assert all(server.asked("GET", digest) for digest in contents), "every blob has to be pulled"


FAULTS = {
    "no ping": (Fault(on="/v2/", method="GET", status=404, times=1), "status 404, not 200"),
    "wrong type": (Fault(on="/manifests/1.0", headers={"Content-Type": "text/plain"}), "is not a manifest's"),
    "type of another kind": (
        Fault(on="/manifests/1.0", headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"}),
        "for a oci-index",
    ),
    "charset": (
        Fault(
            on="/manifests/1.0",
            headers={"Content-Type": "application/vnd.oci.image.index.v1+json; charset=utf-8"},
        ),
        "is not a manifest's",
    ),
    "no digest": (Fault(on="/manifests/1.0", without=("Docker-Content-Digest",)), "Docker-Content-Digest None"),
    "wrong digest": (
        Fault(on="/manifests/1.0", headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"}),
        "but the content is sha256:",
    ),
    "HEAD is 404": (Fault(on="/manifests/1.0", method="HEAD", status=404), "status 404, not 200"),
    "gzip": (Fault(on="/manifests/1.0", method="GET", gzip=True), "Content-Encoding 'gzip'"),
    "manifest cut": (Fault(on="/manifests/1.0", method="GET", die_after=20), "/manifests/1.0"),
    "manifest is a page": (Fault(on="/manifests/1.0", method="GET", body=b"<html>"), "is not JSON"),
    "a platform is missing": (Fault(on="/manifests/sha256", method="GET", status=404), "status 404, not 200"),
    "blob is missing": (Fault(on="/blobs/", status=404), "status 404, not 200"),
    "blob has other bytes": (Fault(on="/blobs/", method="GET", wrong_bytes=True), "sends sha256:"),
    "blob is cut": (Fault(on="/blobs/", method="GET", die_after=20), "is cut"),
    "blob never ends": (Fault(on="/blobs/", method="GET", endless=True), "sends more than"),
    "blob is encoded": (Fault(on="/blobs/", method="GET", gzip=True), "Content-Encoding 'gzip'"),
    "wrong length": (Fault(on="/blobs/", method="HEAD", announce=5), "Content-Length"),
    "writes are accepted": (Fault(method="POST", status=202), "status 202, not 405"),
    "an error that is a page": (
        Fault(on="seawall-probe", status=404, body=b"<html>not found</html>"),
        "does not have the code MANIFEST_UNKNOWN",
    ),
    "403 for 404": (Fault(on="seawall-probe", status=403), "status 403, not 404"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_named(name: str, site: Site, server: FakeRegistry) -> None:
    fault, says = FAULTS[name]
    server.faults.insert(0, Fault(**vars(fault)))
    ran = verify(site, server)
    assert ran.code == ExitCode.DOES_NOT_HOLD
    assert any(says in row["what"] or says in row["request"] for row in ran.answer["failures"]), ran.answer


def test_a_wrong_range_is_named(site: Site, server: FakeRegistry) -> None:
    server.faults.insert(0, Fault(on="/blobs/", method="GET", headers={"Content-Range": "bytes 0-15/16"}))
    ran = verify(site, server)
    assert ran.code == ExitCode.DOES_NOT_HOLD
    assert any("Content-Range not 'bytes 1-16/" in row["what"] for row in ran.answer["failures"])


def test_a_lock_is_checked_whole_and_by_digest(site: Site, server: FakeRegistry, registry: FakeRegistry) -> None:
    image = registry.add_image("team/app", "1.0")
    site.declare(
        {"source": f"docker://{registry.host}/team/app", "name": "team/app", "tags": ["1.0"], "plain_http": True}
    )
    assert site.lock().code == 0
    ran = site.run("verify", server.url, "--lock", site.lock_file, "--json")
    assert ran.code == ExitCode.DOES_NOT_HOLD
    assert any(f"not {image.digest}" in row["what"] for row in ran.answer["failures"])


def test_a_tree_is_always_checked_whole(site: Site) -> None:
    ran = site.run("verify", site.root, REFERENCE)
    assert ran.code == ExitCode.INPUT
    assert "leave REPO:TAG, --lock and --client-certificate out" in ran.err


def test_the_verdict_is_a_line_for_people(site: Site, server: FakeRegistry) -> None:
    ran = site.run("verify", server.url, REFERENCE)
    assert ran.out.splitlines()[-1].endswith(": all holds")


def test_a_server_that_asks_for_a_token_is_asked_for_one(site: Site, platforms: FakeImage) -> None:
    with FakeRegistry(auth="bearer") as server:
        server.add_image("team/app", "1.0", platforms)
        server.misbehave(Fault(method="POST", status=405, body=b'{"errors":[{"code":"UNSUPPORTED"}]}'))
        assert verify(site, server).answer["failures"] == []
        # One for the ping and one for the repository, whatever the number of its blobs.
        assert len(server.asked("GET", "/token")) == 2


def test_a_password_is_taken_from_where_docker_login_left_it(
    site: Site, platforms: FakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with FakeRegistry(auth="basic", username="alice", password="alice-knows") as server:
        server.add_image("team/app", "1.0", platforms)
        server.misbehave(Fault(method="POST", status=405, body=b'{"errors":[{"code":"UNSUPPORTED"}]}'))
        refused = verify(site, server)
        assert refused.code == ExitCode.CREDENTIALS
        auth = base64.b64encode(b"alice:alice-knows").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": auth}}}))
        assert verify(site, server).answer["failures"] == []


def test_a_certificate_that_is_not_there_is_named(site: Site, server: FakeRegistry) -> None:
    ran = verify(site, server, "--client-certificate", "nowhere.pem")
    assert ran.code == ExitCode.INPUT
    assert "nowhere.pem" in ran.err
