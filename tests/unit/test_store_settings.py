"""What differs from how a store is wanted is changed, and what is somebody else's stays."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import botocore.exceptions
import pytest

from seawall.errors import NotFoundError
from seawall.place import S3Place, SwiftPlace
from seawall.s3 import Bucket
from seawall.s3_settings import BucketSettings
from seawall.store_settings import StoreSettings, carry_out
from seawall.swift import Container
from seawall.swift_settings import ContainerSettings
from unit.tool_site import Site

THEIRS = {"Sid": "Theirs", "Effect": "Deny", "Principal": {"AWS": "joe"}, "Action": "s3:*", "Resource": "*"}
THEIR_RULE = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 1}}
ALL = StoreSettings(is_public=True, origins=("https://ui.example",), is_versioned=True, upload_days=7)
NOTHING = StoreSettings(is_public=False, upload_days=0)


class Client:
    """A boto3 client for one bucket, as far as settings go; what is `unknown` to it is answered with 501."""

    def __init__(self, settings: Mapping[str, Any] | None = None, unknown: tuple[str, ...] = ()) -> None:
        self.settings: dict[str, Any] | None = None if settings is None else dict(settings)
        self.unknown = unknown
        self.meta = type("Meta", (), {"region_name": "us-east-1"})

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        verb, _, what = operation.partition("_bucket_") if "_bucket_" in operation else (operation, "", "")
        what = "public_access_block" if operation.endswith("public_access_block") else what
        verb = "get" if operation.startswith("get_public") else "put" if operation.startswith("put_public") else verb
        what = {"lifecycle_configuration": "lifecycle"}.get(what, what)
        return lambda **values: self._do(verb, what, values)

    def _do(self, verb: str, what: str, values: dict[str, Any]) -> Any:
        values.pop("Bucket")
        if verb == "create_bucket":
            self.settings = {}
        elif self.settings is None:
            raise refusal(404)
        elif verb == "get":
            if what in self.unknown:
                raise refusal(501)
            if what not in self.settings:
                raise refusal(404)
            return self.settings[what]
        elif verb == "put":
            (value,) = values.values()
            self.settings[what] = {
                "policy": {"Policy": value},
                "public_access_block": {"PublicAccessBlockConfiguration": value},
            }.get(what, value)
        elif verb == "delete":
            del self.settings[what]
        return None


def refusal(status: int) -> botocore.exceptions.ClientError:
    answer: Any = {"Error": {"Code": "X"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "Ask")


class OneBucket:
    """Stands for :class:`Bucket`."""

    def __init__(self, client: Client) -> None:
        self.place = S3Place("images", "prod")
        self.client = client

    @contextlib.contextmanager
    def asked(self, where: str) -> Iterator[None]:
        try:
            yield
        except botocore.exceptions.ClientError:
            raise NotFoundError(where, "is missing", "make it") from None


def settle(client: Client, wanted: StoreSettings, *, dry_run: bool = False) -> tuple[str, ...]:
    settings = BucketSettings(cast("Bucket", OneBucket(client)))
    return carry_out(list(settings.changes(wanted)), dry_run=dry_run)


def test_a_bucket_is_made_and_opened_once_and_a_rehearsal_says_the_same() -> None:
    client = Client()
    rehearsed = settle(client, ALL, dry_run=True)
    assert client.settings is None
    assert settle(client, ALL) == rehearsed
    assert len(rehearsed) == 5
    assert settle(client, ALL) == ()
    assert client.settings is not None
    (statement,) = json.loads(client.settings["policy"]["Policy"])["Statement"]
    assert statement["Resource"] == ["arn:aws:s3:::images/prod/*"]
    assert statement["Action"] == ["s3:GetObject"], "nobody may list"


def test_what_others_have_set_stays_when_ours_comes_and_goes() -> None:
    theirs = {"policy": {"Policy": json.dumps({"Statement": [THEIRS]})}, "lifecycle": {"Rules": [THEIR_RULE]}}
    client = Client(theirs)
    assert settle(client, ALL)
    assert client.settings is not None
    assert THEIRS in json.loads(client.settings["policy"]["Policy"])["Statement"]
    assert THEIR_RULE in client.settings["lifecycle"]["Rules"]
    assert len(client.settings["lifecycle"]["Rules"]) == 2
    assert settle(client, NOTHING)
    assert json.loads(client.settings["policy"]["Policy"])["Statement"] == [THEIRS]
    assert client.settings["lifecycle"] == {"Rules": [THEIR_RULE]}
    assert settle(client, NOTHING) == ()


def test_a_block_of_public_policies_is_opened_and_other_blocks_stay() -> None:
    block = {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }
    client = Client({"public_access_block": {"PublicAccessBlockConfiguration": block}})
    assert "let a policy open it" in settle(client, ALL)
    assert client.settings is not None
    left = client.settings["public_access_block"]["PublicAccessBlockConfiguration"]
    assert {name for name, shut in left.items() if shut} == {"BlockPublicAcls", "IgnorePublicAcls"}


def test_a_store_that_does_not_know_a_setting_has_none() -> None:
    client = Client({}, unknown=("public_access_block", "cors"))
    assert settle(client, StoreSettings()) == ("let everybody read it", "remove what was not finished after 7 days")


class Account:
    """Stands for :class:`Container`, and for what swiftclient asks."""

    def __init__(self, containers: Mapping[str, Mapping[str, str]]) -> None:
        self.place = SwiftPlace("images")
        self.containers = {name: dict(headers) for name, headers in containers.items()}

    def ask(self, _: str, question: Callable[[Any], Any]) -> Any:
        return question(self)

    def head_container(self, name: str) -> Mapping[str, str]:
        if name not in self.containers:
            raise NotFoundError(name, "is missing", "make it")
        return self.containers[name]

    def put_container(self, name: str) -> None:
        self.containers[name] = {}

    def post_container(self, name: str, headers: Mapping[str, str]) -> None:
        self.containers[name] |= {field.lower(): value for field, value in headers.items()}


def test_a_container_and_that_of_its_segments_are_opened_alike_and_other_readers_stay() -> None:
    account = Account({"images": {"x-container-read": "team:joe, .rlistings", "x-versions-enabled": "False"}})
    settings = ContainerSettings(cast("Container", account))
    for wanted, readers in (
        (ALL, ("team:joe,.rlistings,.r:*", ".r:*")),
        (NOTHING, ("team:joe,.rlistings", "")),
        (StoreSettings(), ("team:joe,.rlistings,.r:*", ".r:*")),
    ):
        rehearsed = carry_out(list(settings.changes(wanted)), dry_run=True)
        assert carry_out(list(settings.changes(wanted)), dry_run=False) == rehearsed != ()
        assert list(settings.changes(wanted)) == []
        names = ("images", "images_segments")
        assert tuple(account.containers[name].get("x-container-read", "") for name in names) == readers
    assert "x-versions-enabled" not in account.containers["images_segments"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/srv/seawall"], "is no bucket and no container"),
        (["s3://images", "--unfinished", "30h"], "is not a number of days"),
        (["s3://images", "--cors", "https://a https://b"], "names no origin"),
        (["swift://images", "--cors", "https://a", "--versioning"], "choose --cors or --versioning"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], says: str, site: Site) -> None:
    ran = site.run("prepare", *arguments)
    assert (ran.code, says in ran.err) == (3, True)
