"""The nginx configurations of the roles, rendered by Ansible without a host: to look at, or to run here on loopback."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

TOP = Path(__file__).resolve().parents[2]
FILES = {
    "nginx.conf.j2": "nginx.conf",
    "origin.conf.j2": "seawall/origin.conf",
    "tokens.conf.j2": "seawall-private/tokens.conf",
}
READY_SECONDS = 20.0


def render(folder: Path, tree: Path, variables: Mapping[str, Any] | None = None) -> Path:
    """Write the configuration of an origin of `tree` into `folder`, and return its `nginx.conf`.

    `variables` are those of an inventory; the roles' own defaults hold for the rest.
    """
    told = {"__origin_tree": str(tree.resolve()), "origin_tree": str(tree)}
    return _render(folder, "origin", FILES, {**told, **(variables or {})})


def render_endpoint(folder: Path, variables: Mapping[str, Any]) -> Path:
    """Write the configuration of an endpoint into `folder`, and return its `nginx.conf`."""
    return _render(folder, "endpoint", {"nginx.conf.j2": "nginx.conf", **_file_of("endpoint")}, variables)


def render_edge(folder: Path, variables: Mapping[str, Any]) -> Path:
    """Write the configuration of an edge into `folder`, and return its `nginx.conf`; its cache is in `folder` too."""
    told = {"inventory_hostname": "edge1", "edge_cache_dir": f"{folder}/cache"}
    return _render(folder, "edge", {"nginx.conf.j2": "nginx.conf", **_file_of("edge")}, {**told, **variables})


def _file_of(role: str) -> dict[str, str]:
    return {f"{role}.conf.j2": f"seawall/{role}.conf"}


def _render(folder: Path, role: str, files: Mapping[str, str], variables: Mapping[str, Any]) -> Path:
    """Write *files* of templates/nginx into *folder* with what *role* and nginx_base know, and *variables*."""
    read_plugins()
    loader = DataLoader()
    known: dict[str, Any] = {"role_path": str(TOP / "roles" / role)}
    for name in ("nginx_base", role):
        for part in ("defaults", "vars"):
            known |= loader.load_from_file(str(TOP / "roles" / name / part / "main.yml"), trusted_as_template=True)
    # What the role asks the host for: a nginx of Debian 12, and a certificate that names no responder.
    known |= {f"__{role}_http2_directive": False, f"__{role}_ocsp": False, **variables}
    templates = TOP / "templates/nginx"
    templar = Templar(loader, variables=known).copy_with_new_env(searchpath=[str(templates)])
    for source, target in files.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(templar.template(trust_as_template((templates / source).read_text())))
    return folder / "nginx.conf"


def render_balancer(file: Path, variables: Mapping[str, Any]) -> None:
    """Write the configuration of a balancer to `file`; `variables` are those of an inventory."""
    read_plugins()
    loader = DataLoader()
    known: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        known |= loader.load_from_file(str(TOP / "roles/balancer" / part / "main.yml"), trusted_as_template=True)
    template = TOP / "templates/haproxy/haproxy.cfg.j2"
    file.write_text(Templar(loader, variables={**known, **variables}).template(trust_as_template(template.read_text())))


@cache
def read_plugins() -> None:
    """Let Ansible find its plugins; it may be told so once."""
    init_plugin_loader()


@contextmanager
def run_nginx(main_file: Path, url: str) -> Iterator[int]:
    """Run nginx with a rendered `main_file` until the block ends; yield its master's number once `url` answers."""
    folder = main_file.parent
    text, count = re.subn(r"^pid .*;$", f"pid {folder}/nginx.pid;", main_file.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"{main_file} has {count} lines about a pid")
    main_file.write_text(text)
    nginx = subprocess.Popen(["nginx", "-c", main_file, "-g", "daemon off;"])
    try:
        _wait_for(url)
        yield nginx.pid
    finally:
        nginx.terminate()
        nginx.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
