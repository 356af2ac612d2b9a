#!/usr/bin/env python3
"""How fast an endpoint redirects: against a bare `return 307` of the same nginx.

    PYTHONPATH=tools:tests .venv/bin/python tests/bench/endpoint.py [--rounds 5] [--seconds 2] [--connections 64]

Needs root, nginx and wrk. It runs an endpoint of few namespaces and one of many, each as Ansible renders it, and beside
the first, in the same nginx, a server that answers everything with such a redirect. They are asked in turn, each for
any of its namespaces at random, and the medians are printed. It ends what it started, and leaves nothing behind.
"""

import argparse
import re
import tempfile
from pathlib import Path

from bench.serving import Case, measure, write_script
from lab.rendered import render_endpoint, run_nginx

FEW = 10
BARE = """
server {
    listen 127.0.0.1:18075;
    location / {
        add_header Docker-Distribution-Api-Version registry/2.0;
        add_header X-Content-Type-Options nosniff;
        add_header Cache-Control "public, max-age=60";
        return 307 https://cdn.example$uri;
    }
}
"""
BLOB = "blobs/sha256:" + "0123456789abcdef" * 4


def main() -> None:
    """Measure, and print a table and the commands behind it."""
    options = parse()
    with tempfile.TemporaryDirectory(prefix="seawall-bench-", dir=options.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)
        few = configure(folder / "few", FEW, 18076)
        many = configure(folder / "many", options.namespaces, 18077)
        (folder / "few/seawall/bare.conf").write_text(BARE)
        with (
            run_nginx(few, "http://127.0.0.1:18076/health") as one,
            run_nginx(many, "http://127.0.0.1:18077/health") as two,
        ):
            cases = [
                Case("bare return 307", "bare return 307", "", "http://127.0.0.1:18075", paths(FEW, BLOB), one, 0),
                Case(
                    f"blobs, {FEW} namespaces",
                    "bare return 307",
                    "",
                    "http://127.0.0.1:18076",
                    paths(FEW, BLOB),
                    one,
                    0,
                ),
                Case(
                    *(f"tags, {FEW} namespaces", "bare return 307", "", "http://127.0.0.1:18076"),
                    *(paths(FEW, "manifests/1.0"), one, 0),
                ),
                Case(
                    *(f"blobs, {options.namespaces} namespaces", "bare return 307", "", "http://127.0.0.1:18077"),
                    *(paths(options.namespaces, BLOB), two, 0),
                ),
            ]
            for case in cases:
                write_script(case, folder, options)
            for number in range(options.rounds + 1):
                for case in cases:
                    # The first round only warms up.
                    measure(case, keep=number > 0)
        bare = cases[0]
        print(f"{'':24}{'requests/s':>11}{'bare':>7}{'p99 ms':>9}{'us/request':>12}{'bare':>7}")
        for case in cases:
            print(
                f"{case.what:24}{case.rate:11.0f}{case.rate / bare.rate:7.2f}{case.p99:9.1f}"
                f"{case.cost:12.1f}{bare.cost / case.cost:7.2f}"
            )
        print("\ncommands, in turn:")
        for case in cases:
            print(" ", re.sub(re.escape(str(folder)), "DIR", " ".join(case.command)))


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--namespaces", type=int, default=200, help="of the large endpoint")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to write")  # noqa: S108
    return parser.parse_args()


def configure(folder: Path, namespaces: int, port: int) -> Path:
    """Render an endpoint of *namespaces* into *folder*, and return its nginx.conf."""
    folder.mkdir()
    rows = [{"prefix": f"team-{number}", "target": "https://cdn.example"} for number in range(namespaces)]
    return render_endpoint(
        folder,
        {
            "endpoint_listen": [f"127.0.0.1:{port}"],
            "endpoint_namespaces": rows,
            "nginx_base_log_dir": str(folder),
            # A line in a log costs both sides the same, and would hide the difference.
            "nginx_base_access_log": False,
        },
    )


def paths(namespaces: int, rest: str) -> list[str]:
    """Return a path in each of so many namespaces."""
    return [f"/v2/team-{number}/app/{rest}" for number in range(namespaces)]


if __name__ == "__main__":
    main()
