"""Credentials: found where docker login leaves them, and shown to nobody."""

import base64
import json
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from seawall import credentials
from seawall.credentials import Credentials, DockerConfig, anonymous
from seawall.errors import InputError

WALLY = Credentials("wally", "s3cret")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(document: object) -> DockerConfig:
    return DockerConfig(Path("config.json"), json.dumps(document))


def complaint(action: Callable[[], object]) -> str:
    """Return what the error of *action* says, having seen that it names the file and no secret."""
    with pytest.raises(InputError) as caught:
        action()
    assert caught.value.where.endswith("config.json")
    assert "s3cret" not in str(caught.value)
    assert encoded("wally:s3cret") not in str(caught.value)
    return caught.value.what


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return what makes a credential helper of a name and a shell script; the log is what it was asked."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def make(name: str, script: str) -> Path:
        program, log = tmp_path / f"docker-credential-{name}", tmp_path / f"{name}.log"
        program.write_text(f'#!/bin/sh\necho "$1 $(cat)" >> "{log}"\n{script}\n')
        program.chmod(0o755)
        return log

    return make


# What is shown


def test_a_secret_is_not_in_the_repr_nor_the_str() -> None:
    shown = repr(Credentials("wally", "s3cret", "identity-s3cret")) + str(WALLY)
    assert "wally" in shown
    assert "s3cret" not in shown


def test_a_name_and_password_make_a_basic_header() -> None:
    assert Credentials("Aladdin", "open sesame").basic == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


def test_a_basic_header_is_of_utf_8() -> None:
    assert Credentials("test", "123£").basic == "Basic dGVzdDoxMjPCow=="


def test_who_is_anonymous_has_no_credentials() -> None:
    assert anonymous("registry.example") is None


# Where the file is


def test_the_file_is_where_docker_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    document = {"auths": {"registry.example": {"auth": encoded("wally:s3cret")}}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert DockerConfig.load().lookup("registry.example") == WALLY


@pytest.mark.parametrize("value", [None, ""])
def test_the_file_is_in_the_home_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    if value is not None:
        monkeypatch.setenv("DOCKER_CONFIG", value)
    (tmp_path / ".docker").mkdir()
    document = {"auths": {"registry.example": {"auth": encoded("wally:s3cret")}}}
    (tmp_path / ".docker" / "config.json").write_text(json.dumps(document))
    assert DockerConfig.load().lookup("registry.example") == WALLY


def test_a_home_that_is_closed_to_the_account_is_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, of_root = tmp_path / "own", tmp_path / "root"
    (own / ".docker").mkdir(parents=True)
    of_root.mkdir()
    (own / ".docker/config.json").write_text(json.dumps({"auths": {"h.example": {"auth": encoded("wally:s3cret")}}}))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(of_root))
    account = pwd.struct_passwd(("wally", "x", 7, 7, "", str(own), "/bin/sh"))
    monkeypatch.setattr("seawall.credentials.pwd.getpwuid", lambda _uid: account)
    assert DockerConfig.load().lookup("h.example") is None
    # Nothing is closed to root, who may run this.
    monkeypatch.setattr("seawall.credentials.os.access", lambda path, _mode: path != of_root)
    assert DockerConfig.load().lookup("h.example") == WALLY


@pytest.mark.parametrize("name", ["config.json", "nowhere/config.json"])
def test_no_file_is_no_credentials(tmp_path: Path, name: str) -> None:
    assert DockerConfig.load(tmp_path / name).lookup("registry.example") is None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert "cannot be read" in complaint(lambda: DockerConfig.load(tmp_path / "config.json"))


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"auths": "\xff s3cret"}')
    assert "not UTF-8" in complaint(lambda: DockerConfig.load(tmp_path / "config.json"))


# What is in it


@pytest.mark.parametrize("text", ["", "  \n", "{}", '{"auths": null}', '{"auths": {}}', '{"auths": {"x": null}}'])
def test_a_file_that_says_nothing_is_no_credentials(text: str) -> None:
    assert DockerConfig(Path("config.json"), text).lookup("x") is None


