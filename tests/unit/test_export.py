"""``seawall export``: a tree as plain files, and what a static host has to be told of them."""

import fnmatch
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from seawall.cache_control import CONTENT_CACHE, LIVE_CACHE
from seawall.digest import Digest
from seawall.errors import ExitCode
from seawall.media_type import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from seawall.objects import Object, Part, objects_of
from seawall.static_host import HOSTS, plan_site
from unit.fake_registry import FakeImage, FakeRegistry, make_artifact, make_image, make_layer
from unit.fork_server import ForkServer
from unit.tool_site import Site, entry

APP, TOOL = "up.example/team/app", "up.example/team/tool"


@pytest.fixture
def filled(site: Site, registry: FakeRegistry, platforms: FakeImage) -> Site:
    """A tree with an index, with an image that two repositories have, and with a signature."""
    shared = make_image("shared", layers=[make_layer("shared", 200_000)])
    for repository in ("team/app", "team/tool"):
        registry.add_image(repository, "1.0", shared)
    registry.add_image("team/app", "2.0", platforms)
    registry.add_referrer("team/app", make_artifact("signature", platforms))
    declare(site, registry, "1.0", "2.0")
    return site


def declare(site: Site, registry: FakeRegistry, *tags: str) -> None:
    """Make the tree have these tags of one repository, and one of another."""
    site.publish(entry(registry, "team/app", *tags) | {"referrers": True}, entry(registry, "team/tool", "1.0"))


def run_export(site: Site, host: str, *options: object) -> dict[str, Any]:
    ran = site.run("export", site.root, site.folder / host, "--for", host, "--json", *options)
    assert ran.code == 0, ran.err
    answer: dict[str, Any] = ran.answer
    return answer


def served(folder: Path) -> dict[str, bytes]:
    """Return what is below v2/ and no host's own."""
    own = {"index.html", "index.json", ".htaccess"}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in own]
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in files if path.relative_to(folder).parts[0] == "v2"
    }


def wanted(site: Site) -> dict[str, bytes]:
    """Return what the tree serves by its links, without the pages of lists."""
    top = site.root / "v2"
    paths = [path for path in top.rglob("*") if path.is_file() and "/tags/" not in str(path)]
    lists = list(top.rglob("tags/list"))
    return {str(path.relative_to(site.root)): path.read_bytes() for path in (*paths, *lists)}


def test_objects_are_all_that_a_tree_serves_content_first(filled: Site) -> None:
    found = objects_of(filled.tree)
    assert {one.key: one.path.read_bytes() if one.path else one.content for one in found} == wanted(filled)
    order = [list(Part).index(one.part) for one in found]
    assert order == sorted(order)
    tag = next(one for one in found if one.key == f"v2/{APP}/manifests/2.0")
    assert (tag.repository, tag.name, tag.media_type) == (APP, "2.0", OCI_INDEX.media_type)
    assert all(one.size == len(wanted(filled)[one.key]) for one in found)


def test_a_static_host_says_of_caching_what_a_bucket_and_an_origin_say(filled: Site) -> None:
    said = {one.part: one.headers["Cache-Control"] for one in objects_of(filled.tree)}
    assert said.pop(Part.BLOB) == said.pop(Part.MANIFEST) == CONTENT_CACHE
    assert Part.TAG in said
    assert set(said.values()) == {LIVE_CACHE}


@pytest.mark.parametrize("host", HOSTS)
def test_a_directory_has_the_files_of_the_tree_and_no_link(host: str, filled: Site) -> None:
    run_export(filled, host, "--force")
    folder = filled.folder / host
    assert served(folder) == wanted(filled)
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert not (folder / ".incoming").exists()
    blob = next(one for one in objects_of(filled.tree) if one.part is Part.BLOB)
    assert blob.path
    assert (folder / blob.key).stat().st_mtime_ns == blob.path.stat().st_mtime_ns
    again = run_export(filled, host, "--force")
    assert (again["changed"], again["written"], again["removed"]) == (False, [], [])


