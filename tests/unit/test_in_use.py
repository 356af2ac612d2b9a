"""What runs somewhere: lists and the JSON of engines and clusters, and nothing that is only guessed."""

import json
from pathlib import Path

import pytest

from seawall.errors import ExitCode, InputError
from seawall.in_use import InUse, parse_in_use
from unit.tool_site import Site

HEX = "ab" * 32
OTHER = "cd" * 32


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("team/app:1.0", InUse("team/app", "1.0")),
        ("images.example:5000/team/app:1.0", InUse("images.example:5000/team/app", "1.0")),
        ("localhost:5000/app", InUse("localhost:5000/app", "latest")),
        ("alpine", InUse("alpine", "latest")),
        (f"team/app:1.0@sha256:{HEX}", InUse(hex=HEX)),
        (f"docker-pullable://h.example/team/app@sha256:{HEX}", InUse(hex=HEX)),
        (f"sha256:{HEX}", InUse(hex=HEX)),
        ("f2a91732366c", InUse("f2a91732366c", "latest", "f2a91732366c")),
        ("  app:1  # of the old cluster", InUse("app", "1")),
    ],
)
def test_a_line_is_a_reference_or_a_digest(line: str, means: InUse) -> None:
    assert parse_in_use(f"# running\n\n{line}\n", "list") == {means}


DOCKER_PS = "\n".join(
    json.dumps({"ID": "1", "Image": image, "Labels": "a=b"}) for image in ("app:1", f"h.example/app@sha256:{HEX}")
)
DOCKER_INSPECT = json.dumps(
    [
        {
            "Image": f"sha256:{HEX}",
            "Config": {"Image": "app:1", "Labels": {"image": "Not a reference!"}, "Env": ["image=x"]},
            "ImageManifestDescriptor": {"digest": f"sha256:{OTHER}"},
        }
    ]
)
CRICTL = json.dumps(
    {
        "containers": [
            {"image": {"image": f"sha256:{HEX}", "userSpecifiedImage": "app:1"}, "imageRef": f"sha256:{OTHER}"}
        ]
    }
)
KUBECTL = json.dumps(
    {
        "kind": "List",
        "items": [
            {
                "metadata": {"annotations": {"image": "what I like"}},
                "spec": {
                    "containers": [{"image": "app:1"}],
                    "initContainers": [{"image": "init:2"}],
                    "volumes": [{"image": {"reference": "data:3"}}],
                },
                "status": {
                    "containerStatuses": [{"image": "app:1", "imageID": f"h.example/app@sha256:{HEX}"}],
                    "ephemeralContainerStatuses": [{"image": "app:1", "imageID": ""}],
                },
            }
        ],
    }
)


# What the runtimes of Kubernetes call an image, after the documentation of its API and the threads in which its
# maintainers show what they see; recorded from no cluster. The engine's own output is what tests/e2e/test_life.py has.
@pytest.mark.parametrize(
    ("image_id", "means"),
    [
        (f"docker-pullable://h.example/app@sha256:{HEX}", InUse(hex=HEX)),
        (f"docker://sha256:{HEX}", InUse(hex=HEX)),
        (f"h.example/app@sha256:{HEX}", InUse(hex=HEX)),
        (f"h.example:5000/app:1@sha256:{HEX}", InUse(hex=HEX)),
        (f"sha256:{HEX}", InUse(hex=HEX)),
        (HEX, InUse(HEX, "latest", HEX)),
    ],
    ids=["docker", "docker, built there", "containerd", "with a tag", "containerd, no digest", "CRI-O"],
)
def test_each_spelling_of_an_image_id_is_understood(image_id: str, means: InUse) -> None:
    status = {"name": "app", "ready": True, "restartCount": 0, "image": "h.example/app:1", "imageID": image_id}
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []}, "status": {"containerStatuses": [status]}}
    pods = json.dumps({"apiVersion": "v1", "kind": "List", "items": [pod], "metadata": {"resourceVersion": ""}})
    assert parse_in_use(pods, "kubectl") == {means, InUse("h.example/app", "1")}
    container = {
        "id": OTHER,
        "podSandboxId": OTHER,
        "metadata": {"name": "app", "attempt": 0},
        "image": {"image": image_id, "annotations": {}, "userSpecifiedImage": "h.example/app:1", "runtimeHandler": ""},
        "imageRef": image_id,
        "imageId": "",
        "state": "CONTAINER_RUNNING",
        "labels": {"io.kubernetes.container.name": "app"},
    }
    assert parse_in_use(json.dumps({"containers": [container]}), "crictl") == {means, InUse("h.example/app", "1")}


@pytest.mark.parametrize(
    ("text", "means"),
    [
        (DOCKER_PS, {InUse("app", "1"), InUse(hex=HEX)}),
        (DOCKER_INSPECT, {InUse("app", "1"), InUse(hex=HEX), InUse(hex=OTHER)}),
        (CRICTL, {InUse("app", "1"), InUse(hex=HEX), InUse(hex=OTHER)}),
        (KUBECTL, {InUse("app", "1"), InUse("init", "2"), InUse("data", "3"), InUse(hex=HEX)}),
        ("[]", set()),
        ('{"items": []}', set()),
        ('{"containers": []}', set()),
        ("# nothing", set()),
    ],
    ids=["docker ps", "docker inspect", "crictl", "kubectl", "no container", "no pod", "no containers", "nothing"],
)
def test_images_are_found_wherever_the_json_has_them(text: str, means: set[InUse]) -> None:
    assert parse_in_use(text, "file") == means


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("app:1\nerror: cannot connect to the server", "file:2: "),
        ("json\njson\n", "file:1: 'json' is what docker before 23 prints; write --format '{{json .}}'"),
        ("sha256:abc", "no digest"),
        (f"app@sha512:{HEX}", "no digest"),
        ('{"items": [', "is not JSON to its end"),
        ('{"Image": "app:1"}\n{"Ima', "is not JSON to its end"),
        ('{"error": "no such host"}', "names no image in its row 1"),
        ('[{"Image": "app:1"}, {}]', "names no image in its row 2"),
        ('{"items": null}', "holds no list"),
        ('["app:1"]', "names no image"),
        ('[{"Image": "two words"}]', "'two words'"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_not_understood_never_means_that_nothing_runs(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_in_use(text, "file")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "repository", "expected"),
    [
        ("h.example:5000/team/app", "team/app", True),
        ("alpine", "docker.io/library/alpine", True),
        ("docker.io/library/alpine", "docker.io/library/alpine", True),
        ("h.example/team/myapp", "app", False),
        ("team/app", "team/application", False),
        ("", "app", False),
    ],
)
def test_a_name_may_be_a_repositorys_where_one_ends_in_the_other(name: str, repository: str, expected: bool) -> None:
    assert InUse(name, "1").may_be(repository) is expected


def test_a_file_that_cannot_be_read_ends_a_prune(site: Site, tmp_path: Path) -> None:
    for folder in ("v2", "content"):
        (site.root / folder).mkdir(parents=True)
    (tmp_path / "latin1").write_bytes(b"caf\xe9:1")
    for file in ("none", "latin1", "."):
        ran = site.run("prune", site.root, "--in-use", tmp_path / file)
        assert ran.code == ExitCode.INPUT
        assert str(tmp_path / file) in ran.err
