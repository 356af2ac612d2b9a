"""`seawall purge` before a real Varnish and a real nginx: what changed is seen at once, and the rest is kept."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

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
NGINX = """\
user www-data;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    proxy_cache_path {folder}/cache keys_zone=cache:1m use_temp_path=off;
    proxy_temp_path {folder}/temp;
    server {{
        listen {address};
        location / {{
            proxy_pass http://{origin};
            proxy_cache cache;
            proxy_cache_key $host$request_uri;
            proxy_cache_bypass $http_x_seawall_purge;
        }}
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
        address = CACHE.removeprefix("http://")
        if request.param == "varnish":
            (folder / "cache.vcl").write_text(VCL)
            state = ["-n", str(folder / "state"), "-s", "malloc,16m", "-f", str(folder / "cache.vcl")]
            command = ["varnishd", "-F", "-a", address, *state]
        else:
            config = NGINX.format(folder=folder, address=address, origin=ORIGIN)
            (folder / "nginx.conf").write_text(config)
            command = ["nginx", "-c", str(folder / "nginx.conf")]
        with run_nginx(main_file, f"http://{ORIGIN}/v2/"):
            cache = Daemon(command, folder / "cache.log")
            cache.wait_ready(lambda: _answers(made), 60)
            try:
                yield made
            finally:
                cache.stop()


def _answers(site: Site) -> bool:
    try:
        return site.ask("/v2/")[0] == 200
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


def test_varnish_forgets_a_tag_that_was_withdrawn(site: Site) -> None:
    if site.kind != "varnish":
        pytest.skip("what an edge of Seawall does then is its own test's")
    path = f"{APP}/manifests/3"
    assert site.ask(path)[0] == 200
    since = Tree(site.root).last_release()
    site.seawall("rm", site.root, "team/app:3")
    assert site.ask(path)[0] == 200
    site.purge(since)
    assert site.ask(path)[0] == 404
