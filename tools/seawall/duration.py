"""Durations as people write them: ``90s``, ``30m``, ``24h``, ``7d``."""

import re

from seawall.errors import InputError

_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

DEFAULT_GRACE = "24h"
"""How young is too young to be removed, where nobody says otherwise."""


def parse_duration(text: str, where: str) -> float:
    """Return how many seconds *text* spells.

    Raises:
        InputError: it is no number with a unit.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InputError(where, f"{text[:100]!r} is not a duration", "write a number and s, m, h or d: 24h")
    return float(int(match.group(1)) * _SECONDS[match.group(2)])
