"""Images go from a real engine, and from archives that others wrote, into a tree, and back into an empty engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.engine import Engine
from lab.images import Samples
from seawall.engine import EngineTraits
from seawall.manifest import Platform
from seawall.pulling import EngineState, archive, find_image, parse_wanted, plan_pull
from seawall.reference import parse_location
from seawall.source import Source
from seawall.sources import Sources, opener
from seawall.spool import Spool

TOOLS = Path(__file__).parents[2] / "tools"


def seawall(engine: Engine, *arguments: object) -> str:
    command = [sys.executable, "-m", "seawall", *map(str, arguments)]
    environment = {**engine.env, "PYTHONPATH": str(TOOLS)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def skopeo(*arguments: str) -> str:
    command = ["skopeo", "--insecure-policy", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def image_id(engine: Engine, name: str) -> str:
    return engine.docker("image", "inspect", "--format={{.Id}}", name)


def digests(tree: Path) -> dict[str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "seawall", "ls", tree, "--json"],
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {row["reference"]: row["digest"] for row in json.loads(ran.stdout)}


@pytest.fixture(scope="module")
def tree(engine: Engine, samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that was filled from the engine, with one image of it for each compression."""
    tree = tmp_path_factory.mktemp("engine") / "tree"
    source = f"docker-daemon:{samples.layers.reference}"
    seawall(engine, "add", tree, source, "team/app:gzip")
    seawall(engine, "add", tree, source, "team/app:zstd", "--compression", "zstd")
    seawall(engine, "add", tree, "docker-daemon:lab/busybox")
    return tree


def test_an_image_goes_round_keeps_its_id_and_runs(
    tree: Path, engine: Engine, client_engine: Engine, samples: Samples
) -> None:
    wanted = image_id(engine, samples.layers.reference)
    assert client_engine.docker("images", "--quiet", "--all") == ""
    # First what both are made of: then the lowest layer is there already.
    seawall(client_engine, "pull", tree, "lab/busybox")
    pulled = json.loads(seawall(client_engine, "pull", tree, "team/app:gzip", "--as", "alpine:3", "--json"))
    assert pulled["id"] == wanted == image_id(client_engine, "alpine:3")
    layers = json.loads(client_engine.docker("image", "inspect", "alpine:3"))[0]["RootFS"]["Layers"]
    assert len(pulled["sent"]) == len(layers) - 1
    assert client_engine.docker("run", "--rm", "--pull=never", "alpine:3") == samples.layers.output()
    assert json.loads(seawall(client_engine, "pull", tree, "team/app:zstd", "--json"))["sent"] == []
    client_engine.docker("rmi", "--force", wanted)
    # Debian's Docker 20.10 does not read zstd.
    assert seawall(client_engine, "pull", tree, "team/app:zstd") == f"{wanted}\n"
    assert client_engine.docker("run", "--rm", "--pull=never", "team/app:zstd") == samples.layers.output()


def test_docker_save_and_skopeo_lead_to_the_digest_that_the_engine_leads_to(
    tree: Path, engine: Engine, samples: Samples, tmp_path: Path
) -> None:
    saved, written = tmp_path / "saved.tar", tmp_path / "written.tar"
    engine.docker("save", f"--output={saved}", samples.layers.reference, "lab/busybox")
    skopeo(
        *("copy", "--src-tls-verify=false", f"docker://{samples.layers.reference}"),
        f"docker-archive:{written}:team/app:1.0",
    )
    seawall(engine, "add", tree, f"docker-archive:{saved}:{samples.layers.reference}", "team/app:saved")
    seawall(engine, "add", tree, f"docker-archive:{written}", "team/app:written")
    found = digests(tree)
    assert found["team/app:gzip"] == found["team/app:saved"]
    config = json.loads(seawall(engine, "inspect", tree, "team/app:written", "--json"))["images"][0]["blobs"][0][
        "digest"
    ]
    assert config == image_id(engine, samples.layers.reference)


def test_an_archive_of_a_layout_that_skopeo_wrote_keeps_its_digest(
    tree: Path, engine: Engine, samples: Samples, tmp_path: Path
) -> None:
    image = samples.oci_index
    archive = tmp_path / "layout.tar"
    skopeo(
        *("copy", "--all", "--preserve-digests", "--src-tls-verify=false"),
        *(f"docker://{image.reference}", f"oci-archive:{archive}:{image.tag}"),
    )
    seawall(engine, "add", tree, f"oci-archive:{archive}:{image.tag}", "platforms")
    assert digests(tree)[f"platforms:{image.tag}"] == image.digest
    assert "all holds" in seawall(engine, "verify", tree)


def test_what_the_engine_has_now_is_locked_and_synced(engine: Engine, samples: Samples, tmp_path: Path) -> None:
    name = samples.layers.reference.rpartition(":")[0]
    entry = {"source": f"docker-daemon:{name}", "name": "app", "tags": ["*"]}
    images = json.dumps({"version": "1", "name": "local", "images": [entry]})
    (tmp_path / "images.yml").write_text(images)
    seawall(engine, "lock", tmp_path / "images.yml")
    seawall(engine, "sync", tmp_path / "images.lock", tmp_path / "tree")
    assert set(digests(tmp_path / "tree")) == {f"app:{samples.layers.tag}"}
    again = json.loads(seawall(engine, "sync", tmp_path / "images.lock", tmp_path / "tree", "--json"))
    assert (again["changed"], again["requests"]) == (False, 0)


def test_containerd_takes_what_pull_sends_with_the_trees_own_manifest(
    tree: Path, engine: Engine, tmp_path: Path
) -> None:
    # Engines that keep images in containerd hand the archive on to it; Debian's does not, but has it at its side.
    def open_repository(repository: str) -> Source:
        return Sources(tmp_path, opener()).at(parse_location(f"{tree}/v2/{repository}", "test"), plain_http=False)

    traits = EngineTraits(Platform("linux", "amd64"), reads_zstd=True, keeps_manifests=True)
    state = EngineState(traits, is_there=False, is_named=False, layers=())
    for tag in ("gzip", "zstd"):
        image = find_image(parse_wanted(f"team/app:{tag}"), open_repository, traits.platform, lambda: traits.platform)
        plan = plan_pull(image, f"docker.io/team/app:{tag}", state)
        with (tmp_path / f"{tag}.tar").open("wb") as file:
            file.writelines(archive(plan, traits, Spool(), lambda _: None))
        ctr(engine, "images", "import", str(tmp_path / f"{tag}.tar"))
    listed = {line.split()[0]: line.split()[2] for line in ctr(engine, "images", "ls").splitlines()[1:]}
    found = digests(tree)
    assert listed == {f"docker.io/team/app:{tag}": found[f"team/app:{tag}"] for tag in ("gzip", "zstd")}
    # What it exports is what such an engine's docker save writes: layers that are compressed already.
    exported = tmp_path / "exported.tar"
    ctr(engine, "images", "export", str(exported), "docker.io/team/app:gzip")
    seawall(engine, "add", tree, f"docker-archive:{exported}:team/app:gzip", "team/app:exported")
    assert digests(tree)["team/app:exported"] == found["team/app:gzip"]


def ctr(engine: Engine, *arguments: str) -> str:
    """Talk to the containerd that *engine* started, about images that the engine knows nothing of."""
    folder = Path(engine.socket.removeprefix("unix://")).parent
    command = ["ctr", f"--address={folder}/exec/containerd/containerd.sock", "--namespace=seawall", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
