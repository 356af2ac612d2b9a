"""Debian root file systems, made from the machine's own package mirror, and images of them.

Such an image names the mirror: it is cached and used here, and never published.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from .command import run
from .engine import Engine

TOP = Path(__file__).resolve().parents[2]
CERTIFICATES = Path("/usr/local/share/ca-certificates")
ARCHIVES = {"debian", "debian-security"}  # the last part of their address on every mirror
POCKETS = {"", "updates", "security"}
KEEP_SECONDS = 21 * 24 * 3600.0
BUILD_SECONDS = 600.0
# As in Debian's own slim images; a third less to import.
DPKG_OPTIONS = tuple(f"path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man"))
# Snapshots and mirrors that lag are as good as any for a test.
APT_OPTIONS = ('Acquire::Check-Valid-Until "false"', 'Acquire::Check-Date "false"')


class NoMirrorError(Exception):
    """The machine has no mirror of Debian to make root file systems from."""


@dataclass(frozen=True)
class RootFs:
    """What a root file system is made of."""

    name: str
    packages: tuple[str, ...]
    suite: str = "bookworm"
    variant: Literal["minbase", "extract"] = "minbase"
    setup: Path | None = None  # a folder with a program `setup`, which gets the root's path

    def fingerprint(self) -> str:
        """What changes when the root file system has to be made anew."""
        files = sorted(self.setup.iterdir()) if self.setup else []
        certificates = sorted(CERTIFICATES.glob("*.crt"))
        made_of = [
            [self.name, self.packages, self.suite, self.variant],
            [(path.name, path.read_text()) for path in (*files, *certificates)],
            [sources(self.suite), APT_OPTIONS, DPKG_OPTIONS],
        ]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]


# What a host of a site has before anything is rolled out.
HOST = RootFs(
    "host",
    (
        "ca-certificates",
        "curl",
        "dbus",
        "iproute2",
        "iputils-ping",
        "openssh-server",
        "procps",
        "python3",
        "python3-apt",
        "sudo",
        "systemd",
        "systemd-sysv",
    ),
    setup=Path(__file__).parent / "host-setup",
)
# A machine that pulls: Docker 20.10, containerd 1.6, podman 4.3, buildah 1.28, skopeo 1.9.
CLIENT = replace(
    HOST,
    name="client",
    packages=(*HOST.packages, "buildah", "docker.io", "iptables", "netavark", "podman", "skopeo"),
)
# A machine that runs a registry, and has what fills it.
REGISTRY = replace(HOST, name="registry", packages=(*HOST.packages, "docker-registry", "skopeo"))
# A fresh machine with what a first checkout needs: no sudo, no systemd, no venv.
BARE = RootFs("bare", ("ca-certificates", "git", "make", "python3"))
# One static program, for images of a megabyte.
BUSYBOX = RootFs("busybox", ("busybox-static",), variant="extract")


@dataclass(frozen=True)
class Image:
    """An image in the engine, and what runs as the first process of its containers."""

    reference: str
    init: Literal["systemd", "sleep"]


def tarballs(*wanted: RootFs) -> list[Path]:
    """What `tarball` gives for each; those that are to be made are made side by side."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(tarball, wanted))


