#!/usr/bin/env python3
"""Make an OCI image layout of busybox out of the distribution's own packages.

One image for each package (each of another architecture) under one OCI index, of three layers: the folders that a
system has, the program, and the names that it goes by. The same packages always give the same bytes, so the same
digests: nothing of the machine, the hour or the account that runs this goes in.

It stands on the standard library and `dpkg-deb` alone, because it runs on the host, before anything of ours does.
Follows the OCI Image Specification 1.1: image-layout.md, image-index.md, manifest.md, config.md and layer.md.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "busybox-static"
PLATFORMS: Mapping[str, Mapping[str, str]] = {
    "amd64": {"architecture": "amd64", "os": "linux"},
    "arm64": {"architecture": "arm64", "os": "linux", "variant": "v8"},
}
"""Debian's names of architectures, and the platforms that the OCI specification means by them."""

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CREATED = "1970-01-01T00:00:00Z"

PROGRAM = "bin/busybox"
COPYRIGHT = "usr/share/doc/busybox-static/copyright"

FOLDERS = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/share": 0o755,
    "var": 0o755,
    "var/tmp": 0o1777,
}
FILES = {
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
}
_APPLETS = (
    "[ arch ash awk base64 basename cat chgrp chmod chown cmp cp cut date dd df diff dirname du echo env expr false "
    "find free grep gunzip gzip head hostname httpd id kill less ln ls md5sum mkdir mknod mktemp more mount "
    "mv nc nslookup ping pidof printf ps pwd readlink realpath reset rm rmdir sed seq sh sha256sum sleep sort stat "
    "stty sync tail tar tee test time timeout touch tr true tty umount uname uniq vi wc wget which whoami xargs yes"
)
APPLETS = tuple(_APPLETS.split())


class DistroImageError(Exception):
    """Something that a person can put right; its text is one line that says what."""


@dataclass(frozen=True)
class Package:
    """A package file, with what its control file says."""

    path: Path
    architecture: str
    version: str

    @property
    def upstream_version(self) -> str:
        """The version without epoch and Debian revision, for example 1.35.0."""
        return self.version.rpartition(":")[2].partition("-")[0]


@dataclass(frozen=True)
class Blob:
    """Bytes with the descriptor that names them (descriptor.md)."""

    media_type: str
    content: bytes

    @property
    def hex(self) -> str:
        """The SHA-256 of the bytes."""
        return hashlib.sha256(self.content).hexdigest()

    def descriptor(self, **more: object) -> dict[str, object]:
        """Return the descriptor, with the fields *more* at its end."""
        return {"mediaType": self.media_type, "digest": f"sha256:{self.hex}", "size": len(self.content), **more}


@dataclass(frozen=True)
class Layer:
    """A layer: its blob, and the digest of what the blob unpacks to (config.md, `diff_ids`)."""

    blob: Blob
    diff_id: str
    comment: str


@dataclass(frozen=True)
class Layout:
    """All that goes into the layout's folder."""

    blobs: tuple[Blob, ...]
    index: Blob
    tags: tuple[str, ...]

    @property
    def entry_point(self) -> bytes:
        """The text of index.json: the same index under each tag (image-layout.md, "index.json file")."""
        name = "org.opencontainers.image.ref.name"
        manifests = [self.index.descriptor(annotations={name: tag}) for tag in self.tags]
        return _json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests})


def read_package(path: Path) -> Package:
    """Return what the package file *path* says of itself.

    Raises:
        DistroImageError: it is no package of busybox-static for a platform that we know.
    """
    if not path.is_file():
        raise DistroImageError(f"{path}: no such file")
    answer = _dpkg_deb("--show", "--showformat=${Package}\n${Architecture}\n${Version}\n", str(path))
    name, architecture, version = answer.decode().splitlines()
    if name != PACKAGE:
        raise DistroImageError(f"{path}: is a package of {name}, not of {PACKAGE}")
    if architecture not in PLATFORMS:
        raise DistroImageError(f"{path}: is for {architecture}; known are {', '.join(sorted(PLATFORMS))}")
    return Package(path, architecture, version)


