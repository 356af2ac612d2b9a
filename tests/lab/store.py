"""A real S3 store: SeaweedFS, one process from PyPI."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .daemon import Daemon
from .network import LAB

READY_SECONDS = 60.0
STOP_SECONDS = 1.0  # it would wait ten for clients to go away; what it holds is thrown away anyway
DOMAIN = "s3.test"
"""A bucket is also served at the root of its own name below this one, to whoever resolves that."""
ACCESS_KEY, SECRET_KEY = "lab", "lab-secret"


class Store:
    """A running store on `host`, with an account that may do everything.

    It enforces Content-MD5, checksums and conditional writes.  What is in a bucket that `public` names, everybody
    may read and list.
    """

    def __init__(self, daemons: Sequence[Daemon], url: str, sockets: Sequence[Path] = ()) -> None:
        """The `daemons` are ended in their order; the first one answers at `url`."""
        self.url = url
        self._daemons = daemons
        self._sockets = sockets

    @classmethod
    def start(
        cls, folder: Path, *, host: str = LAB.gateway, port: int = 8333, public: Sequence[str] = ("images",)
    ) -> Self:
        """Start a store that keeps its objects and log in `folder`, and make the buckets `public`.

        Raises NotReadyError.
        """
        (folder / "data").mkdir(parents=True)
        identities: list[dict[str, object]] = [
            {
                "name": "lab",
                "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            },
            {"name": "anonymous", "actions": [f"{verb}:{bucket}" for bucket in public for verb in ("Read", "List")]},
        ]
        accounts = folder / "accounts.json"
        accounts.write_text(json.dumps({"identities": identities}))
        # Its parts also talk through sockets in /tmp that are named by these ports, and /tmp is everybody's.
        first = 20_000 + 4 * secrets.randbelow(10_000)
        ports = dict(enumerate(("master", "volume", "filer", "s3"), first))
        daemon = Daemon(
            [
                str(Path(sys.executable).with_name("weed")),
                "-logtostderr=true",
                "server",
                f"-dir={folder / 'data'}",
                f"-ip={host}",
                f"-ip.bind={host}",
                "-master.telemetry=false",
                "-master.volumeSizeLimitMB=256",
                "-volume.max=20",
                "-s3",
                f"-s3.port={port}",
                f"-s3.domainName={DOMAIN}",
                f"-s3.localSocket={folder / 's3.sock'}",
                f"-filer.localSocket={folder / 'filer.sock'}",
                *(f"-{part}.port.grpc={number}" for number, part in ports.items()),
                f"-s3.config={accounts}",
            ],
            folder / "store.log",
        )
        # It leaves them where they are.
        sockets = [Path(f"/tmp/seaweedfs-{part}-grpc-{number}.sock") for number, part in ports.items()]  # noqa: S108
        store = cls((daemon,), f"http://{host}:{port}", sockets)
        for bucket in public:
            daemon.wait_ready(lambda bucket=bucket: store.has_bucket(bucket), READY_SECONDS)  # type: ignore[misc]
        return store

    @property
    def env(self) -> Mapping[str, str]:
        """The settings with which any S3 tool talks to this store, and to nothing else."""
        return {
            **self.public_env,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    @property
    def public_env(self) -> Mapping[str, str]:
        """The same for somebody without an account."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> Any:
        """A boto3 client with the account's rights."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"total_max_attempts": 1},
            ),
        )

    def has_bucket(self, bucket: str, acl: str = "private") -> bool:
        """Make `bucket` and see that an object can be written to it: that takes longer than to answer."""
        client = self.client()
        try:
            if not any(row["Name"] == bucket for row in client.list_buckets()["Buckets"]):
                client.create_bucket(Bucket=bucket, ACL=acl)
            client.put_object(Bucket=bucket, Key="ready", Body=b"")
            client.delete_object(Bucket=bucket, Key="ready")
        except (BotoCoreError, ClientError):
            return False
        return True

    def log(self) -> str:
        """The end of the store's log."""
        return self._daemons[0].tail()

    def stop(self) -> None:
        """End the store."""
        for daemon in self._daemons:
            daemon.stop(STOP_SECONDS)
        for socket in self._sockets:
            socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
