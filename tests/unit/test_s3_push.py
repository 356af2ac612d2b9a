"""Pushing into a bucket: in which order, and what happens where somebody comes in between."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
import yaml

from seawall.cache_control import CONTENT_CACHE, LIVE_CACHE
from seawall.digest import Digest
from seawall.errors import SourceError
from seawall.http_session import HttpSession
from seawall.pinning import resolve
from seawall.place import S3Place
from seawall.progress import Silent
from seawall.pushing import Package, gather
from seawall.reference import Reference, RegistryLocation
from seawall.registry import RegistrySource
from seawall.s3_objects import PART_BYTES
from seawall.s3_push import S3Push
from unit.fake_registry import FakeImage, FakeRegistry, Fault, make_image, make_layer
from unit.fake_store import FakeStore

APP = "prod/v2/team/app"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    with FakeStore() as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-key")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
        yield store


class Pusher:
    """Somebody with images, who pushes them into the bucket."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.registry = registry
        self.source = RegistrySource(RegistryLocation(registry.host, "app"), plain_http=True, http=HttpSession())
        self.bucket = S3Push(S3Place("images", "prod"), 3)

    def package(self, tag: str, name: str) -> Package:
        return gather(Reference("team/app", name), resolve(self.source, tag, tag), self.source, "here")

    def push(self, tag: str, name: str = "1.0") -> int | None:
        shipment = self.bucket.compare(self.package(tag, name))
        return None if shipment.is_empty else self.bucket.send(shipment, self.source.blob, Silent())


@pytest.fixture
def pusher(registry: FakeRegistry, store: FakeStore) -> Pusher:
    return Pusher(registry)


def tags(store: FakeStore) -> list[str]:
    found: list[str] = json.loads(store.objects[f"{APP}/tags/list"][0])["tags"]
    return found


def test_content_comes_first_and_pointers_last(
    pusher: Pusher, store: FakeStore, registry: FakeRegistry, platforms: FakeImage
) -> None:
    registry.add_image("app", "1.0", platforms)
    assert pusher.push("1.0") == 1
    sorts = [key.removeprefix(APP).partition("/sha256")[0] for key in store.written]
    assert sorts == ["/blobs"] * 5 + ["/manifests"] * 3 + ["/tags/list", "/manifests/1.0", "prod/releases/1.json"]
    by_digest = [key.rpartition("/")[2] for key in store.written if "/manifests/sha256" in key]
    assert by_digest[-1] == str(platforms.digest)
    content, headers = store.objects[f"{APP}/manifests/1.0"]
    assert Digest.of(content) == platforms.digest
    assert headers["x-amz-meta-docker-content-digest"] == str(platforms.digest)
    assert headers["Content-Type"] == platforms.manifest.kind.media_type
    release = json.loads(store.objects["prod/releases/1.json"][0])
    assert (release["by"], release["tags"][0]["after"]) == ("push", str(platforms.digest))


def test_what_is_there_is_not_sent_again(pusher: Pusher, store: FakeStore, registry: FakeRegistry) -> None:
    shared = make_layer("shared")
    registry.add_image("app", "1.0", make_image("one", layers=[shared]))
    registry.add_image("app", "1.1", make_image("two", layers=[shared, make_layer("new")]))
    assert pusher.push("1.0") == 1
    assert pusher.push("1.0") is None
    store.written.clear()
    registry.requests.clear()
    assert pusher.push("1.1", "1.1") == 2
    assert not registry.asked("GET", Digest.of(shared))
    assert len([key for key in store.written if "/blobs/" in key]) == 2
    assert tags(store) == ["1.0", "1.1"]


def test_an_object_of_another_size_or_type_is_written_again(
    pusher: Pusher, store: FakeStore, registry: FakeRegistry
) -> None:
    image = registry.add_image("app", "1.0")
    pusher.push("1.0")
    blob, manifest = f"{APP}/blobs/{image.layers[0].digest}", f"{APP}/manifests/{image.digest}"
    store.objects[blob] = (b"half", {})
    store.objects[manifest] = (image.content, {"Content-Type": "binary/octet-stream"})
    store.written.clear()
    pusher.push("1.0")
    assert set(store.written) == {blob, manifest}


