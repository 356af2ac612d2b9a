"""Subsets: the index of an image with only the platforms that are wanted.

The bytes of a subset are a function of the source's index and the platforms, so that whoever makes it anew comes to the
same digest.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from seawall.digest import Digest
from seawall.errors import InputError, SourceError
from seawall.manifest import Manifest, Platform, config_platform, parse_manifest
from seawall.source import Source

_CONFIG_MAX_BYTES = 4 * 1024 * 1024
_ATTESTED = "vnd.docker.reference.digest"
"""How BuildKit names the image that an attestation is about; an index lists both, the latter as unknown/unknown."""


def subset(index: Manifest, wanted: Sequence[Platform], where: str) -> Manifest:
    """Return *index* with those of its manifests that run on one of *wanted*, and the attestations about them.

    Returns *index* itself where all of it stays: then its digest stays, too.

    Raises:
        SourceError: it has no image for one of *wanted*, or cannot be written again; *where* names it.
    """
    document = json.loads(index.content)
    rows: list[dict[str, Any]] = document["manifests"] or []
    kept = {
        str(row["digest"])
        for row in rows
        if (platform := _platform_of(row)) is not None and any(platform.fits(one) for one in wanted)
    }
    _check_complete([platform for row in rows if (platform := _platform_of(row)) is not None], wanted, where)
    left = [row for row in rows if str(row["digest"]) in kept or _attested(row) in kept]
    if len(left) == len(rows):
        return index
    try:
        content = json.dumps(document | {"manifests": left}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        raise SourceError(where, "is an index that cannot be written again", "leave platforms out") from None
    return parse_manifest(content.encode(), where, index.kind.media_type)


def narrowed(manifest: Manifest, wanted: Sequence[Platform], source: Source, where: str) -> Manifest:
    """Return what *manifest* of *source* becomes where only *wanted* platforms are carried.

    An image of one platform stays as it is.

    Raises:
        SourceError: it has no image for one of *wanted*, or is an image for another platform.
    """
    if manifest.kind.is_index:
        return subset(manifest, wanted, where)
    platform = _platform_of_image(manifest, source, where)
    if platform is None or not any(platform.fits(one) for one in wanted):
        has = f"is an image for {platform} alone" if platform else "is no image that states its platform"
        raise SourceError(where, has, "correct platforms, or leave them out")
    return manifest


def _check_complete(found: Sequence[Platform], wanted: Sequence[Platform], where: str) -> None:
    for one in wanted:
        if not any(platform.fits(one) for platform in found):
            has = ", ".join(sorted({str(platform) for platform in found} - {"unknown/unknown"}))
            raise SourceError(where, f"has no image for {one}", f"correct platforms: it has {has or 'none'}")


def _platform_of(row: Mapping[str, Any]) -> Platform | None:
    platform = row.get("platform")
    return Platform.of(platform) if isinstance(platform, dict) else None


def _attested(row: Mapping[str, Any]) -> str:
    annotations = row.get("annotations")
    return str(annotations.get(_ATTESTED)) if isinstance(annotations, dict) else ""


def _platform_of_image(manifest: Manifest, source: Source, where: str) -> Platform | None:
    config = manifest.config
    if config is None or config.size > _CONFIG_MAX_BYTES:
        raise SourceError(where, "has a config that is too large to say its platform", "leave platforms out")
    content = b"".join(source.blob(config))
    if Digest.of(content) != config.digest:
        raise SourceError(where, f"config is not {config.digest}", "do not trust this source")
    return config_platform(content)


def parse_platforms(texts: Sequence[str]) -> tuple[Platform, ...]:
    """Return the platforms that *texts* spell.

    Raises:
        InputError: one of them is malformed.
    """
    return tuple(map(Platform.parse, texts))


def check_platform(text: str) -> str:
    """Return *text* if it spells a platform, for a model's field.

    Raises:
        ValueError: it does not.
    """
    try:
        return str(Platform.parse(text))
    except InputError as error:
        raise ValueError(error) from error
