"""What a run came to, in a file that monitoring reads.

The format is Prometheus' text exposition format, version 0.0.4; node_exporter's textfile collector picks such files up.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from seawall.errors import ExitCode, InputError, SeawallError
from seawall.replacement import replacing

_ABOUT = {
    "last_run_timestamp_seconds": "When the last run ended, however it did.",
    "last_success_timestamp_seconds": "When the last run ended that left nothing to be done by a person.",
    "duration_seconds": "How long the last run took.",
    "exit_code": "How the last run ended; 0 is well.",
    "freed_bytes": "How many bytes of files the last run removed.",
    "removed_files": "How many files of content the last run removed.",
    "faults": "How many faults the last run that read all found, and left.",
    "read_bytes": "How many bytes of blobs it read.",
    "read_manifests": "How many manifests it read.",
    "read_blobs": "How many blobs it read.",
}
"""Every figure that a command may tell, without the command's name before it."""

_LINE = re.compile(r"seawall_[a-z]+_(?P<figure>[a-z_]+)\{target=\"(?P<target>(?:[^\"\\]|\\.)*)\"\} (?P<value>\S+)")


@contextmanager
def recording(path: Path | None, command: str, target: str) -> Iterator[dict[str, float]]:
    """Yield where a run of *command* on *target* notes its figures; at its end, whatever it is, they are in *path*.

    Figures that a run did not get to keep the values of the run before, and so does the time of the last success.
    Nothing is written where *path* is None, or by a run that is killed: its file grows old.

    Raises:
        InputError: *path* cannot be read or written. A run that fails ends with its own error.
    """
    figures: dict[str, float] = {}
    if path is None:
        yield figures
        return
    before = read_figures(_read(path), target)
    start = time.monotonic()
    try:
        yield figures
    except BaseException as error:
        code = _exit_code(error)
        try:
            _write(path, command, target, before | figures | _end(start, code))
        except InputError:
            if not code:
                raise
        raise
    _write(path, command, target, before | figures | _end(start, ExitCode.OK))


def render(command: str, target: str, figures: Mapping[str, float]) -> str:
    """Return *figures* of *command* on *target* as Prometheus reads them."""
    label = target.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return "".join(
        f"# HELP seawall_{command}_{figure} {about}\n"
        f"# TYPE seawall_{command}_{figure} gauge\n"
        f'seawall_{command}_{figure}{{target="{label}"}} {figures[figure]!r}\n'
        for figure, about in _ABOUT.items()
        if figure in figures
    )


def read_figures(text: str, target: str) -> dict[str, float]:
    """Return what *text*, which `render` wrote, says of *target*; what is no figure of ours is left out."""
    label = target.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    found = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and match["figure"] in _ABOUT and match["target"] == label:
            with suppress(ValueError):
                found[match["figure"]] = float(match["value"])
    return found


def _end(start: float, code: int) -> dict[str, float]:
    now = time.time()
    said = {"last_run_timestamp_seconds": now, "duration_seconds": time.monotonic() - start, "exit_code": float(code)}
    return said if code else said | {"last_success_timestamp_seconds": now}


def _exit_code(error: BaseException) -> int:
    match error:
        case SeawallError():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(bool(error.code))
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case OSError():
            return ExitCode.TREE
        case _:
            return 1


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        todo = "name a file that this account can read and replace"
        raise InputError(str(path), f"cannot be read ({error.strerror})", todo) from None


def _write(path: Path, command: str, target: str, figures: Mapping[str, float]) -> None:
    with replacing(path) as file:
        file.write(render(command, target, figures).encode(errors="backslashreplace"))
