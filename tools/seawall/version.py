"""The versions that tags spell: ``1.25.3``, ``v2.0.0-rc.1``, ``1.25.3-alpine``.

Versions are read and ordered as PEP 440 has it, which is what most tags follow, knowingly or not: a leading ``v``
says nothing, ``3.20`` and ``3.20.0`` are one version, ``1.0.0-rc.1`` is a pre-release, and ``1.2.3-r4`` comes after
``1.2.3``.
"""

import re
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

_BEGINNING = re.compile(r"v?[0-9]")
_BOUNDARY = re.compile(r"[-_.]")


@dataclass(frozen=True, slots=True)
class TagVersion:
    """The version that a tag begins with, and what follows it."""

    version: Version
    suffix: str
    """As it stands in the tag: ``-alpine``; empty for a tag that is a version and nothing else."""


def tag_version(tag: str) -> TagVersion | None:
    """Return the longest version that *tag* begins with, and the rest; None where it begins with none.

    A version ends with the tag, or before a ``-``, ``_`` or ``.``.
    """
    if _BEGINNING.match(tag) is None:
        return None
    for end in (len(tag), *(match.start() for match in reversed(list(_BOUNDARY.finditer(tag))))):
        try:
            return TagVersion(Version(tag[:end]), tag[end:])
        except InvalidVersion:
            continue
    return None
