"""`seawall purge` before a real Varnish and a real edge: what changed is seen at once, and the rest is kept."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from e2e.edge_site import make_edge, running
from e2e.rollout import TOP
from lab.command import run
from lab.daemon import Daemon
from lab.rendered import render, run_nginx
from seawall.purging import changed_paths
from seawall.tree import Tree
from unit.fake_registry import FakeRegistry, make_image

ORIGIN = "127.0.0.1:18073"
CACHE = "http://127.0.0.1:18074"
HOST = "images.example"
APP = "/v2/team/app"
VCL = f"""\
vcl 4.1;
backend origin {{ .host = "127.0.0.1"; .port = "{ORIGIN.partition(":")[2]}"; }}
acl purgers {{ "127.0.0.1"; }}
sub vcl_recv {{
    if (req.method == "PURGE") {{
        if (client.ip !~ purgers || req.http.X-Forwarded-For ~ ",") {{ return (synth(405)); }}
        return (purge);
    }}
}}
"""


@dataclass
class Site:
    """A tree with an origin, and a cache before it."""

    root: Path
    registry: FakeRegistry
    kind: str

    def seawall(self, *arguments: object) -> str:
        environment = {**os.environ, "PYTHONPATH": str(TOP / "tools")}
        return run([sys.executable, "-m", "seawall", *map(str, arguments)], env=environment).stdout

    def publish(self, *tags: str, generation: str) -> None:
        """Let team/app have these tags, each at a new image."""
        for tag in tags:
            self.registry.add_image("team/app", tag, make_image(f"{tag} {generation}"))
        images = self.root.parent / "images.yml"
        source = f"docker://{self.registry.host}/team/app"
        entry = {"source": source, "name": "team/app", "tags": list(tags), "plain_http": True}
        images.write_text(yaml.safe_dump({"version": 1, "name": "site", "images": [entry]}))
        self.seawall("lock", images, "--upgrade")
        self.seawall("sync", images.with_suffix(".lock"), self.root)

    def purge(self, since: int) -> str:
        return self.seawall("purge", self.root, CACHE, "--at", self.kind, "--since", since, "--host", HOST)

    def ask(self, path: str, url: str = CACHE) -> tuple[int, str]:
        answer = requests.get(url + path, headers={"Host": HOST}, timeout=10)
        return answer.status_code, answer.text

    def origin(self, path: str) -> tuple[int, str]:
        return self.ask(path, f"http://{ORIGIN}")


@pytest.fixture(scope="module", params=["varnish", "nginx"])
def site(request: pytest.FixtureRequest, lab_folder: Path) -> Iterator[Site]:
    folder = lab_folder / f"purge-{request.param}"
    folder.mkdir()
    with FakeRegistry() as registry:
        made = Site(folder / "tree", registry, request.param)
        made.publish("1", "2", "3", generation="old")
        (folder / "origin").mkdir()
        variables = {"origin_listen": [ORIGIN], "nginx_base_log_dir": str(folder / "origin")}
        main_file = render(folder / "origin", made.root, variables)
        with run_nginx(main_file, f"http://{ORIGIN}/v2/"), caching(request.param, folder):
            yield made


@contextmanager
def caching(kind: str, folder: Path) -> Iterator[None]:
    """Run a cache of this *kind* before the origin until the block ends."""
    if kind == "nginx":
        with running(make_edge(folder / "edge", int(CACHE.rpartition(":")[2]), [f"http://{ORIGIN}"])):
            yield
        return
    (folder / "cache.vcl").write_text(VCL)
    state = ["-n", str(folder / "state"), "-s", "malloc,16m", "-f", str(folder / "cache.vcl")]
    cache = Daemon(["varnishd", "-F", "-a", CACHE.removeprefix("http://"), *state], folder / "cache.log")
    cache.wait_ready(_answers, 60)
    try:
        yield
    finally:
        cache.stop()


def _answers() -> bool:
    try:
        return requests.get(f"{CACHE}/v2/", timeout=10).status_code == 200
    except requests.RequestException:
        return False


def test_what_changed_is_seen_at_once_and_nothing_else_is_asked_anew(site: Site) -> None:
    paths = [f"{APP}/manifests/{tag}" for tag in "123"] + [f"{APP}/tags/list{q}" for q in ("", "?n=100", "?n=1000")]
    before = {path: site.ask(path) for path in paths}
    assert all(status == 200 for status, _ in before.values())
    since = Tree(site.root).last_release()
    site.publish("1", "2", "3", "4", generation="new")
    # So the cache is one: it goes on with what it has.
    assert {path: site.ask(path) for path in paths} == before
    changed = changed_paths(Tree(site.root), since)
    assert set(paths) < set(changed)
    assert f"{len(changed)} URLs purged" in site.purge(since)
    for path in changed:
        assert site.ask(path) == site.origin(path)
    assert {path: site.ask(path) for path in paths} != before


def test_what_did_not_change_stays(site: Site) -> None:
    since = Tree(site.root).last_release()
    kept, moved = f"{APP}/manifests/1", f"{APP}/manifests/2"
    before = site.ask(kept), site.ask(moved)
    site.seawall("tag", site.root, "team/app:1", "5")
    site.seawall("tag", site.root, "team/app:1", "6")
    paths = changed_paths(Tree(site.root), since)
    assert kept not in paths
    assert f"{APP}/tags/list" in paths
    site.purge(since)
    assert (site.ask(kept), site.ask(moved)) == before
    assert site.ask(f"{APP}/tags/list") == site.origin(f"{APP}/tags/list")


def test_a_tag_that_was_withdrawn_is_gone(site: Site) -> None:
    path = f"{APP}/manifests/3"
    assert site.ask(path)[0] == 200
    since = Tree(site.root).last_release()
    site.seawall("rm", site.root, "team/app:3")
    assert site.ask(path)[0] == 200
    site.purge(since)
    assert site.ask(path)[0] == 404
