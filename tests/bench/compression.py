#!/usr/bin/env python3
"""Compressing layers, against the standard library's zlib and the gzip and pigz commands, where they are installed.

    tests/bench/compression.py FILE [--rounds 3]

FILE is what a layer holds, such as a tar of /usr/lib. It is read into memory once; each way compresses it in turn, and
the median of its times is printed as a ratio to that of zlib at level 6, with the size of the result as a ratio to
zlib's.
"""

import argparse
import functools
import shutil
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from seawall.compression import COMPRESSIONS, Compression, compressed

PIECE = 1024 * 1024
FIRST = "zlib, level 6"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    content = options.file.read_bytes()
    ways = all_ways(options.file)
    times: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, int] = {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            sizes[name] = way(content)
            times[name].append(time.perf_counter() - begun)
    first = statistics.median(times[FIRST])
    print(f"{'':32}{'time':>8}{'size':>8}")
    for name in ways:
        print(f"{name:32}{statistics.median(times[name]) / first:8.2f}{sizes[name] / sizes[FIRST]:8.3f}")


def all_ways(file: Path) -> dict[str, Callable[[bytes], int]]:
    """Return what compresses, by name; each returns the size of its result in bytes."""
    ways: dict[str, Callable[[bytes], int]] = {FIRST: lambda content: len(zlib.compress(content, 6))}
    for command in ("gzip", "pigz"):
        if shutil.which(command):
            ways[f"{command} -6"] = functools.partial(piped, command, file)
    for compression in COMPRESSIONS:
        for workers, name in ((1, "1 thread"), (None, "a thread a core")):
            ways[f"seawall {compression}, {name}"] = functools.partial(ours, compression, workers)
    return ways


def piped(command: str, file: Path, _content: bytes) -> int:
    """Let *command* compress *file*; return the size of what it writes."""
    with subprocess.Popen([command, "-6", "--stdout", str(file)], stdout=subprocess.PIPE) as ran:
        size = 0
        while ran.stdout and (piece := ran.stdout.read(PIECE)):
            size += len(piece)
    if ran.returncode:
        raise subprocess.CalledProcessError(ran.returncode, command)
    return size


def ours(compression: Compression, workers: int | None, content: bytes) -> int:
    """Compress *content* as a source does; return the size of what comes out."""
    pieces = (content[start : start + PIECE] for start in range(0, len(content), PIECE))
    return sum(map(len, compressed(pieces, compression, workers)))


if __name__ == "__main__":
    main()
