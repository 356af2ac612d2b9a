"""What a person sees of a command: progress on stderr, results on stdout."""

import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID

_EVERY = 5.0
"""Seconds between two plain lines of progress."""


class BarProgress:
    """Progress as a bar, on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        # Read only where there is a terminal to draw on: it takes a while.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=False),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "BarProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def expect(self, size: int, what: str) -> None:
        """Draw a bar for *size* bytes of *what*."""
        self._task = self._bars.add_task(what, total=size)

    def advance(self, size: int) -> None:
        """Draw the bar so much longer."""
        if self._task is not None:
            self._bars.advance(self._task, size)

    def say(self, line: str) -> None:
        """Write *line* above the bar."""
        self._bars.console.print(line, markup=False, highlight=False)


class LineProgress:
    """Progress as plain lines, for logs: few of them, however long the work takes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._mutex = threading.Lock()
        self._what = ""
        self._size = self._done = 0
        self._last = 0.0

    def __enter__(self) -> "LineProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left to close."""

    def expect(self, size: int, what: str) -> None:
        """Say what is to come."""
        self._what, self._size, self._done, self._last = what, size, 0, time.monotonic()
        self.say(f"{what}, {readable(size)}")

    def advance(self, size: int) -> None:
        """Say how far it is, now and then."""
        with self._mutex:
            self._done += size
            now = time.monotonic()
            due = now - self._last >= _EVERY
            if due:
                self._last = now
        if due:
            self.say(f"{self._what}: {readable(self._done)} of {readable(self._size)}")

    def say(self, line: str) -> None:
        """Write *line*."""
        self._stream.write(line + "\n")
        self._stream.flush()


def watch() -> BarProgress | LineProgress:
    """Return the progress that suits where stderr goes."""
    return BarProgress(sys.stderr) if sys.stderr.isatty() else LineProgress(sys.stderr)


def readable(size: int) -> str:
    """Return *size*, in bytes, as people read it: powers of 1000, three digits."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: frozenset[str] = frozenset()) -> None:
    """Print *rows* under *columns* to stdout, never cut short; columns named in *right* are numbers."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, soft_wrap=True, highlight=False, markup=False).print(table, crop=False, overflow="ignore")
