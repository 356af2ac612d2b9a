"""Mirrors, with real registries: one of two is killed, and a sync goes on with the other."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lab.images import Sample, Samples
from lab.upstream import Upstream

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def mirrors(tmp_path: Path, samples: Samples) -> Iterator[tuple[Upstream, Upstream]]:
    """Two registries that have the same image as the upstream, below ``cache/``."""
    image = samples.layers
    with (
        Upstream.start(tmp_path / "first", port=5051) as first,
        Upstream.start(tmp_path / "second", port=5052) as second,
    ):
        for mirror in (first, second):
            target = f"docker://{mirror.address}/cache/{image.repository}:{image.tag}"
            options = ("--insecure-policy", "copy", "--all", "--preserve-digests", "--src-tls-verify=false")
            subprocess.run(
                ["skopeo", *options, "--dest-tls-verify=false", f"docker://{image.reference}", target],
                check=True,
                capture_output=True,
            )
        yield first, second


def seawall(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seawall", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(TOP / "tools")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def declare(folder: Path, image: Sample, mirrors: tuple[Upstream, Upstream]) -> None:
    row = {"source": f"docker://{image.upstream}/{image.repository}", "name": image.repository, "tags": [image.tag]}
    document = {"version": 1, "name": "lab", "images": [row | {"plain_http": True}]}
    (folder / "images.yml").write_text(yaml.safe_dump(document))
    tables = (f'[[registry.mirror]]\nlocation = "{one.address}/cache"\ninsecure = true\n' for one in mirrors)
    (folder / "registries.conf").write_text(f'[[registry]]\nlocation = "{image.upstream}"\n{"".join(tables)}')


def test_one_of_two_mirrors_dies_and_all_comes_from_the_other(
    samples: Samples, mirrors: tuple[Upstream, Upstream], upstream: Upstream, tmp_path: Path
) -> None:
    first, second = mirrors
    declare(tmp_path, samples.layers, mirrors)
    conf = ("--registries-conf", tmp_path / "registries.conf")
    locked = seawall("lock", tmp_path / "images.yml", *conf)
    assert locked.returncode == 0, locked.stderr
    first.stop()
    before = upstream.log()
    synced = seawall("sync", tmp_path / "images.lock", tmp_path / "tree", *conf)
    assert synced.returncode == 0, synced.stderr
    assert synced.stderr.count(f"docker://{first.address}/cache/") == 1
    assert "refused the connection; it is left alone" in synced.stderr
    assert "GET /v2/cache/" in second.log()
    assert upstream.log() == before, "the registry itself was not asked"
    assert "all holds" in seawall("verify", tmp_path / "tree").stdout
    assert "cache" not in (tmp_path / "images.lock").read_text()
