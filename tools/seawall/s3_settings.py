"""The settings of a bucket: who may read it, CORS, versions, and what becomes of unfinished uploads.

Of policy and lifecycle rules only our own are touched, which are known by their names; others stay.
"""

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import botocore.exceptions

from seawall.errors import NotFoundError, TreeError
from seawall.s3 import Bucket, status_of
from seawall.store_settings import CORS_HEADERS, CORS_METHODS, CORS_SECONDS, Change, StoreSettings

POLICY_SID = "SeawallPublicRead"
RULE_ID = "seawall-unfinished-uploads"
_HOME_REGION = "us-east-1"
"""The one that is not named where a bucket is made (Amazon S3, "CreateBucket")."""
_UNKNOWN = frozenset({http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED, http.client.NOT_IMPLEMENTED})
_SHUT = ("BlockPublicPolicy", "RestrictPublicBuckets")


class BucketSettings:
    """Reads and changes the settings of *bucket*.

    Errors of all methods: :class:`~seawall.errors.SeawallError` where the store does not answer, or refuses.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._name = bucket.place.bucket
        self._where = str(bucket.place)

    def changes(self, wanted: StoreSettings) -> Iterator[Change]:
        """Yield what has to be done for the bucket to be as it is *wanted*."""
        is_there = self._is_there()
        if not is_there:
            yield Change(f"make the bucket {self._name}", self._make)
        yield from self._readers(wanted, is_there=is_there)
        yield from self._cors(wanted, is_there=is_there)
        yield from self._versions(wanted, is_there=is_there)
        yield from self._uploads(wanted, is_there=is_there)

    def _is_there(self) -> bool:
        try:
            with self._bucket.asked(self._where):
                self._bucket.client.head_bucket(Bucket=self._name)
        except NotFoundError:
            return False
        return True

    def _make(self) -> None:
        region = self._bucket.client.meta.region_name
        elsewhere = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region != _HOME_REGION else {}
        with self._bucket.asked(self._where):
            self._bucket.client.create_bucket(Bucket=self._name, **elsewhere)

    def _readers(self, wanted: StoreSettings, *, is_there: bool) -> Iterator[Change]:
        policy = self._policy() if is_there else {}
        statements = policy.get("Statement", [])
        resource = f"arn:aws:s3:::{self._name}/{self._bucket.place.key('*')}"
        own = {
            "Sid": POLICY_SID,
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:GetObject"],
            "Resource": [resource],
        }
        others = [one for one in statements if one.get("Sid") != POLICY_SID]
        is_open = any(one.get("Sid") == POLICY_SID and _rows(one.get("Resource")) == [resource] for one in statements)
        block = self._ask("get_public_access_block") if is_there else None
        shut = dict(block["PublicAccessBlockConfiguration"]) if block else {}
        if wanted.is_public and any(shut.get(name) for name in _SHUT):
            opened = {**shut, **dict.fromkeys(_SHUT, False)}
            yield self._put("let a policy open it", "put_public_access_block", PublicAccessBlockConfiguration=opened)
        if wanted.is_public and not is_open:
            text = json.dumps({**policy, "Version": "2012-10-17", "Statement": [*others, own]})
            yield self._put("let everybody read it", "put_bucket_policy", Policy=text)
        elif not wanted.is_public and len(others) < len(statements):
            what = "let not everybody read it"
            if others:
                yield self._put(what, "put_bucket_policy", Policy=json.dumps({**policy, "Statement": others}))
            else:
                yield self._put(what, "delete_bucket_policy")

    def _policy(self) -> Mapping[str, Any]:
        answer = self._ask("get_bucket_policy")
        try:
            found = json.loads(answer["Policy"]) if answer else {}
            if all(isinstance(one, dict) for one in found.get("Statement", [])):
                return dict(found)
        except (ValueError, AttributeError, TypeError):
            pass
        raise TreeError(self._where, "has a policy that cannot be read", "correct it by hand")

    def _cors(self, wanted: StoreSettings, *, is_there: bool) -> Iterator[Change]:
        answer = self._ask("get_bucket_cors") if is_there else None
        there = [_comparable(rule) for rule in answer.get("CORSRules", [])] if answer else []
        rule = {
            "AllowedOrigins": list(wanted.origins),
            "AllowedMethods": list(CORS_METHODS),
            "AllowedHeaders": ["*"],
            "ExposeHeaders": list(CORS_HEADERS),
            "MaxAgeSeconds": CORS_SECONDS,
        }
        if wanted.origins and there != [_comparable(rule)]:
            what = f"let pages of {', '.join(wanted.origins)} read it"
            yield self._put(what, "put_bucket_cors", CORSConfiguration={"CORSRules": [rule]})
        elif there and not wanted.origins:
            yield self._put("let no page of another origin read it", "delete_bucket_cors")

    def _versions(self, wanted: StoreSettings, *, is_there: bool) -> Iterator[Change]:
        answer = self._ask("get_bucket_versioning") if is_there else None
        is_versioned = bool(answer) and (answer or {}).get("Status") == "Enabled"
        if is_versioned != wanted.is_versioned:
            status = "Enabled" if wanted.is_versioned else "Suspended"
            what = "keep versions of its objects" if wanted.is_versioned else "keep no more versions of its objects"
            yield self._put(what, "put_bucket_versioning", VersioningConfiguration={"Status": status})

    def _uploads(self, wanted: StoreSettings, *, is_there: bool) -> Iterator[Change]:
        answer = self._ask("get_bucket_lifecycle_configuration") if is_there else None
        rules = list(answer.get("Rules", [])) if answer else []
        others = [rule for rule in rules if rule.get("ID") != RULE_ID]
        days = [_days(rule) for rule in rules if rule.get("ID") == RULE_ID]
        own = {
            "ID": RULE_ID,
            "Status": "Enabled",
            "Filter": {"Prefix": self._bucket.place.key("")},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": wanted.upload_days},
        }
        put = "put_bucket_lifecycle_configuration"
        if wanted.upload_days and days != [wanted.upload_days]:
            what = f"remove what was not finished after {wanted.upload_days} days"
            yield self._put(what, put, LifecycleConfiguration={"Rules": [*others, own]})
        elif days and not wanted.upload_days:
            what = "keep what was not finished"
            if others:
                yield self._put(what, put, LifecycleConfiguration={"Rules": others})
            else:
                yield self._put(what, "delete_bucket_lifecycle")

    def _ask(self, operation: str) -> dict[str, Any] | None:
        """Return what the bucket has of something; None where it has nothing, or the store knows no such thing."""
        try:
            answer: dict[str, Any] = getattr(self._bucket.client, operation)(Bucket=self._name)
        except botocore.exceptions.ClientError as error:
            if status_of(error) in _UNKNOWN:
                return None
            with self._bucket.asked(self._where):
                raise
        except botocore.exceptions.BotoCoreError:
            with self._bucket.asked(self._where):
                raise
        return answer

    def _put(self, what: str, operation: str, **values: Any) -> Change:
        def make() -> None:
            call: Callable[..., Any] = getattr(self._bucket.client, operation)
            with self._bucket.asked(f"{self._where}: {what}"):
                call(Bucket=self._name, **values)

        return Change(what, make)


def _rows(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _comparable(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule without what stores add, in one order."""
    lists = ("AllowedOrigins", "AllowedMethods", "AllowedHeaders", "ExposeHeaders")
    return {**{name: sorted(rule.get(name, ())) for name in lists}, "MaxAgeSeconds": rule.get("MaxAgeSeconds")}


def _days(rule: Mapping[str, Any]) -> int | None:
    found = rule.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation")
    return int(found) if found and rule.get("Status") == "Enabled" else None
