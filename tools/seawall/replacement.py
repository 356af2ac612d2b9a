"""Replacing a file that a person named: whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from seawall.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write, which takes the place of *path* at the end; after an error nothing of it is left.

    Raises:
        InputError: *path* cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as beside:
            try:
                yield cast(BinaryIO, beside)
                beside.flush()
                os.fchmod(beside.fileno(), 0o644)
                os.fsync(beside.fileno())
                Path(beside.name).replace(path)
            except BaseException:
                Path(beside.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InputError(
            str(path), f"cannot be written ({error.strerror})", "check folder, room and permissions"
        ) from None
