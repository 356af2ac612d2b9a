"""What one address may ask for where a site limits it, and registries as a site names them.

The origin of the other tests has no such settings; here the configuration is the role's, without its host.
"""

import time
from collections.abc import Iterator

import pytest
import requests

from lab.rendered import render, run_nginx
from seawall.manifest import parse_manifest
from seawall.media_type import OCI_MANIFEST
from seawall.tree import StoredManifest, Tree
from seawall.writer import hold

URL = "http://127.0.0.1:18083"
MANIFEST = b'{"schemaVersion":2,"config":{"mediaType":"application/x","digest":"sha256:%s","size":0},"layers":[]}' % (
    b"0" * 64
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a manifest is, on an origin with limits and with one registry only."""
    folder = tmp_path_factory.mktemp("limits")
    with hold(Tree(folder / "tree")) as writer:
        manifest = parse_manifest(MANIFEST, "here", OCI_MANIFEST.media_type)
        writer.add_manifest(manifest)
        writer.link_manifest("lab/app", "1.0", StoredManifest(manifest.digest, manifest.kind))
    variables = {
        "origin_listen": [URL.removeprefix("http://")],
        "origin_request_rate": 5,
        "origin_request_burst": 10,
        "origin_registries": [{"host": "registry.example:5000", "prefix": ""}],
        "origin_default_registry": "",
        # pytest's folders are closed to all others.
        "nginx_base_user": "root",
        "nginx_base_log_dir": str(folder),
    }
    with run_nginx(render(folder, folder / "tree", variables), f"{URL}/v2/"):
        yield f"{URL}/v2/lab/app/manifests/1.0"


def test_who_asks_too_much_is_told_to_wait_and_then_served(path: str) -> None:
    with requests.Session() as session:
        answers = [session.get(path, timeout=10) for _ in range(100)]
        assert {answer.status_code for answer in answers[:10]} == {200}
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {answer.status_code for answer in refused} == {429}
        for answer in refused:
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
        time.sleep(int(refused[0].headers["Retry-After"]))
        assert session.get(path, timeout=10).status_code == 200


@pytest.mark.parametrize("ns", ["registry.example:5000", "registry.example%3A5000", "registry.example%3a5000"])
def test_a_registry_may_have_its_repositories_under_their_bare_names(ns: str, path: str) -> None:
    time.sleep(1)
    assert requests.get(f"{path}?ns={ns}", timeout=10).status_code == 200
    assert requests.get(f"{path}?ns=docker.io", timeout=10).status_code == 404
    assert requests.get(path, timeout=10).status_code == 200
