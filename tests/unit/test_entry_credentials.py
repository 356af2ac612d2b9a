"""Credentials of an entry: found in the environment or a file, sent to its host alone, and never seen elsewhere."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from unit.fake_registry import FakeRegistry, Fault, make_image
from unit.tool_site import Ran, Site, entry

SECRET = "s3cret-pass"
BASIC = "Basic " + base64.b64encode(f"wally:{SECRET}".encode()).decode()


@pytest.fixture(params=["basic", "bearer"])
def registry(request: pytest.FixtureRequest) -> Iterator[FakeRegistry]:
    with FakeRegistry(request.param, username="wally", password=SECRET) as registry:
        registry.add_image("team/app", "1.0")
        yield registry


@pytest.fixture
def secret_file(site: Site) -> str:
    path = site.folder / "secret"
    path.write_text(f"wally:{SECRET}\n")
    path.chmod(0o640)
    return path.name


def with_credentials(registry: FakeRegistry, *, tag: str = "1.0", **credentials: str) -> dict[str, Any]:
    return entry(registry, "team/app", tag) | {"credentials": credentials}


def keeps_the_secret(site: Site, *runs: Ran) -> bool:
    files = [path.read_text() for path in (site.images_file, site.lock_file, *site.root.glob("locks/*"))]
    seen = "".join([*files, *(ran.out + ran.err for ran in runs)])
    return SECRET not in seen and BASIC.split()[1] not in seen


def test_they_are_found_in_the_environment(site: Site, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_LOGIN", f"wally:{SECRET}")
    ran = site.publish(with_credentials(registry, env="TEAM_LOGIN"))
    assert "env: TEAM_LOGIN" in site.lock_file.read_text()
    assert keeps_the_secret(site, ran)
    assert site.sync().answer["changed"] is False


def test_they_are_found_in_a_file_beside_the_images_file(
    site: Site, registry: FakeRegistry, secret_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    ran = site.publish(with_credentials(registry, file=secret_file))
    assert f"file: {secret_file}" in site.lock_file.read_text()
    assert keeps_the_secret(site, ran)


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o641])
def test_a_file_that_others_can_read_is_refused(
    mode: int, site: Site, registry: FakeRegistry, secret_file: str
) -> None:
    (site.folder / secret_file).chmod(mode)
    site.declare(with_credentials(registry, file=secret_file))
    ran = site.lock()
    assert ran.code == 3
    assert f"{secret_file}: holds credentials that others can read; run chmod o= " in ran.err
    assert registry.requests == []


def test_what_is_missing_or_wrong_is_named_without_a_word_of_it(
    site: Site, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.declare(with_credentials(registry, env="TEAM_LOGIN"))
    assert "$TEAM_LOGIN: holds no credentials" in site.lock().err
    monkeypatch.setenv("TEAM_LOGIN", SECRET)
    ran = site.lock()
    assert (ran.code, SECRET in ran.err) == (3, False)
    monkeypatch.setenv("TEAM_LOGIN", f"wally:not-{SECRET}")
    ran = site.lock()
    assert (ran.code, SECRET in ran.err) == (5, False)


def test_two_accounts_of_one_host_share_no_token_and_no_connection(
    site: Site, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add_image("team/app", "2.0", make_image("other"))
    monkeypatch.setenv("FIRST", f"wally:{SECRET}")
    monkeypatch.setenv("SECOND", "eve:guess")
    site.declare(with_credentials(registry, env="FIRST"))
    assert site.lock().code == 0
    site.declare(with_credentials(registry, env="FIRST"), with_credentials(registry, tag="2.0", env="SECOND"))
    ran = site.lock("--upgrade", "--jobs", "1")
    assert ran.code == 5, "the second account is refused, though the first has a token"
    sent = {request.authorization for request in registry.requests if request.authorization}
    assert BASIC in sent
    assert "Basic " + base64.b64encode(b"eve:guess").decode() in sent


def test_each_entry_pulls_with_its_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST", f"wally:{SECRET}")
    with FakeRegistry() as registry:
        registry.add_image("team/app", "1.0")
        registry.add_image("team/app", "2.0", make_image("other"))
        rows = (with_credentials(registry, env="FIRST"), entry(registry, "team/app", "2.0"))
        site.publish(*rows)
        assert {request.authorization for request in registry.requests} == {None}, "nobody asked for any"
        assert len(site.lock_file.read_text().split("- name: ")) == 3


def test_a_mirror_does_not_get_them(site: Site, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_LOGIN", f"wally:{SECRET}")
    with FakeRegistry("basic", username="nobody", password="x") as mirror:
        conf = site.folder / "registries.conf"
        mirrors = f'[[registry.mirror]]\nlocation = "{mirror.host}/team"\n'
        conf.write_text(f'[[registry]]\nlocation = "{registry.host}/team"\n{mirrors}')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        ran = site.publish(with_credentials(registry, env="TEAM_LOGIN"))
        assert {request.authorization for request in mirror.requests} == {None}
        assert keeps_the_secret(site, ran)


def test_a_repair_uses_them_too(site: Site, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_LOGIN", f"wally:{SECRET}")
    site.publish(with_credentials(registry, env="TEAM_LOGIN"))
    for path in (site.root / "content/blobs").rglob("[0-9a-f]" * 64):
        path.unlink()
    ran = site.run("verify", site.root, "--repair")
    assert ran.code == 0, ran.out
    assert keeps_the_secret(site, ran)


@pytest.mark.parametrize(
    ("credentials", "says"),
    [
        ({}, "names not one place; write {env: NAME} or {file: PATH}"),
        ({"env": "A", "file": "b"}, "names not one place"),
        ({"env": "A=B"}, "images[0].credentials.env"),
        ({"username": "wally"}, "images[0].credentials.username is not a field"),
        (f"wally:{SECRET}", "images[0].credentials"),
    ],
)
def test_what_names_no_place_is_refused(credentials: object, says: str, site: Site, registry: FakeRegistry) -> None:
    site.declare(entry(registry, "team/app", "1.0") | {"credentials": credentials})
    ran = site.lock()
    assert (ran.code, SECRET in ran.err) == (3, False)
    assert says in ran.err


def test_a_layout_wants_none(site: Site) -> None:
    site.declare({"source": "oci:layout", "name": "x", "tags": ["1"], "credentials": {"env": "A"}})
    assert "wants none" in site.lock().err


def test_a_relative_file_and_a_lock_elsewhere_are_refused(site: Site, registry: FakeRegistry, secret_file: str) -> None:
    site.declare(with_credentials(registry, file=secret_file))
    ran = site.run("lock", site.images_file, "--lock", site.folder / "elsewhere" / "images.lock")
    assert (ran.code, "relative path" in ran.err) == (3, True)


def test_a_redirect_elsewhere_does_not_carry_them(
    site: Site, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_LOGIN", f"wally:{SECRET}")
    with FakeRegistry(store=registry.store) as cdn:
        registry.misbehave(Fault(on="/blobs/", redirect_to=cdn.url))
        site.publish(with_credentials(registry, env="TEAM_LOGIN"))
        assert cdn.asked("GET", "/blobs/")
        assert {request.authorization for request in cdn.requests} == {None}
