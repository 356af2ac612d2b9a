#!/usr/bin/env python3
"""Manifests by tag and by digest, and blobs, against bare static files on the same nginx.

    tests/bench/manifest_by_tag.py [--rounds 5] [--seconds 2] [--connections 64]

Needs an origin on this machine (``make up``), nginx and wrk. It runs a second nginx on loopback, from a copy of the
origin's own configuration with two servers more that serve the same bytes as plain files, asks all of them in turn,
and prints the ratio of the medians: of requests per second, and of the processor time that nginx took for a request,
which does not depend on how fast wrk is. It ends what it started, and leaves nothing behind.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ORIGIN_PORT, STATIC_PORT, UNCACHED_PORT = 18080, 18081, 18082
STATIC = """
server {{
    listen 127.0.0.1:{cached};
    root {folder};
}}
server {{
    listen 127.0.0.1:{uncached};
    open_file_cache off;
    root {folder};
}}
"""


def main() -> None:
    """Measure, and print a table and the commands behind it."""
    options = parse()
    reference = find_reference(options.tree)
    with (
        tempfile.TemporaryDirectory(prefix="seawall-bench-") as name,
        second_nginx(Path(name), options.tree) as started,
    ):
        folder, nginx = started
        repository, tag, digest, blob = reference
        for file, target in (("manifest", f"manifests/{tag}"), ("blob", f"blobs/{blob}")):
            shutil.copyfile(options.tree / "v2" / repository / target, folder / file)
        origin = f"http://127.0.0.1:{ORIGIN_PORT}/v2/{repository}"
        static, uncached = f"http://127.0.0.1:{STATIC_PORT}", f"http://127.0.0.1:{UNCACHED_PORT}"
        urls = {
            "static manifest": f"{static}/manifest",
            "static manifest, no open_file_cache": f"{uncached}/manifest",
            "manifest by tag": f"{origin}/manifests/{tag}",
            "manifest by digest": f"{origin}/manifests/{digest}",
            "static blob": f"{static}/blob",
            "blob": f"{origin}/blobs/{blob}",
        }
        found: dict[str, list[tuple[float, float]]] = {what: [] for what in urls}
        for _ in range(options.rounds):
            for what, url in urls.items():
                found[what].append(measure(command(url, options), nginx))
    report(
        {
            what: (statistics.median(r for r, _ in row), statistics.median(c for _, c in row))
            for what, row in found.items()
        }
    )
    print("\ncommands, in turn:")
    for url in urls.values():
        print(" ", " ".join(command(url, options)))


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--tree", type=Path, default=Path("/srv/seawall"))
    return parser.parse_args()


def find_reference(tree: Path) -> tuple[str, str, str, str]:
    """Return repository, tag, digest and a blob of the first image in *tree*."""
    listed = json.loads(subprocess.run(["seawall", "ls", tree, "--json"], check=True, capture_output=True).stdout)
    repository, _, tag = listed[0]["reference"].rpartition(":")
    shown = subprocess.run(
        ["seawall", "inspect", tree, listed[0]["reference"], "--json"], check=True, capture_output=True
    ).stdout
    blobs = json.loads(shown)["images"][0]["blobs"]
    return repository, tag, listed[0]["digest"], max(blobs, key=lambda row: row["size"])["digest"]


@contextmanager
def second_nginx(folder: Path, tree: Path) -> Iterator[tuple[Path, int]]:
    """Run an nginx like the origin's on other ports; yield the folder of the plain files, and the master's number."""
    config, files = folder / "nginx", folder / "files"
    shutil.copytree("/etc/nginx", config, symlinks=True)
    files.mkdir()
    folder.chmod(0o755)
    main_file, server = config / "nginx.conf", config / "seawall" / "origin.conf"
    edit(main_file, r"^pid .*;$", f"pid {folder}/nginx.pid;")
    edit(main_file, r"/var/log/nginx", str(folder))
    # A line in a log costs both sides the same, and would hide the difference.
    edit(main_file, r"^(\s*)access_log .*;$", r"\1access_log off;")
    edit(server, r"^(\s*)listen .*;$", rf"\1listen 127.0.0.1:{ORIGIN_PORT};")
    if str(tree) not in server.read_text():
        raise SystemExit(f"the origin of this machine does not serve {tree}")
    (config / "seawall" / "bench.conf").write_text(
        STATIC.format(cached=STATIC_PORT, uncached=UNCACHED_PORT, folder=files)
    )
    nginx = subprocess.Popen(["nginx", "-c", main_file, "-g", "daemon off;"])
    try:
        wait_for(f"http://127.0.0.1:{ORIGIN_PORT}/v2/")
        yield files, nginx.pid
    finally:
        nginx.terminate()
        nginx.wait()


def edit(path: Path, pattern: str, by: str) -> None:
    """Replace *pattern* in the file *path*, where it has to be."""
    text, count = re.subn(pattern, by, path.read_text(), flags=re.MULTILINE)
    if not count:
        raise SystemExit(f"{path} has nothing like {pattern}: is it an origin's?")
    path.write_text(text)


def wait_for(url: str) -> None:
    """Return when *url* answers."""
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{url} does not answer")


def command(url: str, options: argparse.Namespace) -> list[str]:
    """Return the command that loads *url*."""
    return ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s", url]


def measure(arguments: list[str], nginx: int) -> tuple[float, float]:
    """Return requests per second, and microseconds of nginx's processor time for one.

    Any answer but 2xx ends it all.
    """
    before = processor_time(nginx)
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    spent = processor_time(nginx) - before
    if "Non-2xx" in printed:
        raise SystemExit(printed)
    requests = int(re.findall(r"(\d+) requests in", printed)[0])
    return float(re.findall(r"Requests/sec:\s*([0-9.]+)", printed)[0]), spent / requests * 1e6


def processor_time(master: int) -> float:
    """Return the seconds that the workers of *master* have used so far (proc(5), stat, fields 14 and 15)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It ended meanwhile.
        if int(fields[1]) == master:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def report(found: dict[str, tuple[float, float]]) -> None:
    """Print a line a measurement, with its ratios to the static file."""
    print(f"{'what':40}{'requests/s':>12}  ratio{'us/request':>14}  ratio")
    for what, (rate, cost) in found.items():
        base_rate, base_cost = found["static blob" if "blob" in what else "static manifest"]
        print(f"{what:40}{rate:12.0f}  {rate / base_rate:5.2f}{cost:14.1f}  {base_cost / cost:5.2f}")


if __name__ == "__main__":
    main()
