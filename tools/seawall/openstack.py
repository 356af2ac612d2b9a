"""Who one is to an OpenStack cloud, from where its own clients take it.

A cloud of ``clouds.yaml`` that ``OS_CLOUD`` names, else the ``OS_*`` variables, which go by the names of the options of
keystoneauth1 (``OS_AUTH_TYPE`` says which kind), else Swift's own ``ST_AUTH``, ``ST_USER`` and ``ST_KEY``. A cloud with
Keystone and a Swift that asks nobody else (TempAuth, "v1") differ in nothing but that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keystoneauth1.exceptions
import keystoneauth1.loading
import keystoneauth1.session
import yaml

from seawall import __version__
from seawall.errors import CredentialsError, InputError

TIMEOUT = 60
"""Seconds that Keystone may be silent."""

_FILE = "clouds.yaml"
_SECRETS = "secure.yaml"
_FOLDERS = (Path(), Path("~/.config/openstack"), Path("/etc/openstack"))
"""Where openstacksdk looks for it ("Configuring OpenStack SDK Applications")."""
_V1 = "v1password"
_NONE = "has no OpenStack credentials"
_HOW = "set OS_CLOUD, or OS_AUTH_URL and what belongs to it, or ST_AUTH, ST_USER and ST_KEY"
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Account:
    """What a cloud has to be told."""

    auth_type: str
    """A plugin of keystoneauth1."""
    auth: Mapping[str, Any] = field(repr=False)
    """Its options: secrets are among them."""
    region: str | None = None
    interface: str = "public"
    verify: bool | str = True
    """False: take any certificate; a path: only one that its authorities signed."""
    storage_url: str | None = None
    """Instead of what the cloud's catalog says."""


def find_account(environment: Mapping[str, str], where: str) -> Account:
    """Return the account that *environment*, or a file that it names, tells of.

    Args:
        environment: variables by their names.
        where: what it is wanted for, for errors.

    Raises:
        CredentialsError: there is none.
        InputError: the file cannot be read, or has no such cloud.
    """
    if cloud := environment.get("OS_CLOUD"):
        return _of_file(cloud, environment)
    settings = {name.removeprefix("OS_").lower(): value for name, value in environment.items() if value}
    if environment.get("ST_AUTH") and not environment.get("OS_AUTH_URL"):
        names = {"auth_url": "ST_AUTH", "username": "ST_USER", "password": "ST_KEY"}
        auth: dict[str, Any] = {name: environment.get(variable, "") for name, variable in names.items()}
        auth_type = _V1
    elif environment.get("OS_AUTH_URL"):
        auth, auth_type = settings, environment.get("OS_AUTH_TYPE") or _guessed(settings)
    else:
        raise CredentialsError(where, _NONE, _HOW)
    insecure = environment.get("OS_INSECURE", "").lower() not in {"", *_FALSE}
    return Account(
        auth_type,
        auth,
        settings.get("region_name"),
        _interface(settings.get("interface") or settings.get("endpoint_type")),
        verify=False if insecure else settings.get("cacert") or True,
        storage_url=environment.get("OS_STORAGE_URL") or None,
    )


def open_session(account: Account, where: str) -> keystoneauth1.session.Session:
    """Return a session that gets a token when it needs one, and a new one when that has expired.

    Raises:
        InputError: there is no such way to authenticate, or what it needs is not told.
    """
    try:
        loader: Any = keystoneauth1.loading.get_plugin_loader(account.auth_type)
        known = {option.dest: _told(option, account.auth) for option in loader.get_options()}
        plugin = loader.load_from_options(**{name: value for name, value in known.items() if value is not None})
    except keystoneauth1.exceptions.NoMatchingPlugin:
        todo = "correct OS_AUTH_TYPE, or auth_type in clouds.yaml"
        raise InputError(where, f"cannot authenticate by {account.auth_type!r}", todo) from None
    except keystoneauth1.exceptions.MissingRequiredOptions as error:
        missing = ", ".join(f"OS_{option.dest.upper()}" for option in error.options)
        raise InputError(where, f"lacks {missing} of its OpenStack credentials", "set it") from None
    except keystoneauth1.exceptions.OptionError as error:
        raise InputError(where, f"cannot authenticate ({error})", "correct the OpenStack settings") from None
    return keystoneauth1.session.Session(
        auth=plugin, verify=account.verify, timeout=TIMEOUT, app_name="seawall", app_version=__version__
    )


def _told(option: Any, auth: Mapping[str, Any]) -> Any:
    names = (option.dest, *(old.dest for old in option.deprecated))
    return next((auth[name] for name in names if auth.get(name)), None)


def _guessed(settings: Mapping[str, Any]) -> str:
    """Return how to authenticate where nobody said so, as swiftclient and openstacksdk guess it."""
    if settings.get("application_credential_id") or settings.get("application_credential_name"):
        return "v3applicationcredential"
    # Swift's own servers answer there, and Keystone never does.
    if str(settings.get("auth_url", "")).rstrip("/").endswith("/auth/v1.0"):
        return _V1
    return "token" if settings.get("token") and not settings.get("password") else "password"


def _interface(text: str | None) -> str:
    # As older clients spell it.
    return (text or "public").removesuffix("URL")


def _of_file(cloud: str, environment: Mapping[str, str]) -> Account:
    named = environment.get("OS_CLIENT_CONFIG_FILE")
    paths = [Path(named)] if named else [folder.expanduser() / _FILE for folder in _FOLDERS]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise InputError(
            f"OS_CLOUD={cloud}", f"there is no {_FILE}", f"write {paths[-1]}, or set OS_CLIENT_CONFIG_FILE"
        )
    row = {**_clouds(path).get(cloud, {})}
    if not row:
        raise InputError(str(path), f"has no cloud {cloud!r}", "correct OS_CLOUD")
    secrets = path.with_name(_SECRETS)
    secret = _clouds(secrets).get(cloud, {}) if secrets.exists() else {}
    auth = {**row.get("auth", {}), **secret.get("auth", {})}
    auth = {str(name).replace("-", "_"): value for name, value in auth.items()}
    verify = row.get("verify", True)
    return Account(
        str(row.get("auth_type") or _guessed(auth)),
        auth,
        row.get("region_name"),
        _interface(row.get("interface") or row.get("endpoint_type")),
        verify=str(Path(row["cacert"]).expanduser()) if verify and row.get("cacert") else bool(verify),
        storage_url=row.get("object_store_endpoint_override"),
    )


def _clouds(path: Path) -> Mapping[str, Any]:
    try:
        clouds = yaml.safe_load(path.read_text())["clouds"]
        if all(isinstance(row, dict) and isinstance(row.get("auth", {}), dict) for row in clouds.values()):
            return dict(clouds)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "correct it") from None
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        pass
    # What is wrong there is not told: it may be a secret.
    raise InputError(str(path), "is no file of clouds", "write clouds: NAME: auth: ...")
