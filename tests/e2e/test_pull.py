"""Real clients pull from the provisioned origin into empty stores."""

import json
import subprocess

import pytest

from lab.engine import Engine
from lab.images import Sample, Samples

ORIGIN = "198.18.0.11"


def test_an_empty_engine_pulls_by_tag_and_runs(url: str, client_engine: Engine, samples: Samples) -> None:
    assert client_engine.docker("images", "--quiet", "--all") == ""
    reference = f"{ORIGIN}/{samples.layers.repository}:{samples.layers.tag}"
    pulled = client_engine.docker("pull", reference)
    assert f"Digest: {samples.layers.digest}" in pulled
    assert client_engine.docker("run", "--rm", "--pull=never", reference) == samples.layers.output()


@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64"])
def test_an_empty_engine_pulls_by_digest_and_platform(
    platform: str, url: str, client_engine: Engine, samples: Samples
) -> None:
    reference = f"{ORIGIN}/{samples.oci_index.repository}@{samples.oci_index.digest}"
    client_engine.docker("pull", f"--platform={platform}", reference)
    output = client_engine.docker("run", "--rm", "--pull=never", f"--platform={platform}", reference)
    assert output == samples.oci_index.output(platform)


def test_an_image_on_a_debian_root_file_system_is_pulled_and_runs(
    url: str, client_engine: Engine, debian_sample: Sample
) -> None:
    reference = f"{ORIGIN}/{debian_sample.repository}:{debian_sample.tag}"
    assert f"Digest: {debian_sample.digest}" in client_engine.docker("pull", reference)
    assert client_engine.docker("run", "--rm", "--pull=never", reference) == debian_sample.output()


def test_an_unknown_tag_is_an_error_that_docker_understands(url: str, client_engine: Engine) -> None:
    ran = client_engine.call("pull", f"{ORIGIN}/lab/layers:none", check=False)
    assert ran.returncode != 0
    assert "manifest unknown" in ran.stderr


def test_docker_push_is_refused(url: str, client_engine: Engine, samples: Samples) -> None:
    reference = f"{ORIGIN}/{samples.layers.repository}:{samples.layers.tag}"
    client_engine.docker("pull", reference)
    client_engine.docker("tag", reference, f"{ORIGIN}/lab/mine:1")
    ran = client_engine.call("push", f"{ORIGIN}/lab/mine:1", check=False, seconds=120)
    assert ran.returncode != 0
    assert "read only" in ran.stderr + ran.stdout


def skopeo(*arguments: str) -> str:
    ran = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_skopeo_inspects_lists_and_copies_all_platforms(
    url: str, samples: Samples, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = samples.oci_index
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{ORIGIN}/{image.repository}:{image.tag}"))
    assert inspected["RepoTags"] == [image.tag]
    folder = tmp_path_factory.mktemp("copied")
    skopeo(
        *("--insecure-policy", "copy", "--all", "--preserve-digests", "--src-tls-verify=false"),
        *(f"docker://{ORIGIN}/{image.repository}:{image.tag}", f"oci:{folder}:copied"),
    )
    index = json.loads((folder / "index.json").read_text())
    assert index["manifests"][0]["digest"] == image.digest
