"""The media types of manifests: one list, read by this tool and by the nginx templates."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ManifestKind:
    """One of the four sorts of manifest that a tree holds."""

    kind: str
    """The short name, which is the extension of the manifest's file under ``content/``."""
    media_type: str
    is_index: bool
    """True where the manifest lists other manifests (OCI index, Docker manifest list)."""

    def __str__(self) -> str:
        return self.kind


def _load() -> tuple[ManifestKind, ...]:
    # Not by importlib.resources, which takes longer to read than all that it would read here.
    text = Path(__file__).with_name("manifest_kinds.json").read_text("utf-8")
    return tuple(ManifestKind(**row) for row in json.loads(text))


MANIFEST_KINDS = _load()
BY_KIND = {kind.kind: kind for kind in MANIFEST_KINDS}
BY_MEDIA_TYPE = {kind.media_type: kind for kind in MANIFEST_KINDS}

OCI_MANIFEST = BY_KIND["oci-manifest"]
OCI_INDEX = BY_KIND["oci-index"]
DOCKER_MANIFEST = BY_KIND["docker-manifest"]
DOCKER_LIST = BY_KIND["docker-list"]

ACCEPT = ", ".join(kind.media_type for kind in MANIFEST_KINDS)
"""The ``Accept`` header of a manifest request (OCI Distribution Specification 1.1, "Pulling manifests")."""
