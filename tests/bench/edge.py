#!/usr/bin/env python3
"""What an edge's hit costs: against a bare proxy_cache of the same nginx, and against Varnish, in front of one origin.

    PYTHONPATH=tools:tests .venv/bin/python tests/bench/edge.py [--rounds 5] [--seconds 2] [--connections 64]

Needs root, nginx and wrk, and takes Debian's varnish along where it is installed. It makes a tree with one image,
serves it by an origin as Ansible renders it, and puts an edge, a bare nginx and Varnish before that. All are asked in
turn for the same things, which they have all asked for before, and the medians are printed, with their ratios. It ends
what it started, and leaves nothing behind.
"""

import argparse
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.serving import Case, measure, write_script
from e2e.edge_site import add_image, digest_of, make_blob, make_edge, make_origin, running
from lab.rendered import run_nginx

BLOBS = {"blob of 64 kB": 64_000, "blob of 16 MB": 16_000_000}
ORIGIN, EDGE, BARE, VARNISH = 18080, 18180, 18085, 18086
BARE_CONFIG = """\
user root;
worker_processes 2;
worker_rlimit_nofile 16384;
pid /run/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    open_file_cache max=4096 inactive=60s;
    open_file_cache_valid 1s;
    open_file_cache_min_uses 1;
    proxy_cache_path {folder}/cache levels=1:2 use_temp_path=off keys_zone=bare:10m max_size=1g;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{origin};
            proxy_cache bare;
            proxy_cache_valid 200 1h;
            proxy_ignore_headers Cache-Control;
        }}
    }}
}}
"""
VCL = """\
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{origin}"; }}
sub vcl_backend_response {{ set beresp.ttl = 1h; }}
"""


def main() -> None:
    """Measure, and print a table and the commands behind it."""
    options = parse()
    with tempfile.TemporaryDirectory(prefix="seawall-bench-", dir=options.folder) as name, ExitStack() as stack:
        folder = Path(name)
        # Varnish reads its VCL as an account of its own.
        folder.chmod(0o755)
        cases = prepare(folder, stack)
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
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to write")  # noqa: S108
    return parser.parse_args()


def prepare(folder: Path, stack: ExitStack) -> list[Case]:
    """Start all servers, and return what they are to be asked."""
    blobs = {what: make_blob(size, size) for what, size in BLOBS.items()}
    digest = add_image(folder / "tree", "bench/app", "1.0", list(blobs.values()))
    stack.enter_context(running(make_origin(folder / "origin", ORIGIN, folder / "tree", nginx_base_access_log=False)))
    edge = make_edge(
        folder / "edge", EDGE, [f"http://127.0.0.1:{ORIGIN}"], edge_tag_max_age=3600, nginx_base_access_log=False
    )
    servers = {
        "edge": (EDGE, stack.enter_context(run_nginx(edge.main_file, f"{edge.url}/health"))),
        "bare": (BARE, stack.enter_context(bare(folder / "bare"))),
    }
    if shutil.which("varnishd"):
        servers["varnish"] = (VARNISH, stack.enter_context(varnish(folder / "varnish")))
    paths = {
        "manifest by tag": ("/v2/bench/app/manifests/1.0", 600),
        "manifest by digest": (f"/v2/bench/app/manifests/{digest}", 600),
        **{what: (f"/v2/bench/app/blobs/{digest_of(blob)}", len(blob)) for what, blob in blobs.items()},
    }
    return [
        Case(f"{name}: {what}", f"bare: {what}", f"varnish: {what}", f"http://127.0.0.1:{port}", [path], process, size)
        for what, (path, size) in paths.items()
        for name, (port, process) in servers.items()
    ]


@contextmanager
def bare(folder: Path) -> Iterator[int]:
    """Run an nginx with a cache and nothing else; yield its master's number."""
    folder.mkdir()
    main_file = folder / "nginx.conf"
    main_file.write_text(BARE_CONFIG.format(folder=folder, port=BARE, origin=ORIGIN))
    with run_nginx(main_file, f"http://127.0.0.1:{BARE}/v2/") as master:
        yield master


@contextmanager
def varnish(folder: Path) -> Iterator[int]:
    """Run Varnish with all in memory; yield its number."""
    folder.mkdir()
    (folder / "vcl").write_text(VCL.format(origin=ORIGIN))
    command = ["varnishd", "-F", "-n", f"{folder}/state", "-a", f"127.0.0.1:{VARNISH}", "-f", f"{folder}/vcl"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "-s", "malloc,256m"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{VARNISH}/v2/", timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit((folder / "log").read_text()) from None
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def report(cases: list[Case]) -> None:
    """Print a line a case, with its ratios to the bare nginx and to Varnish."""
    known = {case.what: case for case in cases}
    print(f"{'':32}{'requests/s':>11}{'bare':>7}{'varnish':>9}{'MB/s':>9}{'p99 ms':>9}{'us/request':>12}{'bare':>7}")
    for case in cases:
        base, rival = known[case.base], known.get(case.rival)
        by_rival = f"{case.rate / rival.rate:9.2f}" if rival else f"{'':9}"
        print(
            f"{case.what:32}{case.rate:11.0f}{case.rate / base.rate:7.2f}{by_rival}{case.rate * case.size / 1e6:9.0f}"
            f"{case.p99:9.1f}{case.cost:12.1f}{base.cost / case.cost:7.2f}"
        )


if __name__ == "__main__":
    main()
