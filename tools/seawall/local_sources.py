"""The sources on this machine: layouts and archives in files, and the engine."""

from pathlib import Path

from seawall.compressing import CompressedSource
from seawall.compression import DEFAULT_COMPRESSION, Compression
from seawall.docker_archive import Packing
from seawall.engine import Engine
from seawall.layout import LayoutSource
from seawall.made_images import DockerArchiveSource, EngineSource
from seawall.reference import EngineLocation, FileLocation, LayoutArchiveLocation, LayoutLocation
from seawall.source import Source
from seawall.spool import Spool


def open_local(
    location: FileLocation | EngineLocation, compression: Compression | None, spool_folder: Path | None
) -> Source:
    """Return the source at *location*.

    Args:
        location: where it is.
        compression: how layers are compressed that come uncompressed; None for what the source's kind has by default.
        spool_folder: where temporary files are made; see :class:`~seawall.spool.Spool`.
    """
    packing = Packing(Spool(spool_folder), compression or DEFAULT_COMPRESSION)
    if isinstance(location, LayoutLocation | LayoutArchiveLocation):
        layout = LayoutSource(location, spool_folder)
        return CompressedSource(layout, packing, str(location)) if compression else layout
    if isinstance(location, EngineLocation):
        return EngineSource(location, Engine(), packing)
    return DockerArchiveSource(location, packing)
