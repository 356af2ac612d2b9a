"""A tree as plain files: Apache, Caddy and a bare nginx serve what `seawall export` writes, and clients pull it."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from e2e.rollout import TOP
from lab.command import run
from lab.engine import Engine
from lab.images import Sample, Samples
from lab.network import Network
from lab.web import SERVERS, serve


@dataclass(frozen=True)
class Served:
    """A directory, and where it is served."""

    folder: Path
    url: str

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")


def seawall(*arguments: object) -> str:
    """Run the tool of the checkout, which has to succeed."""
    return run(
        [sys.executable, "-m", "seawall", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(TOP / "tools")},
    ).stdout


@pytest.fixture(scope="module")
def tree(samples: Samples, lab_folder: Path) -> Path:
    """A tree with every kind of manifest, under tags that mean something to web servers."""
    root = lab_folder / "export" / "tree"
    root.parent.mkdir()
    for sample in samples:
        seawall("add", root, f"docker://{sample.reference}", sample.repository, "--plain-http")
    for tag in ("1.html", "1.gz", "1.cgi", "1.utf8"):
        seawall("tag", root, f"{samples.layers.repository}:{samples.layers.tag}", tag)
    return root


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, tree: Path, lab_network: Network) -> Iterator[Served]:
    """What was exported for a server, and that server."""
    folder = tree.parent / request.param
    seawall("export", tree, folder, "--for", request.param)
    with serve(request.param, folder, tree.parent / f"state-{request.param}", lab_network.gateway) as url:
        yield Served(folder, url)


def test_each_file_is_answered_with_the_headers_of_headers_json(served: Served) -> None:
    rows = json.loads((served.folder / "headers.json").read_text())["files"]
    assert len(rows) > 30
    for row in rows:
        for method in ("GET", "HEAD"):
            asked = {"Accept": row["headers"]["Content-Type"], "Accept-Encoding": "gzip"}
            answer = requests.request(method, f"{served.url}/{row['path']}", headers=asked, timeout=10)
            assert answer.status_code == 200, row["path"]
            assert {name: answer.headers.get(name) for name in row["headers"]} == row["headers"], row["path"]
            assert answer.headers["Content-Length"] == str(row["size"])
            assert "Content-Encoding" not in answer.headers
            assert method == "HEAD" or answer.content == (served.folder / row["path"]).read_bytes()


def test_it_says_what_a_registry_says(served: Served, samples: Samples) -> None:
    ping = requests.get(f"{served.url}/v2/", timeout=10)
    assert (ping.status_code, ping.text) == (200, "{}")
    assert ping.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert requests.get(f"{served.url}/v2", timeout=10).url == f"{served.url}/v2/"
    base = f"{served.url}/v2/{samples.layers.repository}"
    for path in ("manifests/none", f"blobs/sha256:{'0' * 64}", f"referrers/sha256:{'0' * 64}"):
        answer = requests.get(f"{base}/{path}", timeout=10)
        assert answer.status_code == 404
        assert json.loads(answer.text)["errors"][0]["code"] == "MANIFEST_UNKNOWN"
    assert requests.put(f"{base}/manifests/1.0", timeout=10).status_code == 405
    blob = next((served.folder / "v2" / samples.layers.repository / "blobs").glob("sha256:*"))
    part = requests.get(f"{base}/blobs/{blob.name}", headers={"Range": "bytes=1-3"}, timeout=10)
    assert (part.status_code, part.content) == (206, blob.read_bytes()[1:4])


def test_real_clients_pull(served: Served, samples: Samples, client_engine: Engine, tmp_path: Path) -> None:
    for number, sample in enumerate(samples):
        reference = f"docker://{served.host}/{sample.repository}:{sample.tag}"
        copied = ["skopeo", "--insecure-policy", "copy", "--all", "--src-tls-verify=false"]
        run([*copied, reference, f"dir:{tmp_path / str(number)}"])
    for sample in (samples.layers, samples.oci_index):
        assert f"Digest: {sample.digest}" in client_engine.docker("pull", named(served, sample))
        assert client_engine.docker("run", "--rm", "--pull=never", named(served, sample)) == sample.output()
    tagged = f"{served.host}/{samples.layers.repository}:1.html"
    assert f"Digest: {samples.layers.digest}" in client_engine.docker("pull", tagged)


def named(served: Served, sample: Sample) -> str:
    return f"{served.host}/{sample.repository}:{sample.tag}"


def test_blobs_come_from_elsewhere(served: Served, tree: Path, samples: Samples, tmp_path: Path) -> None:
    kind = served.folder.name
    folder = tree.parent / f"{kind}-documents"
    seawall("export", tree, folder, "--for", kind, "--blobs", served.url)
    assert not list(folder.rglob("blobs/sha256:*"))
    with serve(kind, folder, tree.parent / f"state-{kind}-documents") as url:
        source = f"docker://{url.removeprefix('http://')}/{samples.layers.repository}:{samples.layers.tag}"
        run(["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", source, f"dir:{tmp_path}"])
