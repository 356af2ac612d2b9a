"""What one address may ask for, where a site limits it; and a registry that a site names itself."""

import json
import time
from collections.abc import Iterator

import pytest
import requests

from e2e.rollout import Rollout
from lab.images import Samples


@pytest.fixture(scope="module")
def limited(url: str, rollout: Rollout) -> Iterator[str]:
    """The origin, with limits and with one registry only."""
    variables = {
        "origin_request_rate": 5,
        "origin_request_burst": 10,
        "origin_registries": [{"host": "registry.example:5000", "prefix": ""}],
        "origin_default_registry": "",
    }
    run = rollout.play("playbooks/origin.yml", "--extra-vars", json.dumps(variables))
    assert run.code == 0, run.output
    yield url
    assert rollout.play("playbooks/origin.yml").code == 0


def test_who_asks_too_much_is_told_to_wait_and_then_served(limited: str, samples: Samples) -> None:
    time.sleep(4)
    path = f"{limited}/v2/{samples.layers.repository}/manifests/{samples.layers.tag}"
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
def test_a_registry_may_have_its_repositories_under_their_bare_names(ns: str, limited: str, samples: Samples) -> None:
    time.sleep(2)
    path = f"{limited}/v2/{samples.layers.repository}/manifests/{samples.layers.tag}"
    assert requests.get(f"{path}?ns={ns}", timeout=10).status_code == 200
    assert requests.get(f"{path}?ns=docker.io", timeout=10).status_code == 404
    assert requests.get(path, timeout=10).status_code == 200
