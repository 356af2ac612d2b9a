"""A real S3 store of another make: Ceph's gateway over one monitor and one disk in memory, from Debian's packages."""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path

from .command import run
from .daemon import POLL_SECONDS, Daemon
from .network import LAB
from .store import ACCESS_KEY, DOMAIN, READY_SECONDS, SECRET_KEY, Store

PORT = 8355
_DISK_BYTES = 2 * 1024**3
_SETTINGS = """\
[global]
fsid = {fsid}
mon host = {monitor}
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc secure
keyring = /dev/null
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
paxos propose interval = 0.05
paxos min wait = 0.01
run dir = {folder}/run
log file = {folder}/$name.log
admin socket = {folder}/run/$name.asok
pid file =
mon data = {folder}/monitor
osd objectstore = memstore
memstore device bytes = {size}
osd data = {folder}/disk
rgw frontends = beast endpoint={host}:{port}
rgw dns name = {domain}
rgw gc obj min wait = 5
"""


def start(folder: Path, *, host: str = LAB.gateway, port: int = PORT) -> Store:
    """Start a gateway that keeps all it has in `folder`, with a bucket "images" that everybody may read.

    Raises NotReadyError, and CommandFailedError.
    """
    for name in ("run", "monitor", "disk"):
        (folder / name).mkdir(parents=True)
    settings, monitors = folder / "ceph.conf", folder / "monitors"
    fsid, disk = str(uuid.uuid4()), str(uuid.uuid4())
    monitor = f"[v2:{host}:3300,v1:{host}:6789]"
    settings.write_text(
        _SETTINGS.format(
            fsid=fsid, monitor=monitor, folder=folder, size=_DISK_BYTES, host=host, port=port, domain=DOMAIN
        )
    )
    conf = ("-c", str(settings))
    run(["monmaptool", "--create", "--addv", "a", monitor, "--fsid", fsid, str(monitors)])
    run(["ceph-mon", *conf, "-i", "a", "--mkfs", "--monmap", str(monitors)])
    daemons = [Daemon(["ceph-mon", *conf, "-i", "a", "-f"], folder / "monitor.out")]
    _patiently(["ceph", *conf, "--connect-timeout", "5", "osd", "new", disk])
    run(["ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", disk])
    daemons.append(Daemon(["ceph-osd", *conf, "-i", "0", "-f"], folder / "disk.out"))
    account = ["--uid=lab", "--display-name=lab", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"]
    run(["radosgw-admin", *conf, "user", "create", *account])
    gateway = Daemon(["radosgw", *conf, "-n", "client.rgw", "-f"], folder / "gateway.out")
    store = Store((gateway, *reversed(daemons)), f"http://{host}:{port}")
    gateway.wait_ready(lambda: store.has_bucket("images", "public-read"), READY_SECONDS)
    return store


def _patiently(command: list[str]) -> None:
    """Run `command` until it succeeds: the monitor takes a moment before it answers."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return
        time.sleep(POLL_SECONDS)
    run(command)