@pytest.mark.parametrize("host", HOSTS)
def test_a_second_run_writes_what_is_new_and_removes_what_went(host: str, filled: Site, registry: FakeRegistry) -> None:
    run_export(filled, host, "--force")
    folder = filled.folder / host
    (folder / "robots.txt").write_text("of a person")
    registry.add_image("team/app", "3.0")
    registry.add_image("team/app", "1.0")
    declare(filled, registry, "1.0", "3.0")
    assert filled.run("prune", filled.root, "--keep-releases", 1, "--grace", "0s").code == 0
    rehearsed = run_export(filled, host, "--force", "--dry-run")
    done = run_export(filled, host, "--force")
    assert {**done, "dry_run": True} == rehearsed
    assert served(folder) == wanted(filled)
    assert f"v2/{APP}/manifests/3.0" in done["written"]
    assert f"v2/{APP}/manifests/2.0" in done["removed"]
    assert f"v2/{TOOL}/manifests/1.0" not in done["written"]
    assert (folder / "robots.txt").read_text() == "of a person"


def test_headers_json_says_what_each_file_is(filled: Site) -> None:
    run_export(filled, "caddy")
    document = json.loads((filled.folder / "caddy/headers.json").read_text())
    assert (document["for"], document["complete"], document["own"]) == ("caddy", True, ["Caddyfile"])
    rows = {row["path"]: row for row in document["files"]}
    assert set(rows) == set(wanted(filled))
    tag = rows[f"v2/{APP}/manifests/2.0"]
    assert tag["headers"] == {
        "Content-Type": OCI_INDEX.media_type,
        "Docker-Content-Digest": tag["digest"],
        "Cache-Control": "public, max-age=60, stale-if-error=86400",
    }
    listed = rows[f"v2/{APP}/tags/list"]
    assert (listed["digest"], listed["headers"]["Content-Type"]) == (None, "application/json")


def test_what_is_private_stays_at_home(filled: Site) -> None:
    (filled.root / "private").write_text("up.example/team/tool\n")
    run_export(filled, "apache")
    files = served(filled.folder / "apache")
    assert not [path for path in files if TOOL in path]
    assert json.loads(files["v2/_catalog"]) == {"repositories": [APP]}


def test_blobs_may_be_elsewhere(filled: Site) -> None:
    for host, file, said in (
        ("netlify", "_redirects", f"/v2/{APP}/blobs/* https://b.example/x/v2/{APP}/blobs/:splat 302"),
        ("cloudflare-pages", "_redirects", "/v2/*/blobs/:digest https://b.example/x/v2/:splat/blobs/:digest 307"),
        ("apache", "v2/.htaccess", 'RedirectMatch 307 "/v2/(.+)/blobs/('),
        ("caddy", "Caddyfile", "redir * https://b.example/x{http.request.uri.path} 307"),
        ("nginx-plain", "seawall.conf", "return 307 https://b.example/x$uri;"),
    ):
        run_export(filled, host, "--force", "--blobs", "https://b.example/x")
        assert not [path for path in served(filled.folder / host) if "/blobs/" in path]
        assert said in (filled.folder / host / file).read_text()
    for wrong in ("b.example", "https://user:word@b.example", "https://b.example/$x", "https://b.example/"):
        ran = filled.run("export", filled.root, filled.folder / "new", "--for", "caddy", "--blobs", wrong)
        assert ran.code == ExitCode.INPUT


def test_what_a_host_does_not_allow_is_named_and_nothing_is_written(filled: Site) -> None:
    folder = filled.folder / "pages"
    assert filled.run("tag", filled.root, f"{APP}:1.0", "1.0.html").code == 0
    ran = filled.run("export", filled.root, folder, "--for", "cloudflare-pages")
    assert ran.code == ExitCode.DOES_NOT_HOLD
    assert "cloudflare-pages allows no name that ends in .html: it is redirected: 1 do, as " in ran.err
    assert "not written, --force writes it all the same" in ran.out
    assert not folder.exists()
    assert filled.run("export", filled.root, folder, "--for", "cloudflare-pages", "--force").code == 0


