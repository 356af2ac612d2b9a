"""Who one is to an OpenStack cloud: from a file of clouds or the environment, and told to nobody else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from seawall.errors import CredentialsError, ExitCode, InputError
from seawall.openstack import find_account
from unit.fake_registry import FakeRegistry
from unit.fake_swift import KEY, FakeSwift
from unit.test_store import container, leave_settings, published, served, wanted
from unit.tool_site import Site
from unit.tree_work import TAGS, publish

__all__ = ["container"]

URL = "https://cloud.example/v3"
PASSWORD = {"OS_AUTH_URL": URL, "OS_USERNAME": "joe", "OS_PASSWORD": KEY, "OS_PROJECT_NAME": "images"}


@pytest.mark.parametrize(
    ("environment", "auth_type"),
    [
        (PASSWORD, "password"),
        ({**PASSWORD, "OS_AUTH_TYPE": "v3totp"}, "v3totp"),
        ({"OS_AUTH_URL": URL, "OS_TOKEN": KEY}, "token"),
        ({"OS_AUTH_URL": URL, "OS_APPLICATION_CREDENTIAL_ID": "id"}, "v3applicationcredential"),
        ({"OS_AUTH_URL": "https://swift.example/auth/v1.0", "OS_USERNAME": "a:b", "OS_PASSWORD": KEY}, "v1password"),
        ({"ST_AUTH": "https://swift.example/auth/v1.0", "ST_USER": "a:b", "ST_KEY": KEY}, "v1password"),
        ({**PASSWORD, "ST_AUTH": "https://swift.example/auth/v1.0"}, "password"),
    ],
)
def test_the_variables_that_every_openstack_tool_knows_say_who(environment: dict[str, str], auth_type: str) -> None:
    account = find_account(environment, "swift://images")
    assert account.auth_type == auth_type
    assert account.interface == "public"
    assert KEY not in repr(account)


def test_region_interface_certificate_and_store_can_be_told() -> None:
    more = {"OS_REGION_NAME": "here", "OS_ENDPOINT_TYPE": "internalURL", "OS_CACERT": "/ca.pem"}
    account = find_account({**PASSWORD, **more, "OS_STORAGE_URL": "https://swift.example/v1/A"}, "swift://images")
    assert (account.region, account.interface, account.verify) == ("here", "internal", "/ca.pem")
    assert account.storage_url == "https://swift.example/v1/A"
    assert find_account({**PASSWORD, "OS_INSECURE": "1"}, "swift://images").verify is False


def test_a_file_of_clouds_says_who_and_another_may_have_its_secrets(tmp_path: Path) -> None:
    auth = {"auth_url": URL, "username": "joe", "project_name": "images"}
    row: dict[str, Any] = {"auth": auth, "region_name": "here", "interface": "internal", "cacert": "/ca.pem"}
    file = tmp_path / "clouds.yaml"
    file.write_text(yaml.safe_dump({"clouds": {"mine": row}}))
    (tmp_path / "secure.yaml").write_text(yaml.safe_dump({"clouds": {"mine": {"auth": {"password": KEY}}}}))
    environment = {"OS_CLOUD": "mine", "OS_CLIENT_CONFIG_FILE": str(file)}
    account = find_account(environment, "swift://images")
    assert account.auth == {**auth, "password": KEY}
    assert (account.auth_type, account.region, account.interface) == ("password", "here", "internal")
    assert account.verify == "/ca.pem"
    with pytest.raises(InputError, match="has no cloud 'yours'"):
        find_account({**environment, "OS_CLOUD": "yours"}, "swift://images")
    file.write_text(f"clouds: [{KEY}")
    with pytest.raises(InputError, match="is no file of clouds") as caught:
        find_account(environment, "swift://images")
    assert KEY not in str(caught.value)
    with pytest.raises(InputError, match=r"there is no clouds\.yaml"):
        find_account({**environment, "OS_CLIENT_CONFIG_FILE": str(tmp_path / "no")}, "swift://images")


def test_who_says_nothing_is_told_what_to_say() -> None:
    with pytest.raises(CredentialsError, match="set OS_CLOUD, or OS_AUTH_URL"):
        find_account({}, "swift://images")


KEYSTONE = {
    "OS_USERNAME": "joe",
    "OS_PASSWORD": KEY,
    "OS_PROJECT_NAME": "images",
    "OS_USER_DOMAIN_NAME": "Default",
    "OS_PROJECT_DOMAIN_NAME": "Default",
}


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        (KEYSTONE, "password"),
        ({**KEYSTONE, "OS_AUTH_TYPE": "v3password", "OS_REGION_NAME": "here"}, "password"),
        ({"OS_APPLICATION_CREDENTIAL_ID": "id", "OS_APPLICATION_CREDENTIAL_SECRET": KEY}, "application_credential"),
    ],
)
def test_keystone_gives_the_token_and_says_where_the_store_is(
    settings: dict[str, str],
    method: str,
    site: Site,
    registry: FakeRegistry,
    container: FakeSwift,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_settings(monkeypatch)
    for name, value in {**settings, "OS_AUTH_URL": f"{container.url}/v3"}.items():
        monkeypatch.setenv(name, value)
    publish(site, registry, "first", "old", *TAGS)
    assert published(site, container)["release"] == 1
    assert container.told == [method]
    assert served(container) == wanted(site)


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"OS_PASSWORD": "wrong-s3cret"}, ExitCode.CREDENTIALS, "refuses these credentials"),
        ({"OS_REGION_NAME": "elsewhere"}, ExitCode.SOURCE, "the cloud names no store"),
        ({"OS_AUTH_URL": "http://127.0.0.1:1/v3"}, ExitCode.SOURCE, "cannot authenticate"),
        ({"OS_AUTH_TYPE": "magic"}, ExitCode.INPUT, "cannot authenticate by 'magic'"),
        ({"OS_USERNAME": "", "OS_AUTH_TYPE": "v1password"}, ExitCode.INPUT, "lacks OS_USERNAME"),
        ({"OS_STORAGE_URL": "http://127.0.0.1:1/v1/A"}, ExitCode.SOURCE, "the store is not reached"),
    ],
)
def test_what_is_wrong_is_one_line_without_secrets(
    settings: dict[str, str],
    code: int,
    says: str,
    site: Site,
    registry: FakeRegistry,
    container: FakeSwift,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_settings(monkeypatch)
    for name, value in {**KEYSTONE, "OS_AUTH_URL": f"{container.url}/v3", **settings}.items():
        monkeypatch.setenv(name, value)
    publish(site, registry, "first", "old")
    ran = site.run("publish", site.root, "swift://images/prod")
    assert ran.code == code, ran.err
    (line,) = ran.err.splitlines()
    assert line.startswith("seawall: swift://images")
    assert says in line
    assert "s3cret" not in ran.err + ran.out
