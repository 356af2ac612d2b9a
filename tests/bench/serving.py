#!/usr/bin/env python3
"""How fast an origin serves: against bare static files on the same nginx, and against docker-registry on the same data.

    PYTHONPATH=tools:tests .venv/bin/python tests/bench/serving.py [--rounds 5] [--seconds 2] [--connections 64]

Needs root, nginx, wrk, Debian's docker-registry and 1 GB in FOLDER. It starts a registry of its own and fills it, syncs
one tree of 10 tags and one of many from it, and runs an nginx for each with the origin's configuration as Ansible
renders it, and with more servers that serve the same bytes as plain files. All are asked in turn, each for any of
its tags at random, and the medians are printed: of requests per second, of the 99th percentile, and of the processor
time that the server itself took, which does not depend on how fast wrk is. It ends what it started, and leaves
nothing behind.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.sync_speed import MANIFEST_TYPE, Bench, environment, registry, seawall
from lab.rendered import render, run_nginx
from seawall.lock import Lock, LockedImage, Pin, write_lock

FEW = 10
BLOB_BYTES = 16_000_000
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
server {{
    listen 127.0.0.1:{whole};
    root {tree};
}}
"""
# Every request is written out before the clock starts.
SCRIPT = """
wrk.headers["Accept"] = "{accept}"
local requests = {{}}
function init()
    for path in io.lines("{paths}") do
        requests[#requests + 1] = wrk.format("GET", path)
    end
    math.randomseed(1)
end
function request()
    return requests[math.random(#requests)]
end
"""
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass
class Case:
    """Something that is asked for, and what was measured."""

    what: str
    base: str
    """The plain file that it is compared with."""
    rival: str
    """The same of docker-registry; "" where there is none."""
    url: str
    paths: list[str]
    server: int
    """The process that answers, or the parent of those that do."""
    size: int
    """Bytes of an answer."""
    command: list[str] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Requests per second."""
    slowest: list[float] = field(default_factory=list)
    """The 99th percentile, in milliseconds."""
    costs: list[float] = field(default_factory=list)
    """Microseconds of processor time a request."""

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def p99(self) -> float:
        return statistics.median(self.slowest)

    @property
    def cost(self) -> float:
        return statistics.median(self.costs)


def main() -> None:
    """Measure, and print tables and the commands behind them."""
    options = parse()
    with tempfile.TemporaryDirectory(prefix="seawall-bench-", dir=options.folder) as name, ExitStack() as running:
        folder = Path(name)
        folder.chmod(0o755)
        cases = prepare(folder, options, running)
        for case in cases:
            write_script(case, folder, options)
        for number in range(options.rounds + 1):
            for case in cases:
                # The first round only fills caches.
                measure(case, keep=number > 0)
    report(cases)
    print("\ncommands, in turn:")
    for case in cases:
        print(" ", " ".join(case.command).replace(str(folder), "DIR"))


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--tags", type=int, default=100_000, help="of the large tree")
    parser.add_argument("--repositories", type=int, default=1000, help="of the large tree")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to write")  # noqa: S108
    return parser.parse_args()


def prepare(folder: Path, options: argparse.Namespace, running: ExitStack) -> list[Case]:
    """Fill a registry and two trees, start all servers, and return what they are to be asked."""
    host = running.enter_context(registry(folder))
    source = Bench(folder, host, 1.0)
    few = {f"t{number}": source.push("few", f"t{number}", [("layer", BLOB_BYTES)]) for number in range(FEW)}
    blob = source.push_layer("few", "layer", BLOB_BYTES)["digest"]
    images = [LockedImage(name="bench/few", source=f"docker://{host}/few", plain_http=True, tags=few)]
    fill(folder, "few", images)
    names = [f"t{number}" for number in range(options.tags // options.repositories)]
    pins: list[Pin] = []
    images = []
    for number in range(options.repositories):
        pin = source.push(f"many/{number}", str(number), [(f"layer {number}", 1000)])
        pins.append(pin)
        location = f"docker://{host}/many/{number}"
        images.append(
            LockedImage(name=f"bench/{number}", source=location, plain_http=True, tags=dict.fromkeys(names, pin))
        )
    fill(folder, "many", images)

    files = folder / "files"
    files.mkdir()
    shutil.copyfile(folder / "few/v2/bench/few/manifests/t0", files / "manifest")
    shutil.copyfile(folder / "few/v2/bench/few/blobs" / blob, files / "blob")
    size, blob_size = (files / "manifest").stat().st_size, (files / "blob").stat().st_size
    registry_process = child("docker-registry")
    few_nginx = running.enter_context(origin(folder, "few", 18080))
    many_nginx = running.enter_context(origin(folder, "many", 18090))
    static, uncached = "http://127.0.0.1:18081", "http://127.0.0.1:18082"
    few_url, many_url = "http://127.0.0.1:18080", "http://127.0.0.1:18090"

    def paths(repository: str, targets: list[str]) -> list[str]:
        return [f"/v2/{repository}/manifests/{target}" for target in targets]

    few_digests = [str(pin.digest) for pin in few.values()]
    many_tags = [path for number in range(options.repositories) for path in paths(f"bench/{number}", names)]
    many_digests = [path for number, pin in enumerate(pins) for path in paths(f"bench/{number}", [str(pin.digest)])]
    plain, tag, digest = "static manifest", "docker-registry: by tag", "docker-registry: by digest"
    return [
        Case(plain, plain, "", static, ["/manifest"], few_nginx, size),
        Case("static, no open_file_cache", plain, "", uncached, ["/manifest"], few_nginx, size),
        # The tree itself, links and all, as any web server would serve it.
        Case(f"static, {options.tags} tags", plain, "", "http://127.0.0.1:18093", many_tags, many_nginx, size),
        Case(f"by tag, {FEW} tags", plain, tag, few_url, paths("bench/few", list(few)), few_nginx, size),
        Case(f"by digest, {FEW} tags", plain, digest, few_url, paths("bench/few", few_digests), few_nginx, size),
        Case(f"by tag, {options.tags} tags", plain, tag, many_url, many_tags, many_nginx, size),
        Case(f"by digest, {options.tags} tags", plain, digest, many_url, many_digests, many_nginx, size),
        Case(tag, plain, tag, f"http://{host}", paths("few", list(few)), registry_process, size),
        Case(digest, plain, digest, f"http://{host}", paths("few", few_digests), registry_process, size),
        Case("static blob", "static blob", "", static, ["/blob"], few_nginx, blob_size),
        Case(
            "blob",
            "static blob",
            "docker-registry: blob",
            few_url,
            [f"/v2/bench/few/blobs/{blob}"],
            few_nginx,
            blob_size,
        ),
        Case(
            "docker-registry: blob",
            "static blob",
            "docker-registry: blob",
            f"http://{host}",
            [f"/v2/few/blobs/{blob}"],
            registry_process,
            blob_size,
        ),
    ]


def fill(folder: Path, name: str, images: list[LockedImage]) -> None:
    """Make the tree *name* in *folder* serve *images*."""
    lock = folder / f"{name}.lock"
    write_lock(lock, Lock(name=name, images=tuple(images)))
    subprocess.run(seawall(lock, folder / name), check=True, capture_output=True, env=environment())


@contextmanager
def origin(folder: Path, tree: str, port: int) -> Iterator[int]:
    """Run an nginx with the origin's configuration for *tree*, and plain files beside it; yield its master's number."""
    config = folder / f"nginx-{tree}"
    config.mkdir()
    variables = {
        "origin_listen": [f"127.0.0.1:{port}"],
        "nginx_base_log_dir": str(config),
        # A line in a log costs both sides the same, and would hide the difference.
        "nginx_base_access_log": False,
    }
    main_file = render(config, folder / tree, variables)
    static = STATIC.format(
        cached=port + 1, uncached=port + 2, whole=port + 3, folder=folder / "files", tree=folder / tree
    )
    (config / "seawall/static.conf").write_text(static)
    with run_nginx(main_file, f"http://127.0.0.1:{port}/v2/") as master:
        yield master


def write_script(case: Case, folder: Path, options: argparse.Namespace) -> None:
    """Write what wrk is to ask for, and note the command."""
    stem = re.sub(r"\W+", "-", case.what)
    paths, script = folder / f"{stem}.paths", folder / f"{stem}.lua"
    paths.write_text("".join(f"{path}\n" for path in case.paths))
    script.write_text(SCRIPT.format(accept=MANIFEST_TYPE, paths=paths))
    connections, seconds = f"-c{options.connections}", f"-d{options.seconds}s"
    case.command = ["wrk", "-t1", connections, seconds, "--latency", "--timeout=30s", "-s", str(script), case.url]


def measure(case: Case, *, keep: bool) -> None:
    """Put load on *case*; any answer but 2xx ends it all."""
    before = processor_time(case.server)
    printed = subprocess.run(case.command, check=True, capture_output=True, text=True).stdout
    spent = processor_time(case.server) - before
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise SystemExit(f"{case.what}: {printed}")
    if not keep:
        return
    number, unit = re.findall(r"99%\s+([0-9.]+)(us|ms|s)", printed)[0]
    case.slowest.append(float(number) * MILLISECONDS[unit])
    case.rates.append(float(re.findall(r"Requests/sec:\s*([0-9.]+)", printed)[0]))
    case.costs.append(spent / int(re.findall(r"(\d+) requests in", printed)[0]) * 1e6)


def child(name: str) -> int:
    """Return the number of the process *name* that this one started."""
    for number, parent in processes():
        if parent == os.getpid() and Path(f"/proc/{number}/comm").read_text().strip() == name[:15]:
            return number
    raise SystemExit(f"{name} does not run")


def processor_time(server: int) -> float:
    """Return the seconds that *server* and its children have used so far (the kernel's sched-stats: nanoseconds)."""
    spent = 0
    for number, parent in processes():
        if server in {number, parent}:
            for path in Path(f"/proc/{number}/task").glob("*/schedstat"):
                spent += int(path.read_text().split()[0])
    return spent / 1e9


def processes() -> Iterator[tuple[int, int]]:
    """Yield the number of every process, and that of its parent (proc(5), stat)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # It ended meanwhile.


def report(cases: list[Case]) -> None:
    """Print a line a case, with its ratios to the plain file and to docker-registry; and one with what a GB costs."""
    known = {case.what: case for case in cases}
    ratios = f"{'static':>8}{'registry':>10}"
    print(f"{'':28}{'requests/s':>11}{ratios}{'p99 ms':>9}{'us/request':>12}{ratios}")
    for case in cases:
        base, rival = known[case.base], known.get(case.rival)
        by_rate = f"{case.rate / rival.rate:9.1f}x" if rival else f"{'':10}"
        by_cost = f"{rival.cost / case.cost:9.1f}x" if rival else f"{'':10}"
        print(
            f"{case.what:28}{case.rate:11.0f}{case.rate / base.rate:8.2f}{by_rate}{case.p99:9.1f}"
            f"{case.cost:12.1f}{base.cost / case.cost:8.2f}{by_cost}"
        )
    print(f"\n{'':28}{'MB/s':>11}{'CPU s/GB':>12}")
    for case in cases:
        if case.base == "static blob":
            print(f"{case.what:28}{case.rate * case.size / 1e6:11.0f}{case.cost / case.size * 1e3:12.3f}")


if __name__ == "__main__":
    main()