def test_a_tag_that_somebody_else_put_there_is_seen(pusher: Pusher, store: FakeStore, registry: FakeRegistry) -> None:
    old = registry.add_image("app", "old")
    registry.add_image("app", "1.0")
    store.objects[f"{APP}/manifests/1.0"] = (old.content, {"Content-Type": old.manifest.kind.media_type})
    pusher.push("1.0")
    assert json.loads(store.objects["prod/releases/1.json"][0])["tags"][0]["before"] == str(old.digest)


@pytest.mark.parametrize("extra", [-1, 0, 1, PART_BYTES])
def test_a_large_blob_goes_in_parts(
    extra: int, pusher: Pusher, store: FakeStore, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer("large", PART_BYTES + extra)
    registry.add_image("app", "1.0", make_image("large", layers=[layer]))
    pusher.push("1.0")
    content, headers = store.objects[f"{APP}/blobs/{Digest.of(layer)}"]
    assert content == layer
    assert store.uploads == {}
    assert "Content-Type" in headers or extra > 0


@pytest.mark.parametrize("size", [3000, PART_BYTES + 3000])
def test_a_source_that_lies_leaves_no_object_and_no_pointer(
    size: int, pusher: Pusher, store: FakeStore, registry: FakeRegistry
) -> None:
    layer = make_layer("large", size)
    registry.add_image("app", "1.0", make_image("large", layers=[layer]))
    registry.misbehave(Fault(on=Digest.of(layer), wrong_bytes=True))
    with pytest.raises(SourceError, match="source sent other bytes"):
        pusher.push("1.0")
    assert f"{APP}/blobs/{Digest.of(layer)}" not in store.objects
    assert not [key for key in store.objects if "/blobs/" not in key]
    assert store.uploads == {}


def test_two_who_push_at_once_both_end_up_in_the_list(pusher: Pusher, store: FakeStore, registry: FakeRegistry) -> None:
    registry.add_image("app", "1.0")
    pusher.push("1.0")

    def somebody_else(key: str) -> None:
        if key.endswith("tags/list") and "2.0" not in tags(store):
            store.objects[key] = (json.dumps({"name": "team/app", "tags": [*tags(store), "2.0"]}).encode(), {})
        elif key.endswith("releases/2.json"):
            store.objects[key] = (b"{}", {})

    store.before_put = somebody_else
    assert pusher.push("1.0", "1.1") == 3
    assert tags(store) == ["1.0", "1.1", "2.0"]


def test_who_is_always_overtaken_gives_up(pusher: Pusher, store: FakeStore, registry: FakeRegistry) -> None:
    registry.add_image("app", "1.0")
    pusher.push("1.0")

    def somebody_else(key: str) -> None:
        if key.endswith("tags/list"):
            content = store.objects[f"{APP}/tags/list"][0] + b" "
            store.objects[f"{APP}/tags/list"] = (content, {})

    store.before_put = somebody_else
    with pytest.raises(SourceError, match="was changed by others 5 times meanwhile"):
        pusher.push("1.0", "1.1")
    assert f"{APP}/manifests/1.1" not in store.objects


def test_a_store_without_conditional_writes_is_written_all_the_same(
    pusher: Pusher, store: FakeStore, registry: FakeRegistry
) -> None:
    store.knows_conditions = False
    registry.add_image("app", "1.0")
    assert pusher.push("1.0") == 1
    assert pusher.push("1.0", "1.1") == 2
    assert tags(store) == ["1.0", "1.1"]


def test_a_lost_list_is_made_anew_from_what_is_there(pusher: Pusher, store: FakeStore, registry: FakeRegistry) -> None:
    registry.add_image("app", "1.0")
    pusher.push("1.0")
    del store.objects[f"{APP}/tags/list"]
    pusher.push("1.0", "1.1")
    assert tags(store) == ["1.0", "1.1"]


def test_the_headers_say_what_the_origin_says() -> None:
    top = Path(__file__).resolve().parents[2]
    template = (top / "templates/nginx/snippets/cache.conf.j2").read_text()
    defaults = yaml.safe_load((top / "roles/origin/defaults/main.yml").read_text())
    # A bucket is as public as it is: it knows no private namespaces.
    said = jinja2.Template(template).render(defaults).replace("$cache_scope", "public")
    assert re.findall(r'default "(.+)";', said) == [CONTENT_CACHE, LIVE_CACHE]
