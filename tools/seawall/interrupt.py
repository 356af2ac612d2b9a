"""Ctrl-C and SIGTERM: a signal reaches the main thread alone, and the others may be waiting for a server."""

import time

from seawall.errors import TransientError

_SLICE = 0.05
"""Seconds after which a waiting thread looks whether it still should."""


class _State:
    # A plain flag, not a threading.Event: a signal handler that takes a lock may be interrupting its holder.
    is_asked = False


def ask() -> None:
    """End every wait of this process, now and from now on; may be called by a signal handler."""
    _State.is_asked = True


def check() -> None:
    """Go on, unless somebody wants the process to end.

    Raises:
        TransientError: somebody does.
    """
    if _State.is_asked:
        raise TransientError("this run", "was interrupted", "run again to go on")


def pause(seconds: float) -> None:
    """Wait for so many *seconds*.

    Raises:
        TransientError: somebody wants the process to end.
    """
    end = time.monotonic() + seconds
    while True:
        check()
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, _SLICE))