def test_fields_of_other_programs_are_left_alone() -> None:
    document = {"HttpHeaders": {"User-Agent": "x"}, "detachKeys": "ctrl-x", "proxies": {"default": {}}}
    assert config(document).lookup("registry.example") is None


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"auth": encoded("wally:s3cret")}, WALLY),
        ({"auth": encoded("wally:s3cret\0\0")}, WALLY),
        ({"auth": encoded("wally:with:colons")}, Credentials("wally", "with:colons")),
        ({"auth": encoded("wäll€:pässwörd")}, Credentials("wäll€", "pässwörd")),
        ({"username": "wally", "password": "s3cret"}, WALLY),
        ({"auth": encoded("wally:s3cret"), "username": "other", "password": "other"}, WALLY),
        ({"auth": encoded("wally:"), "identitytoken": "id"}, Credentials("wally", "", "id")),
        ({"identitytoken": "id"}, Credentials(identity_token="id")),
        ({"auth": "", "email": "w@example.com"}, None),
        ({}, None),
    ],
)
def test_an_entry_is_read_as_docker_reads_it(entry: dict[str, str], found: Credentials | None) -> None:
    assert config({"auths": {"registry.example": entry}}).lookup("registry.example") == found


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("registry.example", "registry.example"),
        ("registry.example:5000", "registry.example:5000"),
        ("https://registry.example", "registry.example"),
        ("http://registry.example/", "registry.example"),
        ("https://registry.example/v2/", "registry.example"),
        ("registry.example/v1/", "registry.example"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("https://index.docker.io/v1/", "index.docker.io"),
        ("index.docker.io", "docker.io"),
    ],
)
def test_a_registry_is_known_by_all_its_spellings(key: str, host: str) -> None:
    assert config({"auths": {key: {"auth": encoded("wally:s3cret")}}}).lookup(host) == WALLY


@pytest.mark.parametrize("key", ["registry.example:5000", "example", "my.registry.example", "registry.example.org"])
def test_credentials_of_one_registry_are_not_those_of_another(key: str) -> None:
    assert config({"auths": {key: {"auth": encoded("wally:s3cret")}}}).lookup("registry.example") is None


def test_the_exact_spelling_comes_first() -> None:
    document = {
        "auths": {
            "https://registry.example/v1/": {"auth": encoded("other:other")},
            "registry.example": {"auth": encoded("wally:s3cret")},
        }
    }
    assert config(document).lookup("registry.example") == WALLY


