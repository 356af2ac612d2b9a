"""Credentials as ``docker login`` leaves them (Docker's ``config.json``, its credential helpers), or a person does."""

import base64
import binascii
import contextlib
import json
import os
import pwd
import re
import stat
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seawall.errors import InputError
from seawall.reference import DOCKER_HUB

HELPER_TIMEOUT = 30.0
"""Seconds that a credential helper has for its answer."""

_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND = "credentials not found"
_IDENTITY = "<token>"
_SECRET_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and password, or an identity token; what is secret is not in its ``repr``."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token (Docker's "identity token"), which takes the place of the password."""

    @property
    def basic(self) -> str:
        """The value of a Basic ``Authorization`` header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


CredentialsLookup = Callable[[str], Credentials | None]
"""Returns the credentials for a registry's host (with its port, if it has one), or None."""


def anonymous(_host: str) -> Credentials | None:
    """Return None: the lookup of who has no credentials at all."""
    return None


def named_credentials(host: str, secret: str, where: str) -> CredentialsLookup:
    """Return the lookup of one who has *secret*, ``USER:PASSWORD``, for the registry at *host* and for no other.

    Raises:
        InputError: *secret*, which comes from *where*, is not of that form.
    """
    username, colon, password = secret.strip("\r\n").partition(":")
    if not (username and colon and password):
        # Not with a word of it: it may be the password alone.
        raise InputError(where, "holds no credentials", "let it hold USER:PASSWORD")
    credentials = Credentials(username, password)

    def lookup(asked: str) -> Credentials | None:
        return credentials if asked == host else None

    return lookup


class CredentialsFrom(BaseModel):
    """Where a secret ``USER:PASSWORD`` is to be found; the secret itself is never in it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"oneOf": [{"required": ["env"]}, {"required": ["file"]}]},
    )

    env: str = Field("", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds USER:PASSWORD."""
    file: str = Field("", min_length=1)
    """The file that holds USER:PASSWORD (relative to the images file)."""

    @model_validator(mode="after")
    def _names_one(self) -> "CredentialsFrom":
        if bool(self.env) == bool(self.file):
            raise ValueError(InputError("", "names not one place", "write {env: NAME} or {file: PATH}"))
        return self

    def below(self, base: Path) -> "CredentialsFrom":
        """Return the same with a relative path taken from the folder *base*."""
        return CredentialsFrom(file=str(base / self.file)) if self.file else self

    def lookup(self, host: str) -> CredentialsLookup:
        """Return the lookup of one who has this secret for the registry at *host*, and for no other.

        Raises:
            InputError: it is not there, is malformed, or others can read the file.
        """
        if self.env:
            return named_credentials(host, os.environ.get(self.env, ""), f"${self.env}")
        return named_credentials(host, _read_secret(Path(self.file)), self.file)


def _read_secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            # As ssh does with keys: what everybody can read, or change, is no secret.
            if stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IRWXO:
                raise InputError(str(path), "holds credentials that others can read", f"run chmod o= {path}")
            return file.read(_SECRET_MAX_BYTES).decode("utf-8")
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "give a readable file") from None
    except UnicodeDecodeError:
        raise InputError(str(path), "is not UTF-8 text", "let it hold USER:PASSWORD") from None


