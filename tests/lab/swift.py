"""A real OpenStack Swift of one device, from PyPI: proxy, account, container and object server, and memcached."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import requests

from .command import run
from .daemon import Daemon
from .network import LAB
from .store import READY_SECONDS

DOMAIN = "swift.test"
"""A container is also served at the root of ``CONTAINER.auth-lab.`` this, to whoever resolves that."""
ACCOUNT = "AUTH_lab"
USER, KEY = "lab:lab", "lab-secret"
PORT = 8360
_STOP_SECONDS = 1.0  # what it holds is thrown away
_BACKENDS = ("object", "container", "account")

_CLUSTER = """\
[swift-hash]
swift_hash_path_suffix = lab

[storage-policy:0]
name = only
default = yes
"""
_RING = """\
import sys
from swift.common.ring import RingBuilder

builder = RingBuilder(8, 1, 1)
builder.add_dev({
    "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(sys.argv[2]), "device": "disk", "weight": 1
})
builder.rebalance()
builder.get_ring().save(sys.argv[1])
"""
# Without the user and its group workers end, and do not say why.
_DEFAULT = """\
[DEFAULT]
bind_ip = {host}
bind_port = {port}
workers = 1
user = root
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
fallocate_reserve = 0
log_name = {name}
log_level = WARN
log_address = {folder}/no-syslog

"""
_BACKEND = """\
[pipeline:main]
pipeline = {name}-server

[app:{name}-server]
use = egg:swift#{name}
"""
# Its defaults, and the two that a registry's clients look at.
_OBJECT = """\
allowed_headers = Content-Disposition, Content-Encoding, X-Delete-At, X-Object-Manifest, X-Static-Large-Object,
    Cache-Control, Content-Language, Expires, X-Robots-Tag, Docker-Content-Digest, Docker-Distribution-Api-Version
"""
_PROXY = """\
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck domain_remap proxy-logging cache etag-quoter listing_formats bulk tempurl
    s3api tempauth staticweb copy slo dlo versioned_writes symlink proxy-logging proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:domain_remap]
use = egg:swift#domain_remap
storage_domain = {domain}

[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{cache_port}

[filter:tempauth]
use = egg:swift#tempauth
user_lab_lab = {key} .admin

[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
allow_versioned_writes = true
"""
_PLAIN_FILTERS = (
    "catch_errors",
    "gatekeeper",
    "healthcheck",
    "proxy-logging",
    "etag-quoter",
    "listing_formats",
    "bulk",
    "tempurl",
    "s3api",
    "staticweb",
    "copy",
    "slo",
    "dlo",
    "symlink",
)


class Swift:
    """A running cluster that answers at `url`, with an account "lab" whose user may do everything."""

    def __init__(self, daemons: Sequence[Daemon], url: str) -> None:
        """The `daemons` are ended in their order; the first one is the proxy."""
        self.url = url
        self._daemons = daemons

    @classmethod
    def start(cls, folder: Path, *, host: str = LAB.gateway, port: int = PORT) -> Self:
        """Start a cluster that keeps all it has in `folder`, at `port` and, for itself, the four ports after it.

        Raises NotReadyError.
        """
        (folder / "devices/disk").mkdir(parents=True)
        (folder / "swift.conf").write_text(_CLUSTER)
        backends = dict(zip(_BACKENDS, range(port + 1, port + 4), strict=True))
        cache_port = port + 4
        # Not root, as which it would not run; it keeps nothing on disk.
        cache = ["memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", str(cache_port), "-U", "0", "-m", "32"]
        daemons = [Daemon(cache, folder / "cache.out")]
        for name, backend_port in backends.items():
            _make_ring(folder / f"{name}.ring.gz", backend_port)
            text = _DEFAULT.format(name=name, host="127.0.0.1", port=backend_port, folder=folder)
            text += _BACKEND.format(name=name) + (_OBJECT if name == "object" else "")
            daemons.append(_server(name, folder, text))
        text = _DEFAULT.format(name="proxy", host=host, port=port, folder=folder)
        text += _PROXY.format(domain=DOMAIN, cache_port=cache_port, key=KEY)
        text += "".join(f"\n[filter:{name}]\nuse = egg:swift#{name.replace('-', '_')}\n" for name in _PLAIN_FILTERS)
        proxy = _server("proxy", folder, text)
        swift = cls((proxy, *reversed(daemons)), f"http://{host}:{port}")
        proxy.wait_ready(swift.is_ready, READY_SECONDS)
        return swift

    @property
    def storage_url(self) -> str:
        """What the containers are below, by the native API."""
        return f"{self.url}/v1/{ACCOUNT}"

    @property
    def env(self) -> Mapping[str, str]:
        """The settings with which a Swift tool talks to this cluster, as the account's user."""
        return {
            "OS_AUTH_TYPE": "v1password",
            "OS_AUTH_URL": f"{self.url}/auth/v1.0",
            "OS_USERNAME": USER,
            "OS_PASSWORD": KEY,
        }

    @property
    def s3_env(self) -> Mapping[str, str]:
        """The settings with which any S3 tool does."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def token(self) -> str:
        """A token of the account's user."""
        headers = {"X-Auth-User": USER, "X-Auth-Key": KEY}
        answer = requests.get(f"{self.url}/auth/v1.0", headers=headers, timeout=10)
        answer.raise_for_status()
        return answer.headers["X-Auth-Token"]

    def ask(self, method: str, path: str, **headers: str) -> requests.Response:
        """Send a request as the account's user; `path` begins with a container.  Fails unless it succeeds."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields["X-Auth-Token"] = self.token()
        answer = requests.request(method, f"{self.storage_url}/{path}", headers=fields, timeout=30)
        answer.raise_for_status()
        return answer

    def make_container(self, name: str, read: str = ".r:*") -> None:
        """Make a container which those may read whom `read` names."""
        self.ask("PUT", name, X_Container_Read=read)

    def is_ready(self) -> bool:
        """Make a container and see that an object can be written to it: that takes longer than to answer."""
        try:
            self.make_container("ready")
            self.ask("PUT", "ready/object")
            self.ask("DELETE", "ready/object")
            self.ask("DELETE", "ready")
        except requests.RequestException:
            return False
        return True

    def stop(self) -> None:
        """End the cluster."""
        for daemon in self._daemons:
            daemon.stop(_STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _server(name: str, folder: Path, text: str) -> Daemon:
    settings = folder / f"{name}-server.conf"
    settings.write_text(text)
    program = Path(sys.executable).with_name(f"swift-{name}-server")
    return Daemon([str(program), str(settings), "-v"], folder / f"{name}.out")


def _make_ring(path: Path, port: int) -> None:
    # In a process of its own: where that library is loaded, threads are no threads any more.
    run([sys.executable, "-c", _RING, str(path), str(port)])