def tarball(rootfs: RootFs) -> Path:
    """The root file system as a tar file, from the cache or made now (about half a minute).

    Its packages are at most a week old.  Raises CommandFailedError if mmdebstrap fails.
    """
    year, week, _ = datetime.datetime.now(datetime.UTC).isocalendar()
    folder = cache()
    made_of = rootfs.fingerprint()
    place = folder / f"{rootfs.name}-{rootfs.suite}-{year}w{week:02}-{made_of}.tar"
    with (folder / f"{rootfs.name}-{rootfs.suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another session may be making it
        if not place.exists():
            partial = place.with_suffix(".partial")
            _make(rootfs, partial)
            partial.replace(place)
            _remove_old(folder)
    return place


def _make(rootfs: RootFs, target: Path) -> None:
    options = [f"--aptopt={option}" for option in APT_OPTIONS]
    options += [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
    certificates = sorted(CERTIFICATES.glob("*.crt"))
    if certificates and rootfs.variant != "extract":
        files = " ".join(shlex.quote(str(path)) for path in certificates)
        options.append(f'--customize-hook=cp {files} "$1{CERTIFICATES}/"')
        options.append('--customize-hook=chroot "$1" update-ca-certificates')
    if rootfs.setup is not None:
        options.append(f"--customize-hook={rootfs.setup / 'setup'}")
    run(
        [
            "mmdebstrap",
            "--mode=root",
            "--format=tar",
            f"--variant={rootfs.variant}",
            f"--include={','.join(rootfs.packages)}",
            *options,
            rootfs.suite,
            str(target),
            "-",
        ],
        stdin="\n".join(sources(rootfs.suite)) + "\n",
        seconds=BUILD_SECONDS,
    )


def _remove_old(folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix in {".tar", ".partial"} and path.stat().st_mtime < time.time() - KEEP_SECONDS:
            path.unlink()


def cache() -> Path:
    """The folder for what is expensive to make: $SEAWALL_TEST_CACHE, else below the checkout."""
    folder = Path(os.environ.get("SEAWALL_TEST_CACHE") or TOP / ".cache" / "tests")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    return folder


def sources(suite: str) -> list[str]:
    """The machine's own Debian mirrors as lines of a sources.list(5), for `suite`.

    Only Debian's archive, its updates and its security updates; the machine's suite may be another.
    Raises NoMirrorError if there are none.
    """
    listed = run(
        [
            "apt-get",
            "indextargets",
            "--format=$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ]
    ).stdout
    lines = set()
    for target in listed.splitlines():
        uri, release, component = target.split()
        _, dash, pocket = release.partition("-")
        archive = urlsplit(uri).path.strip("/").rpartition("/")[2]
        if archive in ARCHIVES and pocket in POCKETS and component == "main":
            lines.add(f"deb {uri} {suite}{dash}{pocket} main")
    if not lines:
        raise NoMirrorError("apt knows no mirror of Debian; is this a Debian machine?")
    return sorted(lines)


def host_image(engine: Engine, rootfs: RootFs = HOST) -> Image:
    """The image of a host with systemd and sshd, in `engine`."""
    reference = f"lab/{rootfs.name}:{rootfs.suite}"
    engine.docker(
        "import",
        "--change=ENV container=docker",
        '--change=CMD ["/usr/local/sbin/first-process"]',
        str(tarball(rootfs)),
        reference,
    )
    return Image(reference, "systemd")


def built_image(engine: Engine, rootfs: RootFs = HOST, options: Sequence[str] = ()) -> Image:
    """The image of a host with systemd and sshd, built by `engine` itself on Debian's own image.

    For machines without mmdebstrap.  $SEAWALL_LAB_BASE is built on instead, if it is set; `options` are further
    options of docker-build(1).  Raises CommandFailedError.
    """
    reference = f"seawall-lab/{rootfs.name}:{rootfs.suite}"
    engine.docker(
        "build",
        f"--build-arg=BASE={os.environ.get('SEAWALL_LAB_BASE', f'debian:{rootfs.suite}-slim')}",
        f"--build-arg=PACKAGES={' '.join(rootfs.packages)}",
        f"--tag={reference}",
        *options,
        str(Path(__file__).parent),
        seconds=BUILD_SECONDS,
    )
    return Image(reference, "systemd")


def bare_image(engine: Engine, rootfs: RootFs = BARE) -> Image:
    """The image of a fresh machine that runs nothing, in `engine`."""
    reference = f"lab/{rootfs.name}:{rootfs.suite}"
    engine.docker("import", '--change=CMD ["sleep", "infinity"]', str(tarball(rootfs)), reference)
    return Image(reference, "sleep")
