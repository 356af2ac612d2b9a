"""The life of a tree on a provisioned host: a private registry, images by hand, rollback, prune and bundles.

Everything that the tool prints here, and every command line on the host meanwhile, is searched for the password.
"""

import base64
import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
import requests
import yaml

from e2e.test_publish import AS_OWNER, nginx
from lab.command import run
from lab.engine import Engine
from lab.host import Host
from lab.images import DOCKER_MANIFEST, Samples
from lab.upstream import Upstream

TREE = "/srv/seawall"
USER = "anna"
FOLDER = "/var/lib/seawall/private"
LOGIN_OF_DOCKER = "/var/lib/seawall/.docker/config.json"
LOGIN = "/var/lib/seawall/login"
NEEDLES = "/root/needles"
LARGE = 64_000_000
WATCH = """
import glob, pathlib, time
seen, end = set(), time.monotonic() + 900
while not pathlib.Path("/run/enough").exists() and time.monotonic() < end:
    for name in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            seen.add(pathlib.Path(name).read_bytes())
        except OSError:
            pass
    time.sleep(0.03)
pathlib.Path("/run/seen.part").write_bytes(b"\\n".join(sorted(seen)))
pathlib.Path("/run/seen.part").rename("/run/seen")
"""
KILL_WHEN_BEGUN = """
import os, pathlib, subprocess, sys, time
tree, *command = sys.argv[1:]
with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tool:
    end = time.monotonic() + 60
    while tool.poll() is None and time.monotonic() < end:
        if any(part.stat().st_size > 1_000_000 for part in pathlib.Path(tree).glob(".incoming/*.part")):
            tool.kill()
            break
print(tool.returncode)
"""


