"""Mirrors: asked first, believed only by digest, and left alone once they fail."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.fake_registry import FakeImage, FakeRegistry, Fault, make_image, make_layer
from unit.tool_site import Site, entry


@pytest.fixture
def mirror(registry: FakeRegistry) -> Iterator[FakeRegistry]:
    """A registry that has what the other has, below ``cache/``."""
    with FakeRegistry() as mirror:
        yield mirror


@pytest.fixture
def image(registry: FakeRegistry, mirror: FakeRegistry) -> FakeImage:
    image = registry.add_image(
        "team/app", "1.0", make_image(layers=[make_layer("large", 100_000), make_layer("small")])
    )
    mirror.add_image("cache/app", "1.0", image)
    return image


@pytest.fixture(autouse=True)
def configured(site: Site, registry: FakeRegistry, mirror: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that names the mirror, which the environment names."""
    path = site.folder / "registries.conf"
    path.write_text(
        f'[[registry]]\nprefix = "{registry.host}/team"\n[[registry.mirror]]\nlocation = "{mirror.host}/cache"\n'
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(path))
    return path


def test_all_comes_from_the_mirror_and_the_lock_does_not_say_so(
    site: Site, registry: FakeRegistry, mirror: FakeRegistry, image: FakeImage
) -> None:
    ran = site.publish(entry(registry, "team/app", "1.0"))
    assert registry.requests == []
    assert site.tags() == {"up.example/team/app:1.0": str(image.digest)}
    assert site.lock("--upgrade").answer["requests"] == 1
    assert ran.answer["requests"] == len(mirror.requests) - 2
    assert mirror.host not in site.lock_file.read_text() + (site.root / "locks/site.lock").read_text()
    assert f"docker://{registry.host}/team/app" in site.lock_file.read_text()


def test_the_option_counts_more_than_the_environment(
    site: Site, registry: FakeRegistry, mirror: FakeRegistry, image: FakeImage
) -> None:
    none = site.folder / "none.conf"
    none.write_text("")
    site.declare(entry(registry, "team/app", "1.0"))
    assert site.lock("--registries-conf", str(none)).code == 0
    assert (mirror.requests, len(registry.requests)) == ([], 1)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=429, headers={"Retry-After": "3600"}),
        Fault(status=403),
        Fault(die_after=-1),
        Fault(on="/manifests/", wrong_bytes=True),
        Fault(on="/blobs/", wrong_bytes=True),
        Fault(on="/blobs/", announce=7),
        Fault(body=b"<html>a portal</html>", headers={"Content-Type": "text/html"}, without=("Docker-Content-Digest",)),
    ],
    ids=lambda fault: str(fault)[:60],
)
def test_a_mirror_that_fails_is_said_to_and_left_alone(
    fault: Fault, site: Site, registry: FakeRegistry, mirror: FakeRegistry, image: FakeImage
) -> None:
    mirror.misbehave(fault)
    site.declare(entry(registry, "team/app", "1.0"))
    assert site.lock().code == 0
    ran = site.sync("--jobs", "1")
    assert ran.code == 0, ran.err
    assert ran.err.count("left alone from now on") == 1
    assert f"docker://{mirror.host}/cache/app: " in ran.err
    assert site.scrubbed() == []


def test_what_a_mirror_lacks_comes_from_the_source_and_the_rest_from_the_mirror(
    site: Site, registry: FakeRegistry, mirror: FakeRegistry, image: FakeImage
) -> None:
    large, small = image.layers
    mirror.misbehave(Fault(on=large.digest, status=404))
    ran = site.publish(entry(registry, "team/app", "1.0"))
    assert "the next place is asked" in ran.err
    assert len(registry.asked("GET")) == 1
    assert len(mirror.asked("GET", small.digest)) == 1


def test_a_mirror_that_is_gone_costs_one_line_and_no_pause(
    site: Site, registry: FakeRegistry, configured: Path, image: FakeImage
) -> None:
    configured.write_text(
        f'[[registry]]\nlocation = "{registry.host}/team"\n[[registry.mirror]]\nlocation = "127.0.0.1:1/cache"\n'
    )
    ran = site.publish(entry(registry, "team/app", "1.0"))
    assert ran.err.count("refused the connection; it is left alone") == 1


def test_a_cut_in_the_middle_goes_on_where_it_was(
    site: Site, registry: FakeRegistry, mirror: FakeRegistry, image: FakeImage
) -> None:
    large = image.layers[0].digest
    mirror.misbehave(Fault(on=large, die_after=60_000, times=1))
    site.publish(entry(registry, "team/app", "1.0"))
    assert [request.range for request in mirror.asked("GET", large)] == [None, "bytes=60000-"]
    assert registry.requests == []


def test_a_mirror_for_digests_alone_is_not_asked_for_tags(
    site: Site, registry: FakeRegistry, mirror: FakeRegistry, configured: Path, image: FakeImage
) -> None:
    configured.write_text(configured.read_text() + 'pull-from-mirror = "digest-only"\n')
    mirror.add_image("cache/app", "1.0", make_image("stale"))
    site.publish(entry(registry, "team/app", "1.0"))
    assert site.tags() == {"up.example/team/app:1.0": str(image.digest)}
    assert {request.method for request in registry.requests} == {"HEAD"}
    assert mirror.asked("GET", "/blobs/")


def test_the_list_of_tags_is_asked_of_the_source_alone(
    site: Site, registry: FakeRegistry, mirror: FakeRegistry, image: FakeImage
) -> None:
    registry.add_image("team/app", "1.1")
    site.publish(entry(registry, "team/app", "1.*"))
    assert set(site.tags()) == {"up.example/team/app:1.0", "up.example/team/app:1.1"}
    assert mirror.asked("GET", "/tags/list") == []


def test_each_host_is_sent_its_own_credentials_and_no_others(site: Site, mirror: FakeRegistry) -> None:
    with FakeRegistry("basic", username="home", password="home-pass") as registry:
        image = registry.add_image("team/app", "1.0")
        mirror.auth, mirror.username, mirror.password = "basic", "away", "away-pass"
        mirror.add_image("cache/app", "1.0", image)
        mirror.misbehave(Fault(on=image.layers[0].digest, status=404))
        login(site, {registry: ("home", "home-pass"), mirror: ("away", "away-pass")})
        (site.folder / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{registry.host}/team"\n[[registry.mirror]]\nlocation = "{mirror.host}/cache"\n'
        )
        site.publish(entry(registry, "team/app", "1.0"))
        sent = {one: {request.authorization for request in one.requests} - {None} for one in (registry, mirror)}
    assert len(sent[registry]) == len(sent[mirror]) == 1
    assert sent[registry] != sent[mirror]


def login(site: Site, accounts: dict[FakeRegistry, tuple[str, str]]) -> None:
    folder = site.folder / "docker"
    folder.mkdir()
    auths = {registry.host: {"username": user, "password": word} for registry, (user, word) in accounts.items()}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))


def test_what_is_blocked_is_not_asked_for(site: Site, registry: FakeRegistry, configured: Path) -> None:
    configured.write_text(f'[[registry]]\nlocation = "{registry.host}/team"\nblocked = true\n')
    site.declare(entry(registry, "team/app", "1.0"))
    ran = site.lock()
    assert (ran.code, registry.requests) == (3, [])
    assert "is blocked by" in ran.err