def rules_of(text: str) -> dict[str, dict[str, str]]:
    """Return the rules of a _headers file."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line.startswith("/"):
            rule = found.setdefault(line, {})
        elif line.startswith("  "):
            name, _, value = line.strip().partition(": ")
            rule[name] = value
    return found


def expression(rule: str) -> str:
    """Return a rule of Cloudflare Pages as its own tools read it: one star, and placeholders up to the next slash."""
    assert rule.count("*") <= 1
    return re.sub(r":\w+", "[^/]+", re.escape(rule).replace(r"\*", ".*"))


def test_rules_of_cloudflare_pages_give_each_file_its_type_once(filled: Site) -> None:
    site = plan_site("cloudflare-pages", objects_of(filled.tree))
    assert site.excesses == ()
    assert len({one.media_type for one in site.objects if "/manifests/" in one.key}) > 1
    rules = rules_of(site.texts["_headers"])
    for one in site.objects:
        fitting = [said for rule, said in rules.items() if re.fullmatch(expression(rule), f"/{one.key}")]
        assert [said["Content-Type"] for said in fitting] == [one.media_type], one.key
        assert len({said["Cache-Control"] for said in fitting}) == 1


def test_rules_of_netlify_give_each_file_its_type_once(filled: Site) -> None:
    site = plan_site("netlify", objects_of(filled.tree))
    rules = rules_of(site.texts["_headers"])
    for one in site.objects:
        fitting = [said for rule, said in rules.items() if fnmatch.fnmatchcase(f"/{one.key}", rule)]
        assert [said["Content-Type"] for said in fitting] == [one.media_type], one.key


def of_one_type(count: int, size: int = 10, name: str = "t") -> list[Object]:
    digest = Digest.of(b"")
    return [
        Object(f"v2/app/manifests/{name}{number}", Part.TAG, OCI_MANIFEST.media_type, size, digest)
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("host", "objects", "said"),
    [
        ("cloudflare-pages", of_one_type(20_000), "20000 files on the Free plan"),
        ("cloudflare-pages", of_one_type(1, 25 * 1024 * 1024 + 1), "files of 26214400 bytes"),
        ("cloudflare-pages", of_one_type(1, 25 * 1024 * 1024), None),
        ("netlify", of_one_type(54_001), "54000 files in a folder"),
    ],
)
def test_the_limits_of_a_host_are_those_of_its_documentation(
    host: str, objects: list[Object], said: str | None
) -> None:
    limits = [excess.limit for excess in plan_site(host, objects).excesses]
    assert len(limits) == (said is not None)
    assert said is None or said in limits[0]
    if said and len(objects) > 1:
        # One less is allowed, beside the host's own files.
        assert plan_site(host, objects[: -4 if host == "cloudflare-pages" else -1]).excesses == ()


def test_few_rules_are_enough_where_repositories_have_one_type_each() -> None:
    digest = Digest.of(b"")
    objects = [
        Object(f"v2/r{number}/manifests/{name}", Part.TAG, kind.media_type, 1, digest)
        for number, kind in ((1, OCI_MANIFEST), (2, DOCKER_MANIFEST))
        for name in ("1.0", "2.0", str(digest))
    ]
    site = plan_site("cloudflare-pages", objects)
    assert site.excesses == ()
    assert "/v2/r2/manifests/*\n  Content-Type: " + DOCKER_MANIFEST.media_type in site.texts["_headers"]
    many = [
        Object(f"v2/r{number}/manifests/1", Part.TAG, (OCI_MANIFEST, OCI_INDEX)[number % 2].media_type, 1, digest)
        for number in range(100)
    ]
    assert [excess.limit for excess in plan_site("cloudflare-pages", many).excesses] == ["100 header rules"]
    image = Object(f"v2/app/manifests/{digest}", Part.MANIFEST, OCI_MANIFEST.media_type, 1, digest)
    signed = Object(f"v2/app/manifests/sha256-{digest.hex}", Part.REFERRERS, OCI_INDEX.media_type, 1, digest)
    said = [excess.limit for excess in plan_site("cloudflare-pages", [image, signed]).excesses]
    assert said == ["no rule for a digest that is none for the list of its referrers"]
    page = [Object("v2/app/manifests/a.html", Part.TAG, OCI_INDEX.media_type, 1, digest)]
    assert ["ends in .html" in excess.limit for excess in plan_site("cloudflare-pages", page).excesses] == [True]


def test_a_folder_of_somebody_else_is_left_alone(filled: Site) -> None:
    folder = filled.folder / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("the only copy")
    ran = filled.run("export", filled.root, folder, "--for", "caddy", "--force")
    assert ran.code == ExitCode.INPUT
    assert "is not empty, and has no headers.json of an export" in ran.err
    (folder / "headers.json").write_text(
        json.dumps({"version": 1, "own": [], "files": [{"path": "../mine/thesis.txt"}, {"path": "/etc/passwd"}]})
    )
    assert filled.run("export", filled.root, folder, "--for", "caddy").code == ExitCode.INPUT
    assert (folder / "thesis.txt").read_text() == "the only copy"


def test_broken_content_of_a_tree_goes_nowhere(filled: Site) -> None:
    blob = next(one for one in objects_of(filled.tree) if one.size == 200_000)
    assert blob.path
    blob.path.chmod(0o644)
    blob.path.write_bytes(b"x" * 200_000)
    ran = filled.run("export", filled.root, filled.folder / "caddy", "--for", "caddy")
    assert ran.code == ExitCode.TREE
    assert "does not hold what its name says" in ran.err
    assert not list((filled.folder / "caddy").rglob(blob.name))


def test_a_run_that_is_killed_leaves_what_was_served_and_the_next_one_finishes(
    filled: Site, registry: FakeRegistry
) -> None:
    run_export(filled, "apache")
    folder = filled.folder / "apache"
    before = served(folder)
    start = folder.rename(filled.folder / "start")
    registry.add_image("team/app", "1.0", make_image("moved"))
    registry.add_image("team/app", "3.0")
    declare(filled, registry, "1.0", "3.0")
    assert filled.run("prune", filled.root, "--keep-releases", 1, "--grace", "0s").code == 0
    command = ("export", filled.root, folder, "--for", "apache")
    with ForkServer() as tool:
        shutil.copytree(start, folder)
        steps = tool.run(*command).steps
        after = served(folder)
        assert set(before) - set(after)
        assert set(after) - set(before)
        assert steps > 30
        for step in range(0, steps, 2):
            shutil.rmtree(folder)
            shutil.copytree(start, folder)
            assert tool.run(*command, kill_at=step).was_killed
            now = served(folder)
            assert set(before) & set(after) <= set(now)
            for path in now:
                assert now[path] in {before.get(path), after.get(path)}, path
            assert is_usable(now, folder)
            assert tool.run(*command).code == 0
            assert served(folder) == after
            assert json.loads((folder / "headers.json").read_text())["complete"]
            assert not (folder / ".incoming").exists()


def is_usable(files: dict[str, bytes], folder: Path) -> bool:
    """Return whether all that a tag names is there, and nothing wrong is said of it."""
    for path, content in files.items():
        if "/manifests/" not in path:
            continue
        repository, _, name = path.partition("/manifests/")
        digest = Digest.of(content)
        document = json.loads(content)
        needs = [f"{repository}/manifests/{digest}"]
        needs += [f"{repository}/manifests/{row['digest']}" for row in document.get("manifests", ())]
        needs += [f"{repository}/blobs/{row['digest']}" for row in document.get("layers", ())]
        told = (folder / repository / "manifests/.htaccess").read_text()
        said = told.partition(f'<Files "{name}">')[2].partition("</Files>")[0]
        if not set(needs) <= set(files) or ("Digest" in said and str(digest) not in said):
            return False
    return True
