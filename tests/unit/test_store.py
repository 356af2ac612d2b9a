"""Publishing into a bucket or a container: in which order, and what happens where somebody comes in between."""

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seawall import s3_objects, swift_objects
from seawall.digest import Digest
from seawall.errors import ExitCode
from seawall.place import SwiftPlace
from seawall.store_objects import Headers
from seawall.swift import Container
from seawall.swift_objects import SwiftObjects
from unit.fake_registry import FakeRegistry, make_image, make_layer
from unit.fake_store import FakeStore
from unit.fake_swift import KEY, FakeSwift
from unit.tool_site import Ran, Site, entry
from unit.tree_work import NAME, TAGS, TOOL, publish

APP = f"prod/v2/{NAME}"
SWIFT = {"OS_AUTH_TYPE": "v1password", "OS_USERNAME": "me:me", "OS_PASSWORD": KEY}


def leave_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("OS_", "ST_", "AWS_")):
            monkeypatch.delenv(name)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    leave_settings(monkeypatch)
    with FakeStore() as store:
        for name, value in {
            "AWS_ENDPOINT_URL_S3": store.url,
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }.items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSwift]:
    leave_settings(monkeypatch)
    with FakeSwift() as store:
        for name, value in {**SWIFT, "OS_AUTH_URL": f"{store.url}/auth/v1.0"}.items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.fixture(params=["bucket", "container"])
def store(request: pytest.FixtureRequest) -> FakeStore:
    store: FakeStore = request.getfixturevalue(request.param)
    return store


def place(store: FakeStore) -> str:
    return "swift://images/prod" if isinstance(store, FakeSwift) else "s3://images/prod"


def published(site: Site, store: FakeStore, *options: object) -> dict[str, Any]:
    ran = site.run("publish", site.root, place(store), *options, "--json")
    assert ran.code == 0, ran.err
    return dict(ran.answer["destinations"][0])


def refused(site: Site, store: FakeStore, code: int, says: str) -> Ran:
    ran = site.run("publish", site.root, place(store))
    assert ran.code == code, ran.err
    assert says in ran.err.splitlines()[-1]
    return ran


def wanted(site: Site) -> dict[str, bytes]:
    """Return what a bucket has to serve: what the tree serves, in one page where it is a list."""
    found = {}
    for path in site.root.glob("v2/**/*"):
        name = str(path.relative_to(site.root))
        if path.is_file() and not re.search(r"/tags/(after|to)/", name):
            found[f"prod/{name}"] = path.read_bytes()
    return found


def served(store: FakeStore) -> dict[str, bytes]:
    return {
        key: content for key, (content, _) in store.objects.items() if key.startswith("prod/v2/") and key != "prod/v2/"
    }


def test_a_bucket_comes_to_serve_what_the_tree_serves_release_after_release(
    site: Site, registry: FakeRegistry, store: FakeStore
) -> None:
    for number, tags in enumerate((("old", *TAGS), ("old", *TAGS[1:]), TAGS[:2]), 1):
        publish(site, registry, f"generation {number}", *tags)
        before = len(store.written)
        assert published(site, store)["release"] == number
        assert served(store) == wanted(site)
        written = store.written[before:]
        assert written[-1] == "prod/releases/last.json"
        kinds = [_kind(key) for key in written if key not in {"prod/.held", "prod/v2/", "prod/v2/_catalog"}]
        order = ["blob", "manifest", "list of referrers", "tag list", "tag", "lock", "record", "end"]
        assert [order.index(kind) for kind in kinds] == sorted(order.index(kind) for kind in kinds)
        store.asked.clear()
        assert not published(site, store)["changed"]
        assert store.asked == ["GET prod/releases/last.json"]
    assert "prod/.held" not in store.objects
    assert len(json.loads(store.objects["prod/releases/3.json"][0])["tags"]) > 1


def _kind(key: str) -> str:
    name = key.rpartition("/")[2]
    for pattern, kind in (
        ("/blobs/", "blob"),
        ("/manifests/sha256:", "manifest"),
        ("/referrers/|/manifests/sha256-", "list of referrers"),
        ("/tags/list", "tag list"),
        ("/manifests/", "tag"),
        ("/locks/", "lock"),
    ):
        if re.search(pattern, key):
            return kind
    return "end" if name == "last.json" else "record"