@pytest.mark.parametrize("text", ["{", "s3cret", '{"auths": {"x": {"auth": "s3cret"', "[" * 100_000])
def test_what_is_no_json_is_named_and_not_quoted(text: str) -> None:
    assert complaint(lambda: DockerConfig(Path("config.json"), text)) == "it is not JSON"


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "the document"),
        ("s3cret", "the document"),
        ({"auths": "s3cret"}, "auths"),
        ({"auths": {"registry.example": "s3cret"}}, "auths.registry.example"),
        ({"auths": {"registry.example": {"auth": ["s3cret"]}}}, "auths.registry.example.auth"),
        ({"auths": {"registry.example": {"password": {"s3cret": 1}}}}, "auths.registry.example.password"),
        ({"credHelpers": ["s3cret"]}, "credHelpers"),
        ({"credsStore": {"a": "s3cret"}}, "credsStore"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_and_its_value_is_not_quoted(document: object, field: str) -> None:
    assert complaint(lambda: config(document)).startswith(f"{field}: ")


@pytest.mark.parametrize("auth", ["s3cret!", encoded("s3cret"), "abc", base64.b64encode(b"\xff:s3cret").decode()])
def test_an_auth_that_is_no_name_and_password_is_named(auth: str) -> None:
    broken = config({"auths": {"registry.example": {"auth": auth}}})
    assert complaint(lambda: broken.lookup("registry.example")).startswith("auths.registry.example.auth: ")


def test_an_auth_of_another_registry_may_be_broken() -> None:
    assert config({"auths": {"other.example": {"auth": "s3cret!"}}}).lookup("registry.example") is None


# Credential helpers


def test_a_helper_is_asked_for_the_host_on_its_input(helpers: Callable[[str, str], Path]) -> None:
    log = helpers("vault", """echo '{"ServerURL": "x", "Username": "wally", "Secret": "s3cret"}'""")
    document = config({"credHelpers": {"registry.example": "vault"}})
    assert document.lookup("registry.example") == WALLY
    assert document.lookup("other.example") is None
    assert log.read_text() == "get registry.example\n"


def test_the_store_is_asked_for_all_hosts_without_a_helper(helpers: Callable[[str, str], Path]) -> None:
    vault = helpers("vault", """echo '{"Username": "wally", "Secret": "s3cret"}'""")
    other = helpers("other", """echo '{"Username": "other", "Secret": "other"}'""")
    document = config({"credHelpers": {"registry.example": "vault"}, "credsStore": "other"})
    assert document.lookup("registry.example") == WALLY
    assert document.lookup("docker.io") == Credentials("other", "other")
    assert vault.read_text() == "get registry.example\n"
    assert other.read_text() == "get https://index.docker.io/v1/\n"


def test_a_helper_is_run_once_for_each_host(helpers: Callable[[str, str], Path]) -> None:
    log = helpers("vault", """echo '{"Username": "wally", "Secret": "s3cret"}'""")
    document = config({"credsStore": "vault"})
    assert [document.lookup("registry.example") for _ in range(3)] == [WALLY] * 3
    assert len(log.read_text().splitlines()) == 1


def test_a_helper_may_have_an_identity_token(helpers: Callable[[str, str], Path]) -> None:
    helpers("vault", """echo '{"Username": "<token>", "Secret": "id"}'""")
    assert config({"credsStore": "vault"}).lookup("registry.example") == Credentials(identity_token="id")


@pytest.mark.parametrize(
    "script",
    [
        "echo credentials not found in native keychain; exit 1",
        "echo credentials not found in native keychain >&2; exit 1",
        """echo '{"Username": "", "Secret": ""}'""",
    ],
)
def test_a_helper_that_has_nothing_leaves_it_to_the_file(helpers: Callable[[str, str], Path], script: str) -> None:
    helpers("vault", script)
    assert config({"credsStore": "vault"}).lookup("registry.example") is None
    document = {"credsStore": "vault", "auths": {"registry.example": {"auth": encoded("wally:s3cret")}}}
    assert config(document).lookup("registry.example") == WALLY


def test_a_helper_that_fails_is_named_with_what_it_said(helpers: Callable[[str, str], Path]) -> None:
    helpers("vault", "echo the vault is locked >&2; exit 1")
    what = complaint(lambda: config({"credsStore": "vault"}).lookup("registry.example"))
    assert what == "credential helper docker-credential-vault failed (the vault is locked)"


def test_a_helper_that_fails_silently_is_named(helpers: Callable[[str, str], Path]) -> None:
    helpers("vault", "exit 3")
    assert "failed (exit code 3)" in complaint(lambda: config({"credsStore": "vault"}).lookup("registry.example"))


@pytest.mark.parametrize(
    "answer",
    ["", "s3cret", "[]", "null", '{"Username": "wally s3cret"}', '{"Username": "wally", "Secret": 5}', r"\377"],
)
def test_a_helper_that_answers_nonsense_is_named_and_not_quoted(
    helpers: Callable[[str, str], Path], answer: str
) -> None:
    helpers("vault", f"printf '{answer}'")
    assert "answers nonsense" in complaint(lambda: config({"credsStore": "vault"}).lookup("registry.example"))


def test_a_helper_that_hangs_is_left(helpers: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "HELPER_TIMEOUT", 0.2)
    helpers("vault", "exec sleep 20")
    assert "no answer in 0.2 seconds" in complaint(lambda: config({"credsStore": "vault"}).lookup("registry.example"))


def test_a_helper_that_is_not_installed_is_named() -> None:
    what = complaint(lambda: config({"credsStore": "of-nobody"}).lookup("registry.example"))
    assert what == "credential helper docker-credential-of-nobody cannot be run (No such file or directory)"


@pytest.mark.parametrize("name", ["../../tmp/evil", "/bin/sh", "a b", ".", "-x", "a\nb", "$(reboot)"])
def test_a_helper_whose_name_is_a_path_is_not_run(name: str) -> None:
    what = complaint(lambda: config({"credsStore": name}).lookup("registry.example"))
    assert "is not the name of a credential helper" in what
