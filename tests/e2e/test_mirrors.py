"""One host as a mirror of many registries: whose repository is meant is said in ?ns=, or not at all."""

from collections.abc import Iterator

import pytest
import requests

from lab.host import Host
from lab.images import Sample, Samples

AS_OWNER = ("runuser", "-u", "seawall", "--")
TREE = "/srv/seawall"
HUB = "docker.io/library/mirrored"
TWICE = "ghcr.io/lab/layers"


@pytest.fixture(scope="module")
def mirrored(url: str, host: Host, samples: Samples) -> Iterator[Sample]:
    """An image that the tree has under the full names of two registries, and under its bare name."""
    image = samples.layers
    names = [f"{HUB}:{image.tag}", f"{TWICE}:{image.tag}"]
    for name in names:
        host.run(*AS_OWNER, "seawall", "add", TREE, f"docker://{image.reference}", name, "--plain-http")
    # The same name at two registries: here it means another image.
    host.run(*AS_OWNER, "seawall", "tag", TREE, names[1], "only-there")
    try:
        yield image
    finally:
        host.run(*AS_OWNER, "seawall", "rm", TREE, *names, f"{TWICE}:only-there")


def ask(url: str, repository: str, rest: str, ns: str = "") -> requests.Response:
    return requests.get(f"{url}/v2/{repository}/{rest}" + (f"?ns={ns}" if ns else ""), timeout=10)


def test_a_registry_that_is_named_is_looked_below(url: str, mirrored: Sample) -> None:
    answer = ask(url, "library/mirrored", f"manifests/{mirrored.tag}", "docker.io")
    assert answer.status_code == 200
    assert answer.headers["Docker-Content-Digest"] == mirrored.digest
    config = answer.json()["config"]["digest"]
    assert ask(url, "library/mirrored", f"manifests/{mirrored.digest}", "docker.io").status_code == 200
    assert ask(url, "library/mirrored", f"blobs/{config}", "docker.io").headers["Docker-Content-Digest"] == config
    assert ask(url, "library/mirrored", "tags/list", "docker.io").json()["tags"] == [mirrored.tag]
    assert ask(url, "library/mirrored", f"referrers/{mirrored.digest}", "docker.io").status_code == 200
    assert ask(url, "library/mirrored", f"manifests/{mirrored.tag}", "ghcr.io").status_code == 404


@pytest.mark.parametrize(
    "rest", ["manifests/1.0", f"blobs/sha256:{'0' * 64}", "tags/list", f"referrers/sha256:{'0' * 64}"]
)
def test_a_registry_that_nobody_configured_is_not_found(rest: str, url: str, mirrored: Sample) -> None:
    for ns in ("elsewhere.example", "-", "docker.io/", "..", "%2e%2e", "docker.io%00"):
        for repository in (mirrored.repository, "library/mirrored", HUB):
            answer = ask(url, repository, rest, ns)
            assert answer.status_code == 404, ns
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.json()["errors"][0]["code"].endswith("_UNKNOWN")


def test_a_mirror_never_gives_what_another_registry_has_under_that_name(url: str, mirrored: Sample) -> None:
    assert ask(url, "lab/layers", "manifests/only-there", "ghcr.io").status_code == 200
    assert ask(url, "lab/layers", "manifests/only-there", "docker.io").status_code == 404
    assert ask(url, "lab/layers", f"manifests/{mirrored.tag}", "docker.io").status_code == 404
    assert ask(url, "lab/layers", "manifests/only-there").status_code == 404


def test_without_a_registry_the_bare_name_counts_first_and_the_default_second(url: str, mirrored: Sample) -> None:
    for repository in (mirrored.repository, HUB, "library/mirrored"):
        answer = ask(url, repository, f"manifests/{mirrored.tag}")
        assert answer.headers["Docker-Content-Digest"] == mirrored.digest
        config = answer.json()["config"]["digest"]
        for rest, status in (
            (f"manifests/{mirrored.digest}", 200),
            (f"blobs/{config}", 200),
            (f"referrers/{mirrored.digest}", 200),
            ("manifests/none", 404),
            (f"manifests/sha256:{'0' * 64}", 404),
        ):
            assert ask(url, repository, rest).status_code == status, rest
    for rest in ("manifests/1.0", "tags/list", f"referrers/{mirrored.digest}", f"blobs/{config}"):
        assert ask(url, "nobodys/image", rest).status_code == 404
    listed = ask(url, "library/mirrored", "tags/list")
    assert listed.json() == {"name": HUB, "tags": [mirrored.tag]}


def test_a_link_of_a_mirrored_list_leads_on_in_the_same_registry(url: str, mirrored: Sample) -> None:
    answer = requests.get(f"{url}/v2/lab/layers/tags/list?n=1&ns=ghcr.io", timeout=10)
    following = answer.headers["Link"].partition("<")[2].partition(">")[0]
    assert following.endswith("&ns=ghcr.io")
    assert requests.get(url + following, timeout=10).json()["tags"] == ["only-there"]
