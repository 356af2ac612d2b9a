"""What still runs somewhere: references in a list, or in the JSON of an engine or a cluster."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seawall.errors import InputError

_MAX_BYTES = 256 * 1024 * 1024
_KEYS = frozenset({"image", "imageid", "imageref", "userspecifiedimage"})
_FREE_TEXT = frozenset({"annotations", "labels", "env"})
"""Fields whose keys anyone may choose."""
_SCHEME = re.compile(r"[a-z-]+://")
_HEX = re.compile(r"[0-9a-f]{12,64}")
_NAME = re.compile(r"(?:(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, order=True)
class InUse:
    """An image as something that runs it calls it: by a name, by a digest, or by both."""

    name: str = ""
    """Name with or without a host, as the engine knows it; it need not be the tree's."""
    tag: str = ""
    """Empty where a digest says more, or there is no name."""
    hex: str = ""
    """The first 12 to 64 hexadecimal digits of a manifest's digest, or of a config's (an engine's image id)."""

    def may_be(self, repository: str) -> bool:
        """Return whether the name may be that of *repository* of a tree.

        Engines write the host that they pulled from before the name, or leave out what is the default
        (``alpine`` for ``docker.io/library/alpine``). Where one name ends in the other they may be the same: keeping
        too much costs space, keeping too little an outage.
        """
        ours, theirs = f"/{repository}", f"/{self.name}"
        return bool(self.name) and (ours.endswith(theirs) or theirs.endswith(ours))


def read_in_use(file: str) -> frozenset[InUse]:
    """Return what the file of this name says is in use; ``-`` is standard input.

    Raises:
        InputError: it cannot be read, is empty, or is not understood. It never counts as "nothing is in use".
    """
    where = "standard input" if file == "-" else file
    try:
        if file == "-":
            content = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(_MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise InputError(where, f"cannot be read ({error.strerror})", "give a readable file") from None
    except UnicodeDecodeError:
        raise InputError(where, "is not UTF-8 text", "give a list of references, or JSON") from None
    if len(content) > _MAX_BYTES:
        raise InputError(where, f"is larger than {_MAX_BYTES} bytes", "give the file that was meant")
    return parse_in_use(text, where)


def parse_in_use(text: str, where: str) -> frozenset[InUse]:
    """Return what *text* says is in use; *where* names it in errors.

    *text* is a list with one reference or digest a line (``#`` starts a comment), or the JSON of ``docker ps
    --format '{{json .}}'``, ``docker inspect``, ``crictl ps -o json`` or ``kubectl get pods -o json``.

    Raises:
        InputError: it is empty, or neither of these.
    """
    start = text.lstrip()
    if not start:
        # What a command that failed leaves behind looks just like this.
        raise InputError(where, "is empty", "check what wrote it; if nothing runs there, let it hold # nothing")
    if start[0] not in "[{":
        lines = tuple(enumerate((line.partition("#")[0].strip() for line in text.splitlines()), 1))
        for number, line in lines:
            if line == "json":
                raise InputError(
                    f"{where}:{number}", "'json' is what docker before 23 prints", "write --format '{{json .}}'"
                )
        return frozenset(_parse(line, f"{where}:{number}") for number, line in lines if line)
    found: set[InUse] = set()
    for number, row in enumerate(_rows(start, where), 1):
        images = frozenset(_images(row))
        if not images:
            raise InputError(
                where, f"names no image in its row {number}", "give the JSON of docker ps or inspect, crictl or kubectl"
            )
        found |= {_parse(image, f"{where}: row {number}") for image in images}
    return frozenset(found)


def _rows(text: str, where: str) -> Iterator[Any]:
    """Yield each container or pod of the JSON documents that follow each other in *text*."""
    decoder = json.JSONDecoder()
    while text:
        try:
            document, end = decoder.raw_decode(text)
        except (ValueError, RecursionError) as error:
            raise InputError(where, f"is not JSON to its end ({error})", "check what wrote it") from None
        text = text[end:].lstrip()
        rows = document
        if isinstance(document, dict):
            rows = next((document[name] for name in ("items", "containers") if name in document), [document])
        if not isinstance(rows, list):
            raise InputError(where, "holds no list of containers or pods", "check what wrote it")
        yield from rows


def _images(document: Any) -> Iterator[str]:
    """Yield every image that *document* names, wherever it stands."""
    if isinstance(document, list):
        for row in document:
            yield from _images(row)
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        name = key.lower()
        if name in _KEYS and isinstance(value, str):
            # A container that is still being made has an imageID that is empty.
            if value:
                yield value
        elif name == "imagemanifestdescriptor" and isinstance(value, dict) and isinstance(value.get("digest"), str):
            yield value["digest"]
        elif name == "image" and isinstance(value, dict) and isinstance(value.get("reference"), str):
            yield value["reference"]
            yield from _images(value)
        elif name not in _FREE_TEXT:
            yield from _images(value)


def _parse(text: str, where: str) -> InUse:
    reference = _SCHEME.sub("", text, count=1)
    name, at, digest = reference.partition("@")
    hex_ = (digest if at else reference).removeprefix("sha256:")
    is_digest = _HEX.fullmatch(hex_) is not None
    if (at or reference.startswith("sha256:")) and is_digest:
        return InUse(hex=hex_)
    before, colon, after = name.rpartition(":")
    if not colon or "/" in after:
        before, after = name, "latest"
    if not at and before != "sha256" and _NAME.fullmatch(before) and _TAG.fullmatch(after):
        # Twelve digits are how an engine shows an image that has lost its name; they may be a name as well.
        return InUse(before, after, hex_ if is_digest else "")
    raise InputError(
        where, f"{text[:200]!r} is no reference and no digest", "write REPO:TAG, REPO@sha256:... or sha256:..."
    )
