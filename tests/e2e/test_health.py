"""Whether an origin wants requests, as balancers ask it. The configuration is the role's, without its host."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lab.rendered import render, run_nginx

URL = "http://127.0.0.1:18086"


@pytest.fixture(scope="module")
def drain_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that takes the origin out of service; the origin has a private namespace, and a limit of requests."""
    folder = tmp_path_factory.mktemp("health")
    (folder / "tree/v2").mkdir(parents=True)
    variables = {
        "origin_listen": [URL.removeprefix("http://")],
        "origin_drain_file": str(folder / "drained"),
        "origin_request_rate": 1,
        "origin_request_burst": 1,
        "origin_namespaces": [{"prefix": "team-a", "access": "address", "addresses": ["192.0.2.0/24"]}],
        # pytest's folders are closed to all others.
        "nginx_base_user": "root",
        "nginx_base_log_dir": str(folder),
    }
    with run_nginx(render(folder, folder / "tree", variables), f"{URL}/v2/"):
        yield folder / "drained"


def test_it_is_ready_until_it_is_drained_and_each_is_seen_at_once(drain_file: Path) -> None:
    with requests.Session() as session:
        for _ in range(20):
            ready = session.get(f"{URL}/health", timeout=10)
            assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
            drain_file.touch()
            drained = session.get(f"{URL}/health", timeout=10)
            assert (drained.status_code, drained.json()) == (503, {"status": "drained"})
            assert {answer.headers["Content-Type"] for answer in (ready, drained)} == {"application/json"}
            assert {answer.headers["Cache-Control"] for answer in (ready, drained)} == {"no-store"}
            drain_file.unlink()


def test_a_drained_origin_goes_on_answering(drain_file: Path) -> None:
    drain_file.touch()
    try:
        assert requests.get(f"{URL}/v2/", timeout=10).status_code == 200
    finally:
        drain_file.unlink()


def test_its_errors_are_those_of_every_other_path(drain_file: Path) -> None:
    refused = requests.post(f"{URL}/health", data=b"x" * 100_000, timeout=10)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (405, "UNSUPPORTED")
    assert requests.get(f"{URL}/health", data=b"x" * 100_000, timeout=10).json() == {"status": "ready"}
    assert requests.get(f"{URL}/_drained", timeout=10).status_code == 404
    assert "/health" not in (drain_file.parent / "access.log").read_text()