def make_layout(packages: Sequence[Package]) -> Layout:
    """Return the layout that *packages* give; it depends on their content alone.

    Raises:
        DistroImageError: two are of one architecture, or a package lacks a file.
    """
    architectures = [package.architecture for package in packages]
    if len(set(architectures)) != len(architectures):
        raise DistroImageError("two packages are of one architecture; name one for each platform")
    blobs: dict[str, Blob] = {}
    entries = []
    for package in sorted(packages, key=lambda package: package.architecture):
        manifest, parts = _image(package)
        blobs |= {blob.hex: blob for blob in (*parts, manifest)}
        entries.append(manifest.descriptor(platform=PLATFORMS[package.architecture]))
    index = _document(INDEX_TYPE, {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
    blobs[index.hex] = index
    return Layout(tuple(blobs.values()), index, _tags(packages))


def write_layout(folder: Path, layout: Layout, *, dry_run: bool = False) -> bool:
    """Make *folder* hold *layout*; return whether that changes anything (or would, with *dry_run*).

    Blobs come first and index.json last, each by a rename, so that a reader finds an old layout or a new one. Blobs
    that only an older index names stay: somebody may have pinned them.

    Raises:
        OSError: the folder cannot be written.
    """
    files = {f"blobs/sha256/{blob.hex}": blob.content for blob in layout.blobs}
    files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    files["index.json"] = layout.entry_point
    missing = {name: content for name, content in files.items() if not _holds(folder / name, content)}
    if not dry_run:
        for name, content in missing.items():
            _write(folder / name, content)
    return bool(missing)


def _image(package: Package) -> tuple[Blob, tuple[Blob, ...]]:
    """Return the manifest of one platform's image, and the blobs that it names."""
    content = _package_files(package, (PROGRAM, COPYRIGHT))
    layers = (_system_layer(), _program_layer(content), _names_layer(content[PROGRAM], package))
    platform = PLATFORMS[package.architecture]
    name = f"{platform['os']}/{platform['architecture']}"
    config = _document(
        CONFIG_TYPE,
        {
            "created": CREATED,
            **platform,
            "config": {
                "Env": ["PATH=/bin:/usr/bin"],
                "Cmd": ["echo", f"busybox served by Seawall ({name})"],
                "Labels": {"org.opencontainers.image.version": package.version},
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": CREATED, "created_by": layer.comment} for layer in layers],
        },
    )
    manifest = _document(
        MANIFEST_TYPE,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(),
            "layers": [layer.blob.descriptor() for layer in layers],
        },
    )
    return manifest, (config, *(layer.blob for layer in layers))


def _system_layer() -> Layer:
    """Return the layer that every platform shares."""
    with _layer_tar() as (archive, output):
        for name, mode in FOLDERS.items():
            _add_folder(archive, name, mode)
        for name, text in FILES.items():
            _add_file(archive, name, text.encode(), 0o644)
    return _layer(output, "the folders of a system, and its accounts")


def _program_layer(content: Mapping[str, bytes]) -> Layer:
    """Return the layer of the program, with the licence that it comes under."""
    with _layer_tar() as (archive, output):
        _add_file(archive, PROGRAM, content[PROGRAM], 0o755)
        for parent in reversed(Path(COPYRIGHT).parents):
            if str(parent) not in (".", *FOLDERS):
                _add_folder(archive, str(parent), 0o755)
        _add_file(archive, COPYRIGHT, content[COPYRIGHT], 0o644)
    return _layer(output, f"{PACKAGE} of the distribution")


def _names_layer(program: bytes, package: Package) -> Layer:
    """Return the layer of links by which the program knows what it is called for."""
    absent = [name for name in APPLETS if b"\0" + name.encode() + b"\0" not in program]
    if absent:
        raise DistroImageError(f"{package.path}: its busybox does not know {', '.join(absent)}")
    with _layer_tar() as (archive, output):
        for name in APPLETS:
            _add_link(archive, f"bin/{name}", "busybox")
    return _layer(output, "the names that busybox goes by")


@contextlib.contextmanager
def _layer_tar() -> Iterator[tuple[tarfile.TarFile, io.BytesIO]]:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        yield archive, output


def _layer(archive: io.BytesIO, comment: str) -> Layer:
    content = archive.getvalue()
    packed = io.BytesIO()
    # Without a name and a time, gzip's header says nothing of the machine.
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(content)
    diff_id = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Layer(Blob(LAYER_TYPE, packed.getvalue()), diff_id, comment)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    """Return an archive entry of root's and of the epoch: a new TarInfo says so by itself."""
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = mode
    return entry


def _add_folder(archive: tarfile.TarFile, name: str, mode: int) -> None:
    archive.addfile(_entry(name, tarfile.DIRTYPE, mode))


def _add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    entry = _entry(name, tarfile.SYMTYPE, 0o777)
    entry.linkname = target
    archive.addfile(entry)


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _package_files(package: Package, names: Sequence[str]) -> dict[str, bytes]:
    """Return the files *names* out of *package*."""
    found = {}
    content = io.BytesIO(_dpkg_deb("--fsys-tarfile", str(package.path)))
    with tarfile.open(fileobj=content, mode="r:") as archive:
        for entry in archive:
            # A system with one /usr has the program at usr/bin.
            name = entry.name.removeprefix("./").replace("usr/bin/busybox", PROGRAM)
            file = archive.extractfile(entry) if entry.isfile() and name in names else None
            if file:
                found[name] = file.read()
    for name in names:
        if name not in found:
            raise DistroImageError(f"{package.path}: has no file {name}")
    return found


def _dpkg_deb(*arguments: str) -> bytes:
    try:
        # No shell, and arguments that are options of ours and a path.
        return subprocess.run(["/usr/bin/dpkg-deb", *arguments], check=True, capture_output=True).stdout  # noqa: S603
    except FileNotFoundError:
        raise DistroImageError("dpkg-deb is missing: this needs Debian or a relative of it") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise DistroImageError(said[-1] if said else f"dpkg-deb failed on {arguments[-1]}") from None


def _tags(packages: Sequence[Package]) -> tuple[str, ...]:
    """Return the tags: for 1.35.0 these are 1, 1.35, 1.35.0 and latest."""
    version = min(packages, key=lambda package: package.architecture).upstream_version
    parts = version.split(".")
    return (*(".".join(parts[: n + 1]) for n in range(len(parts))), "latest")


def _document(media_type: str, document: Mapping[str, object]) -> Blob:
    return Blob(media_type, _json(document))


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _write(path: Path, content: bytes) -> None:
    """Write *content* to *path*, whole or not at all, for everybody to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Make an OCI image layout of busybox out of Debian's packages.")
    parser.add_argument("--dry-run", action="store_true", help="write nothing, only say whether that would change")
    parser.add_argument("layout", type=Path, metavar="LAYOUT", help="the folder to write; made if it is missing")
    parser.add_argument("packages", type=Path, nargs="+", metavar="DEB", help=f"a package of {PACKAGE}")
    arguments = parser.parse_args()
    # Another account reads what root makes here, however private root likes its files.
    os.umask(0o022)
    try:
        layout = make_layout([read_package(path) for path in arguments.packages])
        changed = write_layout(arguments.layout, layout, dry_run=arguments.dry_run)
    except DistroImageError as error:
        sys.stderr.write(f"distro_image: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"distro_image: {error.filename}: {error.strerror}\n")
        return 1
    answer = {"changed": changed, "digest": f"sha256:{layout.index.hex}", "tags": list(layout.tags)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