@dataclass
class Tool:
    """The tool on the host, run as the tree's owner."""

    host: Host
    said: list[str] = field(default_factory=list)

    def __call__(
        self, *arguments: object, before: str = "", stdin: str | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, which has to end with *code*; *before* it, the shell sets variables."""
        shell = f'{before} exec {" ".join(AS_OWNER)} seawall "$@"'
        ran = self.host.run("sh", "-c", shell, "sh", *map(str, arguments), stdin=stdin, check=False)
        self.said += [ran.stdout, ran.stderr]
        assert ran.returncode == code, ran
        return ran

    @property
    def release(self) -> int:
        """The number of the tree's last release."""
        return int(json.loads(self("releases", TREE, "--json").stdout)[-1]["release"])


@dataclass(frozen=True)
class Private:
    """A registry that asks for a password, and the images in it."""

    upstream: Upstream
    password: str
    digests: dict[str, str]
    large: str
    """The digest of a layer of LARGE bytes, of `team/large:1`."""

    @property
    def basic(self) -> str:
        return base64.b64encode(f"{USER}:{self.password}".encode()).decode()

    def source(self, tag: str) -> str:
        return f"docker://{self.upstream.address}/team/app:{tag}"


@pytest.fixture(scope="module")
def private(lab_folder: Path, samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    password = secrets.token_hex(16)
    folder = tmp_path_factory.mktemp("login")
    with Upstream.start(lab_folder / "private", port=5002, users={USER: password}) as upstream:
        login = Private(upstream, password, {}, "").basic
        authfile = folder / "auth.json"
        authfile.write_text(json.dumps({"auths": {upstream.address: {"auth": login}}}))
        images = {"1": samples.layers, "2": samples.oci_index, "3": samples.oci_manifest}
        for tag, sample in images.items():
            options = ["--all", "--src-tls-verify=false", "--dest-tls-verify=false", f"--dest-authfile={authfile}"]
            target = f"docker://{upstream.address}/team/app:{tag}"
            run(["skopeo", "--insecure-policy", "copy", *options, f"docker://{sample.reference}", target])
        with requests.Session() as session:
            session.auth = (USER, password)
            large = push_large(session, f"{upstream.url}/v2/team/large")
        yield Private(upstream, password, {tag: sample.digest for tag, sample in images.items()}, large)


def push_large(session: requests.Session, repository: str) -> str:
    """Push `1`, an image of one large layer; return the layer's digest."""
    rows = []
    for content in (b'{"architecture":"amd64","os":"linux"}', secrets.token_bytes(LARGE)):
        digest = f"sha256:{sha256(content).hexdigest()}"
        upload = session.post(f"{repository}/blobs/uploads/", timeout=60)
        session.put(upload.headers["Location"], params={"digest": digest}, data=content, timeout=300).raise_for_status()
        rows.append({"mediaType": "application/octet-stream", "digest": digest, "size": len(content)})
    document = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": rows[0], "layers": rows[1:]}
    headers = {"Content-Type": DOCKER_MANIFEST}
    session.put(f"{repository}/manifests/1", data=json.dumps(document), headers=headers, timeout=60).raise_for_status()
    return str(rows[1]["digest"])


@pytest.fixture(scope="module")
def tool(url: str, host: Host, private: Private, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """The tool, on a host that knows the password and writes down every command line."""
    folder = tmp_path_factory.mktemp("host")
    login = {"auths": {private.upstream.address: {"auth": private.basic}}}
    images = [
        {"source": private.source("1").rpartition(":")[0], "name": "life/app", "tags": ["1"], "plain_http": True},
        {
            "source": f"docker://{private.upstream.address}/team/large",
            "name": "life/large",
            "tags": ["1"],
            "plain_http": True,
        },
    ]
    texts = {
        "config.json": json.dumps(login),
        "login": f"{USER}:{private.password}\n",
        "needles": f"{private.password}\n{private.basic}\n",
        "images.yml": yaml.safe_dump({"version": 1, "name": "life", "images": images[:1]}),
        "large.yml": yaml.safe_dump({"version": 1, "name": "large", "images": images[1:]}),
    }
    host.run("install", "-d", "-o", "seawall", FOLDER, "/srv/far", "/srv/near")
    places = {"config.json": LOGIN_OF_DOCKER + ".away", "login": LOGIN, "needles": NEEDLES}
    for name, text in texts.items():
        (folder / name).write_text(text)
        host.put(folder / name, places.get(name, f"{FOLDER}/{name}"))
    host.run("chown", "root:seawall", f"{LOGIN_OF_DOCKER}.away", LOGIN)
    host.run("chmod", "0640", f"{LOGIN_OF_DOCKER}.away", LOGIN)
    host.engine.docker("exec", "--detach", host.name, "python3", "-c", WATCH)
    tool = Tool(host)
    before = tool.release
    yield tool
    host.run("touch", "/run/enough")
    tool("rollback", TREE, before)
    locks = (f"{TREE}/locks/life.lock", f"{TREE}/locks/large.lock")
    host.run("rm", "-rf", LOGIN_OF_DOCKER, LOGIN, NEEDLES, FOLDER, *locks, "/srv/far", "/srv/near", "/etc/nginx-far")


def manifest(url: str, reference: str) -> requests.Response:
    repository, _, rest = reference.partition("@")
    repository, _, tag = (repository, "", rest) if rest else repository.rpartition(":")
    return requests.head(f"{url}/v2/{repository}/manifests/{tag}", timeout=10)


def digest_of(url: str, reference: str) -> str:
    answer = manifest(url, reference)
    assert answer.status_code == 200
    return answer.headers["Docker-Content-Digest"]


def test_what_docker_login_wrote_is_enough_to_lock_and_sync_from_a_private_registry(
    url: str, tool: Tool, private: Private, host: Host
) -> None:
    refused = tool("lock", f"{FOLDER}/images.yml", code=5)
    assert f"docker login {private.upstream.address}" in refused.stderr
    host.run("mv", f"{LOGIN_OF_DOCKER}.away", LOGIN_OF_DOCKER)
    tool("lock", f"{FOLDER}/images.yml")
    tool("sync", f"{FOLDER}/images.lock", TREE)
    assert digest_of(url, "life/app:1") == private.digests["1"]
    again = json.loads(tool("sync", f"{FOLDER}/images.lock", TREE, "--json").stdout)
    assert (again["changed"], again["requests"]) == (False, 0)


def test_an_image_is_added_and_others_are_staged_with_a_password_that_lives_for_one_command(
    url: str, tool: Tool, private: Private, host: Host
) -> None:
    tool("add", TREE, private.source("2"), "life/by-hand:2", "--plain-http")
    assert digest_of(url, "life/by-hand:2") == private.digests["2"]
    host.run("mv", LOGIN_OF_DOCKER, f"{LOGIN_OF_DOCKER}.away")
    tool("stage", TREE, private.source("3"), "life/staged", "--plain-http", code=5)
    by_env = tool(
        *("stage", TREE, private.source("3"), "life/staged", "--plain-http", "--credentials-env", "SHOP_LOGIN"),
        before=f"export SHOP_LOGIN=$(cat {LOGIN});",
    )
    by_file = tool("stage", TREE, private.source("2"), "life/staged", "--plain-http", "--credentials-file", LOGIN)
    host.run("mv", f"{LOGIN_OF_DOCKER}.away", LOGIN_OF_DOCKER)
    for ran, tag in ((by_env, "3"), (by_file, "2")):
        pinned = ran.stdout.strip()
        assert pinned == f"life/staged@{private.digests[tag]}"
        assert digest_of(url, pinned) == private.digests[tag]


def test_a_lock_is_compared_with_a_tree_a_server_and_another_lock(url: str, tool: Tool, private: Private) -> None:
    lock = f"{FOLDER}/images.lock"
    assert "no difference" in tool("diff", lock, TREE).stdout
    assert "no difference" in tool("diff", lock, url).stdout
    tool("tag", TREE, "life/app:1", "other")
    tool("add", TREE, private.source("3"), "life/app:1", "--plain-http")
    for place in (TREE, url):
        differs = tool("diff", lock, place, "--json", code=1)
        assert [row["reference"] for row in json.loads(differs.stdout)["different"]] == ["life/app:1"]
    assert "1 of 1 tag differ" in tool("diff", lock, url, code=1).stdout
    assert "4 of 4 tags differ" in tool("diff", lock, "/etc/seawall/lab/images.lock", code=1).stdout


def test_a_rollback_is_seen_by_the_next_request_without_a_reload(
    url: str, tool: Tool, private: Private, host: Host
) -> None:
    tool("tag", TREE, f"life/app@{private.digests['1']}", "rolling")
    first = tool.release
    # The origin's nginx has seen the tag where it was, and may remember it.
    assert digest_of(url, "life/app:rolling") == private.digests["1"]
    before = nginx(host)
    tool("add", TREE, private.source("3"), "life/app:rolling", "--plain-http")
    assert digest_of(url, "life/app:rolling") == private.digests["3"]
    assert "life/app:rolling" in tool("rollback", TREE, first, "--dry-run").stdout
    assert digest_of(url, "life/app:rolling") == private.digests["3"]
    tool("rollback", TREE, first)
    assert digest_of(url, "life/app:rolling") == private.digests["1"]
    listed = json.loads(tool("releases", TREE, "--json").stdout)
    assert [row["by"] for row in listed[-3:]] == ["tag", "add", "rollback"]
    assert nginx(host) == before


@pytest.mark.parametrize("command", [("ps", "--format", "{{json .}}"), ("inspect",)], ids=["docker ps", "inspect"])
def test_what_an_engine_runs_outlives_a_prune_and_no_longer(
    command: tuple[str, ...], url: str, tool: Tool, private: Private, client_engine: Engine
) -> None:
    host = url.removeprefix("http://")
    tool("add", TREE, private.source("1"), "life/running:1", "--plain-http")
    client_engine.docker("pull", f"{host}/life/running:1")
    started = client_engine.docker("run", "--detach", f"{host}/life/running:1", "sleep", "600")
    tool("rm", TREE, "life/running:1")
    pinned = f"life/running@{private.digests['1']}"
    prune = ("prune", TREE, "--keep-releases", 1, "--grace", "0s", "--in-use", "-")

    def runs() -> str:
        return client_engine.docker(*command, *([started] if command[0] == "inspect" else []))

    assert pinned not in tool(*prune, "--dry-run", stdin=runs()).stdout
    tool(*prune, stdin=runs())
    assert manifest(url, pinned).status_code == 200
    client_engine.docker("rm", "--force", started)
    tool(*prune, stdin="", code=3)
    assert manifest(url, pinned).status_code == 200, "nothing at all is not the same as nothing that runs"
    assert f"unlink {pinned}" in tool(*prune, "--dry-run", stdin="# nothing").stdout
    assert manifest(url, pinned).status_code == 200
    tool(*prune, stdin="# nothing")
    time.sleep(1.1)  # so long nginx may serve a file that it has open already
    assert manifest(url, pinned).status_code == 404
    tool("verify", TREE)


def test_a_bundle_of_one_tree_fills_another_that_a_second_nginx_serves(
    url: str, tool: Tool, private: Private, host: Host
) -> None:
    tool("add", "/srv/near", private.source("1"), "life/app:1", "--plain-http")
    tool("bundle", "/srv/near", f"{FOLDER}/first.tar", "--since", 0)
    tool("add", "/srv/near", private.source("2"), "life/app:2", "--plain-http")
    tool("bundle", "/srv/near", f"{FOLDER}/second.tar", "--since", 1)
    tool("unbundle", f"{FOLDER}/second.tar", "/srv/far", code=3)
    tool("unbundle", f"{FOLDER}/first.tar", "/srv/far")
    host.run("cp", "-a", "/etc/nginx", "/etc/nginx-far")
    edits = f"s#{TREE}#/srv/far#g; s#listen 80;#listen 8081;#; s#/run/nginx.pid#/run/nginx-far.pid#"
    host.run("sh", "-c", f"find /etc/nginx-far -type f | xargs sed -i '{edits}'")
    host.run("nginx", "-c", "/etc/nginx-far/nginx.conf")
    try:
        assert digest_of(f"{url}:8081", "life/app:1") == private.digests["1"]
        tool("unbundle", f"{FOLDER}/second.tar", "/srv/far")
        tool("verify", f"{url}:8081", "life/app:1", "life/app:2")
        assert digest_of(f"{url}:8081", "life/app:2") == private.digests["2"]
    finally:
        host.run("nginx", "-c", "/etc/nginx-far/nginx.conf", "-s", "stop")


def test_after_a_kill_a_large_blob_goes_on_from_where_it_was(
    url: str, tool: Tool, private: Private, host: Host
) -> None:
    lock = f"{FOLDER}/large.lock"
    tool("lock", f"{FOLDER}/large.yml", "--lock", lock)
    owner = ("setpriv", "--reuid=seawall", "--regid=seawall", "--clear-groups", "env", "HOME=/var/lib/seawall")
    killed = host.run("python3", "-c", KILL_WHEN_BEGUN, TREE, *owner, "seawall", "sync", lock, TREE)
    assert killed.stdout == "-9\n"
    part = f"{TREE}/.incoming/{private.large.removeprefix('sha256:')}.part"
    kept = int(host.run("stat", "--format=%s", part).stdout)
    assert 1_000_000 < kept < LARGE
    tool("verify", TREE)
    tool("sync", lock, TREE)
    served = [
        line for line in private.upstream.log().splitlines() if f"GET /v2/team/large/blobs/{private.large}" in line
    ]
    assert f" 206 {LARGE - kept} " in served[-1], "docker-registry was asked for the rest, and sent no more"
    assert digest_of(url, "life/large:1")
    tool("verify", TREE)


def test_nobody_but_the_registry_ever_saw_the_password(tool: Tool, private: Private, host: Host) -> None:
    secret = (private.password, private.basic)
    assert len(tool.said) > 40
    assert not [text for text in tool.said if any(word in text for word in secret)]
    host.run("touch", "/run/enough")
    host.run("sh", "-c", "for n in $(seq 100); do [ -e /run/seen ] && exit; sleep 0.1; done; exit 1")
    seen = host.run("cat", "/run/seen").stdout
    for command in ("lock", "sync", "add", "stage"):
        assert f"seawall\0{command}\0" in seen
    places = ("/srv", "/var/lib/seawall", "/var/log", "/etc/seawall", "/var/tmp", "/tmp", "/run")  # noqa: S108
    found = host.run("grep", "--recursive", "-laF", f"--file={NEEDLES}", *places, check=False)
    assert set(found.stdout.splitlines()) == {LOGIN_OF_DOCKER, LOGIN}
    journal = host.run("sh", "-c", f"journalctl --no-pager | grep -cF --file={NEEDLES}", check=False)
    assert journal.stdout == "0\n"
