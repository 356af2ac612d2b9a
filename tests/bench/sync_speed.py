#!/usr/bin/env python3
"""How fast seawall syncs, against skopeo, from the same registry on loopback.

    PYTHONPATH=tools .venv/bin/python tests/bench/sync_speed.py [--rounds 3] [--scale 1.0] [--folder /var/tmp]

Needs Debian's docker-registry, skopeo and time, and 4 GB in FOLDER. It starts a registry of its own, pushes images that
it makes (the same bytes each time), lets both sides fetch them in turn, and prints the medians, their ratios and the
commands. A tool begins each time with what the case says, and with all earlier writes on the disk. In the end it stops
what it started, and removes what it wrote.
"""

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from seawall.digest import Digest
from seawall.lock import Lock, LockedImage, Pin, write_lock
from seawall.manifest import Descriptor
from seawall.tree import Tree
from seawall.writer import hold

TOOLS = Path(__file__).resolve().parents[2] / "tools"
MB = 1_000_000
IMAGES = 20
SHARED, OWN = [20 * MB] * 4, 20 * MB
"""Sizes of the layers that all images share, and of the one that each has for itself: 20 times 100 MB."""
ALONE = [300 * MB, 50 * MB, 50 * MB]
TAGS, REPOSITORIES = 10_000, 100
BLOB = 1000 * MB
CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "{host}"}}
"""
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Result:
    """What was measured of one command."""

    command: list[str]
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    """The most memory it had at a time."""


class Bench:
    """A folder, a registry that serves from it, and what was measured so far."""

    def __init__(self, folder: Path, host: str, scale: float) -> None:
        self.folder = folder
        self.host = host
        self.scale = scale
        self.results: dict[tuple[str, str], Result] = {}

    def push(self, repository: str, tag: str, layers: list[tuple[str, int]]) -> Pin:
        """Push an image with *layers* (seed and size); return what its tag is to be pinned to."""
        rows = [self.push_layer(repository, seed, int(size * self.scale)) for seed, size in layers]
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "tag": tag}
        config["rootfs"]["diff_ids"] = [row["digest"] for row in rows]  # type: ignore[index]
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self._push_blob(repository, json.dumps(config).encode(), CONFIG_TYPE),
            "layers": rows,
        }
        content = json.dumps(document).encode()
        url = f"http://{self.host}/v2/{repository}/manifests/{tag}"
        requests.put(url, data=content, headers={"Content-Type": MANIFEST_TYPE}, timeout=60).raise_for_status()
        return Pin(digest=Digest.of(content), media_type=MANIFEST_TYPE, size=len(content))

    def push_layer(self, repository: str, seed: str, size: int) -> dict[str, Any]:
        """Push a layer that is made from *seed*, the same bytes each time; return its descriptor."""
        # A gzip member that nothing makes smaller: whoever compresses what is not compressed leaves it as it is.
        dice = random.Random(seed)  # noqa: S311
        plain = b"".join(dice.randbytes(min(MB, size - at)) for at in range(0, size, MB))
        content = gzip.compress(plain, compresslevel=0, mtime=0)
        return self._push_blob(repository, content, LAYER_TYPE)

    def _push_blob(self, repository: str, content: bytes, media_type: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        url = f"http://{self.host}/v2/{repository}/blobs"
        if requests.head(f"{url}/{digest}", timeout=60).status_code != 200:
            upload = requests.post(f"{url}/uploads/", timeout=60)
            upload.raise_for_status()
            query = {"digest": digest}
            requests.put(upload.headers["Location"], params=query, data=content, timeout=600).raise_for_status()
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def lock(self, name: str, repository: str, pins: dict[str, Pin]) -> Path:
        """Write a lock of *pins*, by tag."""
        image = LockedImage(
            name=f"bench/{name}", source=f"docker://{self.host}/{repository}", plain_http=True, tags=pins
        )
        path = self.folder / f"{name}.lock"
        write_lock(path, Lock(name=name, images=(image,)))
        return path

    def measure(self, case: str, who: str, command: list[str]) -> None:
        """Run *command* and note how long it took, and how much memory."""
        result = self.results.setdefault((case, who), Result(command))
        printed = self.folder / "memory"
        # Through time(1): a process that Python starts would count Python's own memory as its own.
        timed = ["/usr/bin/time", "-f", "%M", "-o", str(printed), *command]
        os.sync()
        began = time.monotonic()
        ran = subprocess.run(timed, capture_output=True, text=True, env=environment(), check=False)
        took = time.monotonic() - began
        if ran.returncode:
            raise SystemExit(f"{' '.join(command)}: {ran.stderr}")
        result.seconds.append(took)
        result.megabytes.append(int(printed.read_text()) * 1024 / MB)

    def time(self, case: str, who: str, work: Callable[[], object]) -> None:
        """Run *work* in this process and note how long it took."""
        result = self.results.setdefault((case, who), Result(["in this process:", who]))
        os.sync()
        began = time.monotonic()
        work()
        result.seconds.append(time.monotonic() - began)

    def remove(self, *names: str) -> None:
        """Remove these folders."""
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def main() -> None:
    """Measure, and print a table and the commands behind it."""
    options = parse()
    with tempfile.TemporaryDirectory(prefix="seawall-bench-", dir=options.folder) as name:
        folder = Path(name)
        with registry(folder) as host:
            bench = Bench(folder, host, options.scale)
            fetches(bench, options.rounds)
            additions(bench, options.rounds)
            writes(bench, options.rounds)
    report(bench)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to write")  # noqa: S108
    return parser.parse_args()


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Run a registry that keeps its content in *folder*; yield its host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    config = folder / "registry.yml"
    config.write_text(CONFIG.format(folder=folder / "registry", host=host))
    with subprocess.Popen(["docker-registry", "serve", config], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(f"http://{host}/v2/")
            yield host
        finally:
            process.terminate()


def wait_for(url: str) -> None:
    """Return when *url* answers."""
    for _ in range(100):
        with contextlib.suppress(requests.ConnectionError):
            requests.get(url, timeout=1)
            return
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def environment() -> dict[str, str]:
    """Return the environment of what is measured."""
    return {**os.environ, "PYTHONPATH": str(TOOLS)}


def seawall(lock: Path, tree: Path) -> list[str]:
    """Return the command that syncs *lock* into *tree*."""
    return [sys.executable, "-m", "seawall", "sync", str(lock), str(tree)]


def skopeo_sync(source: str, to: Path) -> list[str]:
    """Return the command that mirrors the repository *source* into the folder *to*."""
    to.mkdir(exist_ok=True)
    options = ["--insecure-policy", "sync", "--src-tls-verify=false", "--src", "docker", "--dest", "dir"]
    return ["skopeo", *options, source, str(to)]


def skopeo_copies(source: str, tags: list[str], to: Path) -> list[str]:
    """Return the command that copies *tags* of *source* one by one into the OCI layout *to*."""
    copy = f"skopeo --insecure-policy copy -q --src-tls-verify=false docker://{source}:$tag oci:{to}:$tag"
    return ["sh", "-ec", f"for tag in {' '.join(tags)}; do {copy}; done"]


def fetches(bench: Bench, rounds: int) -> None:
    """Measure first and second syncs of images that share layers, and of one that shares nothing."""
    shared = [(f"shared {number}", size) for number, size in enumerate(SHARED)]
    tags = [f"t{number}" for number in range(IMAGES)]
    many = bench.lock("many", "many", {tag: bench.push("many", tag, [*shared, (tag, OWN)]) for tag in tags})
    alone = [(f"alone {number}", size) for number, size in enumerate(ALONE)]
    one = bench.lock("one", "one", {"only": bench.push("one", "only", alone)})
    for _ in range(rounds):
        for case, lock, names in (("20 images that share layers", many, tags), ("one image alone", one, ["only"])):
            source = f"{bench.host}/{lock.stem}"
            commands: dict[str, Callable[[], list[str]]] = {
                "seawall": lambda lock=lock: seawall(lock, bench.folder / "tree"),  # type: ignore[misc]
                "skopeo sync": lambda source=source: skopeo_sync(source, bench.folder / "dir"),  # type: ignore[misc]
                "skopeo copy": lambda source=source, names=names: skopeo_copies(  # type: ignore[misc]
                    source, names, bench.folder / "oci"
                ),
            }
            for who, command in commands.items():
                bench.measure(case, who, command())
                # skopeo sync refuses to write into a folder that it filled before.
                if lock is many and who != "skopeo sync":
                    bench.measure("the same again", who, command())
                bench.remove("tree", "dir", "oci")


def additions(bench: Bench, rounds: int) -> None:
    """Measure how long one image more takes: in an empty tree, and in one of many tags."""
    layers = [(f"added {number}", MB) for number in range(3)]
    added = bench.lock("added", "added", {"new": bench.push("added", "new", layers)})
    pin = bench.push("small", "1", [("small", 1000)])
    source = f"docker://{bench.host}/small"
    tags = dict.fromkeys((f"t{number}" for number in range(TAGS // REPOSITORIES)), pin)
    images = [
        LockedImage(name=f"large/{number}", source=source, plain_http=True, tags=tags) for number in range(REPOSITORIES)
    ]
    lock = bench.folder / "large.lock"
    write_lock(lock, Lock(name="large", images=tuple(images)))
    full = bench.folder / "full"
    subprocess.run(seawall(lock, full), check=True, capture_output=True, env=environment())
    for _ in range(max(rounds, 5)):
        bench.measure("one image more", "into an empty tree", seawall(added, bench.folder / "tree"))
        shutil.copytree(full, bench.folder / "copy", symlinks=True)
        bench.measure("one image more", f"into {TAGS} tags", seawall(added, bench.folder / "copy"))
        bench.remove("tree", "copy")


def writes(bench: Bench, rounds: int) -> None:
    """Measure how long it takes to put a large blob into a tree, against hashing it alone and writing it alone."""
    piece = random.Random("blob").randbytes(MB)  # noqa: S311
    pieces = [piece] * int(BLOB * bench.scale / MB)

    def sha256() -> Any:
        hasher = hashlib.sha256()
        for piece in pieces:
            hasher.update(piece)
        return hasher

    def to_tree() -> None:
        with hold(Tree(bench.folder / "tree")) as writer:
            writer.add_blob(blob, pieces, lambda _size: None)

    def to_disk() -> None:
        with (bench.folder / "file").open("wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)
            os.fsync(file.fileno())

    blob = Descriptor("", Digest.parse(f"sha256:{sha256().hexdigest()}"), MB * len(pieces))
    for _ in range(max(rounds, 3)):
        for who, work in (("into the tree", to_tree), ("SHA-256 alone", sha256), ("write and fsync", to_disk)):
            bench.time(f"{blob.size // MB} MB from memory", who, work)
            bench.remove("tree")
            (bench.folder / "file").unlink(missing_ok=True)


def report(bench: Bench) -> None:
    """Print a line a command, with its ratio to the first of its case, and the commands."""
    print(f"{'case':30}{'who':20}{'seconds':>9}  ratio{'MB at most':>12}")
    base: dict[str, float] = {}
    for (case, who), result in bench.results.items():
        took = statistics.median(result.seconds)
        base.setdefault(case, took)
        memory = f"{max(result.megabytes):12.0f}" if result.megabytes else ""
        print(f"{case:30}{who:20}{took:9.2f}  {took / base[case]:5.2f}{memory}")
    print("\ncommands, in turn:")
    for result in bench.results.values():
        print(" ", " ".join(result.command).replace(str(bench.folder), "DIR"))


if __name__ == "__main__":
    main()
