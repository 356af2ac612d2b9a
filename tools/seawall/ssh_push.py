"""Pushing to a tree on another machine, by the ``seawall`` over there, as ``git push`` needs a git.

Only it can keep the tree's promises: one writer, content before pointers, a release record at the end. What the tree
lacks is seen over SFTP, which is one round trip; then a bundle with just that is streamed into ``seawall unbundle -``.
"""

import json
from pathlib import PurePosixPath
from typing import Any

from seawall.bundle import (
    Bundle,
    BundledBlob,
    BundledManifest,
    BundledRepository,
    BundledTag,
    BundlePlan,
    stream_bundle,
)
from seawall.digest import Digest
from seawall.errors import (
    CredentialsError,
    ExitCode,
    InputError,
    SeawallError,
    SourceError,
    TreeError,
    TreeHeldError,
)
from seawall.manifest import Manifest
from seawall.place import SshPlace
from seawall.progress import Progress
from seawall.pushing import OpenBlob, Package, Shipment, plan_push
from seawall.ssh import SSH_FAILED, SshProcess, remote_command
from seawall.ssh_files import SshFiles
from seawall.tree import BLOBS, MANIFESTS, V2, parse_manifest_name

DEFAULT_COMMAND = "seawall"
"""What runs the tool over there: where the role ``tree`` puts it is on everybody's path."""

_ANSWER_BYTES = 16 * 1024 * 1024
_END_SECONDS = 60.0
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127
_KINDS: dict[int, type[SeawallError]] = {
    ExitCode.INPUT: InputError,
    ExitCode.CREDENTIALS: CredentialsError,
    ExitCode.TREE: TreeError,
    ExitCode.HELD: TreeHeldError,
}


def compare(package: Package, place: SshPlace) -> Shipment:
    """Return what has to be sent to the tree at *place* for *package* to be there.

    Raises:
        SeawallError: the host cannot be asked, or refuses.
    """
    where = str(place)
    files = SshFiles(place)
    blobs, manifests = package.blobs, package.manifests
    paths = [f"{BLOBS}/{blob.digest.hex[:2]}/{blob.digest.hex}" for blob in blobs]
    paths += [f"{MANIFESTS}/{m.digest.hex[:2]}/{m.digest.hex}.{m.kind}" for m in manifests]
    try:
        sizes = files.sizes(paths, where)
        link = files.link(f"{V2}/{package.reference.repository}/manifests/{package.reference.tag}", where)
    finally:
        files.close()
    stored = parse_manifest_name(PurePosixPath(link).name) if link else None
    wanted = [blob.size for blob in blobs] + [len(manifest.content) for manifest in manifests]
    named = [blob.digest for blob in blobs] + [manifest.digest for manifest in manifests]
    there = {digest for digest, size, found in zip(named, wanted, sizes, strict=True) if found == size}
    return plan_push(package, there, there, stored.digest if stored else None)


def send(
    shipment: Shipment, place: SshPlace, open_blob: OpenBlob, progress: Progress, command: str = DEFAULT_COMMAND
) -> int | None:
    """Send *shipment* to the tree at *place*; return the number of the release there, or None where no tag moved.

    Args:
        shipment: what to send.
        place: the tree.
        open_blob: returns the bytes of a blob.
        progress: hears of the bytes that are sent.
        command: what runs ``seawall`` over there, as a POSIX shell reads it.

    Raises:
        SeawallError: the source does not answer, the host cannot be reached, or its tree cannot be written.
    """
    plan = _bundle(shipment)
    by_digest = {manifest.digest: manifest.content for manifest in shipment.package.manifests}
    blobs = {blob.digest: blob for blob in shipment.package.blobs}
    process = SshProcess(place, remote_command(command, "unbundle", "-", place.path, "--json"))
    progress.expect(plan.size, f"{len(plan.blobs)} blobs")
    answer = b""
    try:
        stream_bundle(
            plan,
            process.stdin,
            lambda row: iter([by_digest[row.digest]]) if row.digest in by_digest else open_blob(blobs[row.digest]),
            progress,
        )
        process.stdin.close()
        answer = process.stdout.read(_ANSWER_BYTES)
    except BrokenPipeError:
        pass  # It ended before it had read all; why, it says itself.
    except SeawallError:
        # What has arrived whole is kept over there, so that it need not be sent again.
        process.end()
        raise
    except BaseException:
        process.kill()
        process.end()
        raise
    code = process.end(_END_SECONDS)
    if code != ExitCode.OK:
        raise _failure(process, place, code, command)
    return _release(answer, place)


def _bundle(shipment: Shipment) -> BundlePlan:
    package = shipment.package
    rows = {manifest.digest: _row(manifest) for manifest in package.manifests}
    blobs = {blob.digest: BundledBlob(digest=blob.digest, size=blob.size) for blob in package.blobs}
    repository = BundledRepository(
        repository=package.reference.repository,
        manifests=tuple(rows.values()),
        blobs=tuple(blobs.values()),
        tags=(BundledTag(tag=str(package.reference.tag), path=(shipment.before, package.digest)),),
    )
    bundle = Bundle(
        since=0,
        release=0,
        contents=len(shipment.manifests) + len(shipment.blobs),
        base={},
        repositories=(repository,),
    )
    return BundlePlan(
        bundle,
        tuple(rows[manifest.digest] for manifest in shipment.manifests),
        tuple(blobs[blob.digest] for blob in shipment.blobs),
    )


def _row(manifest: Manifest) -> BundledManifest:
    row: dict[str, Digest | str | int] = {"digest": manifest.digest, "kind": manifest.kind.kind}
    return BundledManifest.model_validate({**row, "size": len(manifest.content)})


def _failure(process: SshProcess, place: SshPlace, code: int, command: str) -> SeawallError:
    where = str(place)
    if code == SSH_FAILED:
        return process.failure(where)
    said = f" ({process.said})" if process.said else ""
    if code in {_CANNOT_EXECUTE, _NOT_FOUND}:
        what = f"{place.host} has no {command!r} to run{said}"
        return SourceError(where, what, "install the tool there (role tree), or name it with --remote-command")
    if code == ExitCode.USAGE:
        return SourceError(where, f"the tool of {place.host} is another version{said}", "bring both to the same one")
    kind = _KINDS.get(code, SourceError)
    return kind(
        where, f"{place.host} says: {process.said.removeprefix('seawall: ') or f'exit code {code}'}", "see there"
    )


def _release(answer: bytes, place: SshPlace) -> int | None:
    try:
        document: Any = json.loads(answer)
        release = document["release"]
    except (ValueError, RecursionError, LookupError, TypeError):
        release = ""
    if release is not None and not isinstance(release, int):
        raise SourceError(str(place), f"{place.host} answers what is no result", "see what its --remote-command runs")
    return release
