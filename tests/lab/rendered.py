"""The origin's nginx configuration as Ansible renders it, without a host: to look at, or to run here on loopback."""

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
ROLES = ("nginx_base", "origin")
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
    read_plugins()
    loader = DataLoader()
    known: dict[str, Any] = {}
    for role in ROLES:
        for part in ("defaults", "vars"):
            known |= loader.load_from_file(str(TOP / "roles" / role / part / "main.yml"), trusted_as_template=True)
    known |= {"role_path": str(TOP / "roles/origin"), "__origin_tree": str(tree.resolve())}
    # What the role asks the host for: a nginx of Debian 12, and a certificate that names no responder.
    known |= {"__origin_http2_directive": False, "__origin_ocsp": False}
    known |= {"origin_tree": str(tree), **(variables or {})}
    templates = TOP / "templates/nginx"
    templar = Templar(loader, variables=known).copy_with_new_env(searchpath=[str(templates)])
    for source, target in FILES.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(templar.template(trust_as_template((templates / source).read_text())))
    return folder / "nginx.conf"


def render_endpoint(folder: Path, variables: Mapping[str, Any]) -> Path:
    """Write the configuration of an endpoint into `folder`, and return its `nginx.conf`.

    `variables` are those of an inventory; the roles' own defaults hold for the rest.
    """
    read_plugins()
    loader = DataLoader()
    known: dict[str, Any] = {}
    for role in ("nginx_base", "endpoint"):
        for part in ("defaults", "vars"):
            known |= loader.load_from_file(str(TOP / "roles" / role / part / "main.yml"), trusted_as_template=True)
    known |= {"__endpoint_http2_directive": False, "__endpoint_ocsp": False, **variables}
    templates = TOP / "templates/nginx"
    templar = Templar(loader, variables=known).copy_with_new_env(searchpath=[str(templates)])
    for source, target in (("nginx.conf.j2", "nginx.conf"), ("endpoint.conf.j2", "seawall/endpoint.conf")):
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(templar.template(trust_as_template((templates / source).read_text())))
    return folder / "nginx.conf"


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


def render_edge(folder: Path, variables: Mapping[str, Any]) -> Path:
    """Write the configuration of an edge into `folder`, and return its `nginx.conf`; its cache is in `folder` too.

    `variables` are those of an inventory; the roles' own defaults hold for the rest.
    """
    read_plugins()
    loader = DataLoader()
    known: dict[str, Any] = {}
    for role in ("nginx_base", "edge"):
        for part in ("defaults", "vars"):
            known |= loader.load_from_file(str(TOP / "roles" / role / part / "main.yml"), trusted_as_template=True)
    known |= {"role_path": str(TOP / "roles/edge"), "inventory_hostname": "edge1", "edge_cache_dir": f"{folder}/cache"}
    known |= {"__edge_http2_directive": False, "__edge_ocsp": False, **variables}
    templates = TOP / "templates/nginx"
    templar = Templar(loader, variables=known).copy_with_new_env(searchpath=[str(templates)])
    for source, target in (("nginx.conf.j2", "nginx.conf"), ("edge.conf.j2", "seawall/edge.conf")):
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(templar.template(trust_as_template((templates / source).read_text())))
    return folder / "nginx.conf"


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
