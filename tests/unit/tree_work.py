"""Work for commands that write a tree, and what has to hold of the tree however they end."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

from seawall.digest import Digest
from seawall.lock import read_lock
from seawall.progress import Silent
from seawall.scrub import scrub
from seawall.tree import CONTENT, LOCKS, RELEASES, V2
from unit.fake_registry import AMD64, ARM64, FakeRegistry, make_artifact, make_image, make_index, make_layer
from unit.tool_site import Site, entry

NAME, TOOL = "up.example/team/app", "up.example/team/tool"
TAGS = [f"t{number}" for number in range(4)]

Arguments = list[object]
Seen = Mapping[str, object]
Prepare = Callable[[Site, FakeRegistry], Arguments]


def publish(site: Site, registry: FakeRegistry, generation: str, *tags: str) -> None:
    """Make the tree serve *tags*, the numbered ones at new images that share a layer, one of them of two platforms."""
    renew(site, registry, generation, *tags)
    assert site.sync().code == 0


def renew(site: Site, registry: FakeRegistry, generation: str, *tags: str) -> None:
    """Point the tags of the registry at new images, which are signed, and lock *tags* with their signatures."""
    shared = make_layer(f"{generation} shared", 300_000)
    for tag in TAGS:
        layers = [shared, make_layer(f"{generation} {tag}", 50_000)]
        image = registry.add_image("team/app", tag, make_image(f"{generation} {tag}", layers=layers))
        registry.add_referrer("team/app", make_artifact(f"{generation} {tag}", image))
    pair = [make_image(generation, platform=platform) for platform in (AMD64, ARM64)]
    registry.add_image("team/app", TAGS[0], make_index(pair))
    registry.add_image("team/app", "old", make_image("old"))
    registry.add_image("team/tool", "1", make_image(f"{generation} tool", layers=[shared]))
    site.declare(entry(registry, "team/app", *tags) | {"referrers": True}, entry(registry, "team/tool", "1"))
    assert site.lock("--upgrade").code == 0


# What is disturbed, each with a tree on which it has much to do; it is to be run with the arguments that are returned.


def a_sync(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS[:-1])
    renew(site, registry, "second", "old", *TAGS[1:])
    return ["sync", site.lock_file, site.root]


def a_rollback(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS[:-1])
    publish(site, registry, "second", "old", *TAGS[1:])
    publish(site, registry, "third", "old", *TAGS[2:])
    return ["rollback", site.root, 1]


def a_prune(site: Site, registry: FakeRegistry) -> Arguments:
    for generation in ("first", "second"):
        publish(site, registry, generation, "old", *TAGS)
    registry.add_image("team/gone", "1")
    assert site.run("add", site.root, f"docker://{registry.host}/team/gone:1", "gone:1", "--plain-http").code == 0
    assert site.run("rm", site.root, "gone:1").code == 0
    return ["prune", site.root, "--keep-releases", 1, "--grace", "0s"]


def an_add(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS)
    added = registry.add_image("team/app", "added", make_index([make_image("a"), make_image("b")]))
    registry.add_referrer("team/app", make_artifact("of what is added", added))
    return ["add", site.root, f"docker://{registry.host}/team/app:added", f"{NAME}:t1", "--plain-http", "--referrers"]


def an_rm(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS)
    return ["rm", site.root, f"{TOOL}:1", *(f"{NAME}:{tag}" for tag in TAGS)]


def a_tag(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS)
    return ["tag", site.root, f"{NAME}:old", TAGS[0]]


def an_unbundle(site: Site, registry: FakeRegistry) -> Arguments:
    publish(site, registry, "first", "old", *TAGS[:-1])
    shutil.copytree(site.root, site.folder / "far", symlinks=True)
    publish(site, registry, "second", "old", *TAGS[1:])
    file = site.folder / "bundle.tar"
    assert site.run("bundle", site.root, file, "--since", 1).code == 0
    shutil.rmtree(site.root)
    (site.folder / "far").rename(site.root)
    return ["unbundle", file, site.root]


# How a tree is looked at.


def holds(root: Path) -> Seen:
    """Return all that a tree holds: links with where they lead, content with its hash, records without their time."""
    found: dict[str, object] = {}
    # Thousands of times in the tests that kill: paths as text, which takes a third of the time.
    for folder, _, names in chain.from_iterable(os.walk(root / top) for top in (V2, CONTENT, LOCKS, RELEASES)):
        for name in names:
            path = f"{folder}/{name}"
            try:
                what: object = os.readlink(path)  # noqa: PTH115
            except OSError:
                what = Digest.of(re.sub(rb'"time": ".*"', b"", Path(path).read_bytes()))
            found[path.removeprefix(f"{root}/")] = what
    return found


def served(seen: Seen) -> Seen:
    """Return the part of what a tree holds that clients ask for."""
    return {name: what for name, what in seen.items() if name.startswith(f"{V2}/")}


def check(site: Site, before: Seen, after: Seen) -> Seen:
    """See that the tree is whole and serves what it served, or already what it is to serve; return what it holds."""
    now = holds(site.root)
    if now not in (before, after):  # These two are known to be whole.
        findings = scrub(site.tree, Silent(), 2).findings
        # A list may be half written, but is one; one of referrers may be behind; a blob may be linked before its
        # manifest or longer.
        kinds = {finding.kind for finding in findings if not is_list(finding.path)}
        assert kinds <= {"unnamed", "stale"}, findings
        stale = {finding.path for finding in findings if finding.kind == "stale" and not is_list(finding.path)}
        assert all("/referrers/sha256:" in path or "/manifests/sha256-" in path for path in stale), findings
        for path in site.root.glob("v2/**/tags/list"):
            assert isinstance(json.loads(path.read_bytes())["tags"], list)
        assert json.loads((site.root / "v2/_catalog").read_bytes())["repositories"]
    for name, what in served(now).items():
        assert is_list(name) or what in {before.get(name), after.get(name)}, name
    assert {name for name in served(before).keys() & after.keys() if not is_list(name)} <= now.keys()
    return now


def is_list(name: str) -> bool:
    """Return whether *name* is part of a list of tags or of repositories."""
    return "/tags/" in name or name.startswith(("catalog/", f"{V2}/_catalog"))


def locked(site: Site) -> dict[str, str]:
    """Return the tags that the lock names, as :meth:`Site.tags` does those of the tree."""
    return {str(reference): str(pin.digest) for reference, pin in read_lock(site.lock_file).pins.items()}


def copy_tree(start: Path, root: Path) -> None:
    """Make *root* a copy of the tree *start*; nothing is ever written in its place, so they may share their files."""
    shutil.copytree(start, root, symlinks=True, copy_function=os.link)