class _Entry(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None


class _Document(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    auths: dict[str, _Entry | None] | None = None
    cred_helpers: dict[str, str] | None = Field(default=None, alias="credHelpers")
    creds_store: str | None = Field(default=None, alias="credsStore")


class DockerConfig:
    """Docker's ``config.json``; its :meth:`lookup` is what a source asks for credentials.

    Args:
        path: the file, named in errors.
        text: what is in it.

    Raises:
        InputError: it is malformed.
    """

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        try:
            self._document = _Document.model_validate(json.loads(text) if text.strip() else {})
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            field_name = ".".join(str(part) for part in first["loc"]) or "the document"
            raise self._malformed(f"{field_name}: {first['msg']}") from None
        except (ValueError, RecursionError):
            # Not with the parser's words, which may quote a secret.
            raise self._malformed("it is not JSON") from None
        self._answers: dict[str, Credentials | None] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: Path | None = None) -> "DockerConfig":
        """Return the configuration in *path*, by default where the ``docker`` command looks for it.

        Where there is no such file there are no credentials, which is no error.

        Raises:
            InputError: the file cannot be read, or is malformed.
        """
        path = path or _default_path()
        try:
            text = path.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            text = ""
        except UnicodeDecodeError:
            raise InputError(str(path), "is not UTF-8", "correct or remove the file") from None
        except OSError as error:
            raise InputError(str(path), f"cannot be read ({error.strerror})", "correct its permissions") from None
        return cls(path, text)

    def lookup(self, host: str) -> Credentials | None:
        """Return the credentials for the registry at *host*, or None; a helper is run once for each host.

        Raises:
            InputError: what is configured for this host cannot be used.
        """
        with self._lock:
            if host not in self._answers:
                self._answers[host] = self._find(host)
            return self._answers[host]

    def _find(self, host: str) -> Credentials | None:
        key = _HUB_KEY if host in _HUB_HOSTS else host
        helpers = self._document.cred_helpers or {}
        helper = helpers.get(key) or next((name for entry, name in helpers.items() if _same(entry, key)), None)
        helper = helper or self._document.creds_store
        found = self._ask(helper, key) if helper else None
        return found or self._stored(key)

    def _stored(self, key: str) -> Credentials | None:
        auths = self._document.auths or {}
        name = key if auths.get(key) else next((name for name in sorted(auths) if _same(name, key)), key)
        entry = auths.get(name)
        if entry is None:
            return None
        username, password = entry.username or "", entry.password or ""
        if entry.auth:
            username, password = self._decoded(entry.auth, name)
        if not (username or password or entry.identitytoken):
            return None
        return Credentials(username, password, entry.identitytoken or "")

    def _decoded(self, auth: str, name: str) -> tuple[str, str]:
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if not colon:
            raise self._malformed(f"auths.{name}.auth: it is not the base64 of NAME:PASSWORD")
        # Docker pads what it writes with NULs, or used to.
        return username, password.strip("\0")

    def _ask(self, helper: str, key: str) -> Credentials | None:
        if _HELPER.fullmatch(helper) is None:
            raise self._malformed(f"{helper[:100]!r} is not the name of a credential helper")
        program = f"docker-credential-{helper}"
        try:
            ran = subprocess.run(  # noqa: S603 - the name is checked, and no shell sees it
                [program, "get"], input=key, capture_output=True, text=True, timeout=HELPER_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            raise self._unusable(program, f"gave no answer in {HELPER_TIMEOUT:g} seconds") from None
        except UnicodeDecodeError:
            raise self._unusable(program, "answers nonsense") from None
        except OSError as error:
            raise self._unusable(program, f"cannot be run ({error.strerror})") from None
        if ran.returncode != 0:
            said = (ran.stdout.strip() or ran.stderr.strip())[:200]
            if _NOT_FOUND in said.lower():
                return None
            raise self._unusable(program, f"failed ({said or f'exit code {ran.returncode}'})")
        try:
            answer = json.loads(ran.stdout)
            username, secret = answer["Username"], answer["Secret"]
        except (ValueError, LookupError, TypeError):
            username, secret = None, None
        if not isinstance(username, str) or not isinstance(secret, str):
            raise self._unusable(program, "answers nonsense")
        if not username and not secret:
            return None
        return Credentials(identity_token=secret) if username == _IDENTITY else Credentials(username, secret)

    def _malformed(self, what: str) -> InputError:
        return InputError(str(self._path), what, "correct or remove it, then log in again with docker login")

    def _unusable(self, program: str, what: str) -> InputError:
        return InputError(str(self._path), f"credential helper {program} {what}", "repair or remove it")


def _default_path() -> Path:
    folder = os.environ.get("DOCKER_CONFIG")
    if folder:
        return Path(folder) / "config.json"
    home = Path("~").expanduser()
    # runuser and sudo may leave the HOME of who called them, which is closed to the account that they change to.
    if home.is_dir() and not os.access(home, os.X_OK):
        with contextlib.suppress(KeyError):
            home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    return home / ".docker" / "config.json"


def _same(name: str, key: str) -> bool:
    return _hostname(name) == _hostname(key)


def _hostname(name: str) -> str:
    return re.sub(r"^https?://", "", name).partition("/")[0]