def test_each_object_has_the_headers_that_clients_and_caches_need(
    site: Site, registry: FakeRegistry, store: FakeStore
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    published(site, store)
    digest = site.tags()[f"{NAME}:t0"]
    by_tag, by_digest = (store.objects[f"{APP}/manifests/{target}"][1] for target in ("t0", digest))
    assert by_tag["Content-Type"] == by_digest["Content-Type"] == "application/vnd.oci.image.index.v1+json"
    kept = ["Docker-Content-Digest", "X-Object-Meta-Docker-Content-Digest"]
    for name in kept if isinstance(store, FakeSwift) else ["x-amz-meta-docker-content-digest"]:
        assert by_tag[name] == by_digest[name] == digest
    assert "immutable" in by_digest["Cache-Control"]
    assert "max-age=60" in by_tag["Cache-Control"]
    assert store.objects["prod/v2/"][0] == b"{}"
    lists = [key for key in store.objects if "/referrers/" in key]
    assert lists
    for key in lists:
        fallback = f"{APP}/manifests/{key.rpartition('/')[2].replace(':', '-')}"
        assert store.objects[fallback][0] == store.objects[key][0]
        assert store.objects[key][1]["Content-Type"] == "application/vnd.oci.image.index.v1+json"


def test_a_blob_that_the_store_has_is_copied_there(site: Site, registry: FakeRegistry, store: FakeStore) -> None:
    shared = make_layer("shared", 5000)
    registry.add_image("one", "1", make_image("one", layers=[shared]))
    registry.add_image("two", "1", make_image("two", layers=[shared]))
    registry.add_image("three", "1", make_image("three", layers=[shared]))
    site.publish(entry(registry, "one", "1"), entry(registry, "two", "1"))
    assert published(site, store)["copied"] == 1
    site.publish(entry(registry, "one", "1"), entry(registry, "two", "1"), entry(registry, "three", "1"))
    assert published(site, store)["copied"] == 1
    assert [key.rpartition("/")[2] for key in store.copied] == [str(Digest.of(shared))] * 2
    assert served(store) == wanted(site)


def test_a_large_blob_goes_on_from_the_parts_that_are_there(
    site: Site, registry: FakeRegistry, bucket: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_objects, "PART_BYTES", 100_000)
    layer = make_layer("large", 350_000)
    registry.add_image("app", "1", make_image("large", layers=[layer]))
    site.publish(entry(registry, "app", "1"))

    def cut(key: str) -> None:
        if sum(map(len, bucket.uploads.values())) == 2:
            raise ConnectionResetError

    bucket.before_put = cut
    refused(site, bucket, ExitCode.SOURCE, "broke off")
    bucket.before_put = lambda _: None
    (parts,) = bucket.uploads.values()
    kept = dict(parts)
    assert len(kept) == 2
    bucket.asked.clear()
    published(site, bucket)
    assert sum(asked.startswith("PUT") and str(Digest.of(layer)) in asked for asked in bucket.asked) == 2
    assert served(bucket) == wanted(site)


def test_a_damaged_blob_is_not_sent(site: Site, registry: FakeRegistry, store: FakeStore) -> None:
    publish(site, registry, "first", "old", *TAGS)
    blob = max((site.root / "content/blobs").rglob("*"), key=lambda path: path.lstat().st_size)
    blob.chmod(0o644)
    blob.write_bytes(b"z" * blob.stat().st_size)
    refused(site, store, ExitCode.TREE, f"{blob}: holds other bytes than its name says")
    assert not any(key.endswith(f":{blob.name}") or "/manifests/" in key for key in store.objects)


def test_of_two_that_publish_at_once_one_wins_and_the_other_says_so(
    site: Site, registry: FakeRegistry, store: FakeStore
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    began, go_on = threading.Event(), threading.Event()

    def wait(key: str) -> None:
        if key.endswith("/manifests/t0"):
            began.set()
            # The store answers others meanwhile.
            store.lock.release()
            go_on.wait(30)
            store.lock.acquire()

    store.before_put = wait
    with site.start("publish", site.root, place(store)) as first:
        assert began.wait(30)
        refused(site, store, ExitCode.HELD, f"is being published to by another run (process {first.pid} on ")
        go_on.set()
        first.communicate(timeout=60)
    assert first.returncode == 0
    store.before_put = lambda _: None
    assert not published(site, store)["changed"]


def test_what_a_dead_run_held_is_taken_over(site: Site, registry: FakeRegistry, store: FakeStore) -> None:
    publish(site, registry, "first", "old", *TAGS)
    with site.start("publish", site.root, place(store)) as process:
        while "prod/.held" not in store.objects:
            assert process.poll() is None
        process.kill()
    assert "prod/.held" in store.objects
    assert published(site, store)["release"] == 1
    assert served(store) == wanted(site)
    assert "prod/.held" not in store.objects


@pytest.mark.parametrize("how", ["knows no conditions", "compares bare ETags"])
def test_a_store_with_conditional_writes_of_its_own_kind_is_published_to_as_well(
    how: str, site: Site, registry: FakeRegistry, bucket: FakeStore
) -> None:
    bucket.knows_conditions = how != "knows no conditions"
    bucket.wants_bare_etags = how == "compares bare ETags"
    for generation, tags in (("first", ("old", *TAGS)), ("second", TAGS)):
        publish(site, registry, generation, *tags)
        published(site, bucket)
        assert served(bucket) == wanted(site)


def test_a_bucket_with_a_history_of_its_own_is_refused(site: Site, registry: FakeRegistry, store: FakeStore) -> None:
    publish(site, registry, "first", "old", *TAGS)
    store.objects["prod/releases/1.json"] = (b"{}", {})
    refused(site, store, ExitCode.TREE, "prod/releases/1.json: is a release that was made there")
    del store.objects["prod/releases/1.json"]
    published(site, store)
    last = json.loads(store.objects["prod/releases/last.json"][0])
    store.objects["prod/releases/last.json"] = (json.dumps({**last, "record": str(Digest.of(b""))}).encode(), {})
    assert site.run("rm", site.root, f"{TOOL}:1").code == 0
    refused(site, store, ExitCode.TREE, "has a history of its own")
    store.objects["prod/releases/last.json"] = (b"what", {})
    refused(site, store, ExitCode.TREE, "does not say what the store has")


def test_what_the_tree_has_pruned_goes_pointers_first_when_that_is_asked_for(
    site: Site, registry: FakeRegistry, store: FakeStore
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    publish(site, registry, "second", "old", *TAGS[1:])
    published(site, store)
    index = next(move.after for move in site.tree.read_release(1).moves if move.tag == "t0")
    listed = json.loads(store.objects[f"{APP}/manifests/{index}"][0])["manifests"]
    assert site.run("rm", site.root, f"{TOOL}:1").code == 0
    assert not published(site, store, "--delete", "--grace", "9000d")["removed"] > 1
    site.sync()
    pruned = site.run("prune", site.root, "--keep-releases", 1, "--grace", "0s", "--json").answer
    assert pruned["manifests"]
    store.removed.clear()
    rehearsed = published(site, store, "--delete", "--grace", "0s", "--dry-run")
    assert not store.removed
    assert published(site, store, "--delete", "--grace", "0s")["removed"] == rehearsed["removed"] > 10
    assert served(store) == wanted(site)
    kinds = [_kind(key) for key in store.removed if "/v2/" in key]
    assert kinds == sorted(kinds, key=["tag", "list of referrers", "manifest", "blob"].index)
    assert store.removed.index(f"{APP}/manifests/{index}") < min(
        store.removed.index(f"{APP}/manifests/{row['digest']}") for row in listed
    )
    assert not published(site, store, "--delete", "--grace", "0s")["changed"]


def test_an_option_for_buckets_is_refused_elsewhere(site: Site, registry: FakeRegistry, tmp_path: Path) -> None:
    publish(site, registry, "first", "old")
    for place, option, says in (
        (tmp_path / "replica", ("--delete",), "is for s3 and swift alone"),
        (tmp_path / "replica", ("--acl", "public-read"), "is for s3 alone"),
        ("swift://images", ("--acl", "public-read"), "is for s3 alone"),
    ):
        ran = site.run("publish", site.root, place, *option)
        assert (ran.code, says in ran.err) == (ExitCode.INPUT, True)


# Swift's own.


def test_a_large_blob_is_a_list_of_segments_that_repositories_share_and_that_go_with_the_last_of_them(
    site: Site, registry: FakeRegistry, container: FakeSwift, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swift_objects, "SEGMENT_BYTES", 1_500_000)
    layer = os.urandom(4_000_000)
    image = make_image("large", layers=[layer])
    registry.add_image("one", "1", image)
    registry.add_image("two", "1", image)
    site.publish(entry(registry, "one", "1"), entry(registry, "two", "1"))

    def cut(key: str) -> None:
        if len(container.segments) == 2:
            raise ConnectionResetError

    container.before_put = cut
    refused(site, container, ExitCode.SOURCE, "broke off")
    container.before_put = lambda _: None
    sent = dict(container.segments)
    assert (len(sent), container.containers["images_segments"]) == (2, ".r:*")
    container.written.clear()
    assert published(site, container)["copied"] >= 1
    assert len(container.segments) == 3
    assert not set(container.written) & set(sent), "what arrived is not sent again"
    assert served(container) == wanted(site)

    for kept, left in (("one", 3), (None, 0)):
        site.publish(*([entry(registry, kept, "1")] if kept else []))
        for repository in ("one", "two"):
            if repository != kept:
                site.run("prune", site.root, "--keep-releases", 1, "--grace", "0s")
        rehearsed = published(site, container, "--delete", "--grace", "0s", "--dry-run")
        assert published(site, container, "--delete", "--grace", "0s")["removed"] == rehearsed["removed"] > 0
        assert len(container.segments) == left
        assert served(container) == wanted(site)


def test_segments_that_nobody_could_read_are_not_sent(
    site: Site, registry: FakeRegistry, container: FakeSwift, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swift_objects, "SEGMENT_BYTES", 1_500_000)
    container.containers["images_segments"] = "other:user"
    registry.add_image("one", "1", make_image("large", layers=[os.urandom(2_000_000)]))
    site.publish(entry(registry, "one", "1"))
    refused(site, container, ExitCode.SOURCE, "swift://images_segments: is not open to all, as images is")


def test_a_container_that_is_not_there_is_named(site: Site, registry: FakeRegistry, container: FakeSwift) -> None:
    publish(site, registry, "first", "old", *TAGS)
    container.containers.clear()
    refused(site, container, ExitCode.SOURCE, "swift://images: is no container of this account")


def test_an_answer_that_was_lost_and_a_store_that_is_busy_for_a_moment_stop_nobody(
    site: Site, registry: FakeRegistry, container: FakeSwift
) -> None:
    publish(site, registry, "first", "old", *TAGS)
    # The hold arrives, and its answer does not.
    container.loses_answers, container.failures = 1, 1
    assert published(site, container)["release"] == 1
    assert served(container) == wanted(site)


def test_a_token_that_expires_meanwhile_is_renewed(site: Site, registry: FakeRegistry, container: FakeSwift) -> None:
    publish(site, registry, "first", "old", *TAGS)

    def expire(key: str) -> None:
        if key.endswith("/tags/list") and len(container.told) == 1:
            container.tokens.clear()

    container.before_put = expire
    assert published(site, container)["release"] == 1
    assert len(container.told) > 1
    assert served(container) == wanted(site)


def test_of_two_that_take_over_what_a_dead_run_held_one_wins(container: FakeSwift) -> None:
    objects = SwiftObjects(Container(SwiftPlace("images", "prod")))
    headers = Headers("application/json", "no-store")
    dead = objects.put_if(".held", b"dead", headers, None)
    assert dead
    meanwhile: list[str | None] = []

    def come_in_between(key: str) -> None:
        if key == "prod/.held" and not meanwhile:
            meanwhile.append("asks")
            # The store answers others meanwhile.
            container.lock.release()
            meanwhile.append(objects.put_if(".held", b"other", headers, dead))
            container.lock.acquire()

    container.before_put = come_in_between
    mine = objects.put_if(".held", b"mine", headers, dead)
    assert mine
    assert meanwhile == ["asks", None]
    assert objects.put_if(".held", b"late", headers, dead) is None
    assert container.objects["prod/.held"][0] == b"mine"
    assert list(container.objects) == ["prod/.held"]
