"""A bucket of an S3 store: the client, and its errors as ours.

Endpoint, region and credentials come from where every S3 tool takes them: ``AWS_ENDPOINT_URL_S3``, ``AWS_PROFILE``,
``~/.aws/config``, roles. Nobody who has none is refused: the bucket is then asked without a signature.
"""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.exceptions
import urllib3
from botocore import UNSIGNED
from botocore.config import Config

from seawall import __version__
from seawall.errors import CredentialsError, InputError, NotFoundError, SeawallError, SourceError, TransientError
from seawall.place import S3Place

CONNECT_TIMEOUT = 10
"""Seconds until a connection has to stand."""
READ_TIMEOUT = 60
"""Seconds that the store may be silent."""

_TRIES = 3
_CONNECTIONS = 32
_REGION = "us-east-1"
"""What stores that have no regions take."""
_SAID_CHARACTERS = 200
_LATER = "try again later"
_REFUSED = frozenset({http.client.UNAUTHORIZED, http.client.FORBIDDEN})


class Bucket:
    """A client for the bucket of *place*; may be used by several threads."""

    def __init__(self, place: S3Place) -> None:
        self.place = place
        try:
            session = boto3.Session()
            self.is_anonymous = session.get_credentials() is None
            self.client = session.client(
                "s3",
                region_name=session.region_name or _REGION,
                config=Config(
                    # What newer SDKs add by default many stores refuse, and others keep as a part of the object.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    signature_version=UNSIGNED if self.is_anonymous else None,
                    connect_timeout=CONNECT_TIMEOUT,
                    read_timeout=READ_TIMEOUT,
                    retries={"mode": "standard", "total_max_attempts": _TRIES},
                    max_pool_connections=_CONNECTIONS,
                    user_agent_extra=f"seawall/{__version__}",
                ),
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise InputError(str(place), f"cannot be asked: {_line(str(error))}", "correct the AWS settings") from None
        self.requests = 0
        """How many requests were sent so far; what is tried again counts again."""
        self.client.meta.events.register("before-send.s3", self._count)

    @contextmanager
    def asked(self, where: str) -> Iterator[None]:
        """Turn what goes wrong in the block into an error that names *where*.

        Raises:
            NotFoundError: there is no such object.
            CredentialsError: the store refuses access.
            TransientError: the connection broke; trying again may help.
            SourceError: the store cannot be asked, or refuses for another reason.
        """
        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise self._refusal(where, error) from None
        except botocore.exceptions.NoCredentialsError:
            raise CredentialsError(where, "has no credentials", "set AWS_PROFILE or AWS_ACCESS_KEY_ID") from None
        except (botocore.exceptions.SSLError, botocore.exceptions.ProxyConnectionError) as error:
            what = f"{self._endpoint} is not reached ({type(error).__name__})"
            raise SourceError(where, what, "check AWS_CA_BUNDLE and the proxy") from None
        except botocore.exceptions.EndpointConnectionError:
            what = f"{self._endpoint} refused the connection, or is not a name that resolves"
            raise SourceError(where, what, "check AWS_ENDPOINT_URL_S3 and that it runs") from None
        except (botocore.exceptions.HTTPClientError, urllib3.exceptions.HTTPError) as error:
            raise TransientError(where, f"{self._endpoint} broke off ({type(error).__name__})", _LATER) from None
        except botocore.exceptions.BotoCoreError as error:
            raise SourceError(where, _line(str(error)), "check the AWS settings") from None

    @property
    def _endpoint(self) -> str:
        return str(self.client.meta.endpoint_url)

    def _count(self, **_: Any) -> None:
        self.requests += 1

    def _refusal(self, where: str, error: botocore.exceptions.ClientError) -> SeawallError:
        said = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = _line(str(said.get("Code", "")))
        if code == "NoSuchBucket":
            return SourceError(where, f"{self._endpoint} has no bucket {self.place.bucket}", "correct its name")
        if status == http.client.NOT_FOUND:
            return NotFoundError(where, "is missing", "correct the name")
        words = _line(str(said.get("Message", "")))
        because = f" ({code}: {words})" if words and words != code else f" ({code})"
        if status in _REFUSED and self.is_anonymous:
            # A store says so also of what is missing, to whoever may not list the bucket.
            what = f"wants credentials, or has no such object{because}"
            return CredentialsError(where, what, "set AWS_PROFILE or AWS_ACCESS_KEY_ID, or correct the name")
        if status in _REFUSED:
            return CredentialsError(where, f"refuses these credentials{because}", "use some that may do this")
        if status >= http.client.INTERNAL_SERVER_ERROR or status == http.client.TOO_MANY_REQUESTS:
            return SourceError(where, f"{self._endpoint} answered {status}{because}, {_TRIES} times in a row", _LATER)
        return SourceError(where, f"{self._endpoint} answered {status}{because}", "check the store and its settings")


def status_of(error: botocore.exceptions.ClientError) -> int:
    """Return the HTTP status of *error*, 0 where it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _line(text: str) -> str:
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words)[:_SAID_CHARACTERS]
