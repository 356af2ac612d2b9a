"""What a server says of its quota of requests.

Three forms are in use: ``RateLimit-Limit``, ``-Remaining`` and ``-Reset`` (draft-ietf-httpapi-ratelimit-headers, to
version 06), which Docker Hub writes as ``ratelimit-remaining: 76;w=21600`` without a reset; one ``RateLimit`` with
``limit=``, ``remaining=`` and ``reset=`` (version 07); and ``RateLimit: "name";r=50;t=30`` with ``RateLimit-Policy:
"name";q=100;w=60`` (from version 08 on). Whatever is no number of a sensible length counts as not said.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NUMBER = r"([0-9]{1,12})(?![0-9.])"


@dataclass(frozen=True, slots=True)
class Quota:
    """How many requests a server still allows."""

    remaining: int
    limit: int | None = None
    """How many it allows in a window."""
    window: int | None = None
    """Seconds for which *limit* holds."""
    reset: int | None = None
    """Seconds until it allows more."""

    def __str__(self) -> str:
        """How a person reads it: ``76 of 100 requests remain (per 21600 s)``."""
        of = "" if self.limit is None else f" of {self.limit}"
        per = "" if self.window is None else f" (per {self.window} s)"
        return f"{self.remaining}{of} requests remain{per}"


def parse_quota(headers: Mapping[str, str]) -> Quota | None:
    """Return what *headers* say of the quota, None where they do not say how many requests remain."""
    whole, policy = headers.get("RateLimit", ""), headers.get("RateLimit-Policy", "")
    said_limit, said_remaining = headers.get("RateLimit-Limit", ""), headers.get("RateLimit-Remaining", "")
    remaining = _leading(said_remaining) if said_remaining else _first(_field(whole, "remaining"), _field(whole, "r"))
    if remaining is None:
        return None
    return Quota(
        remaining,
        _first(_leading(said_limit), _field(whole, "limit"), _field(policy, "q")),
        _first(_field(said_remaining, "w"), _field(said_limit, "w"), _field(policy, "w")),
        _first(_leading(headers.get("RateLimit-Reset", "")), _field(whole, "reset"), _field(whole, "t")),
    )


def shortage(host: str, needed: int, quota: Quota | None) -> str | None:
    """Return a line that says so where *host* allows fewer requests than the *needed* ones, None where it does not."""
    if quota is None or needed <= quota.remaining:
        return None
    when = f"in {quota.reset} s" if quota.reset else "later"
    return f"{host}: at least {needed} more are needed, and {quota}; what is fetched stays: run again {when}, or log in"


def _leading(text: str) -> int | None:
    found = re.match(_NUMBER, text.strip(), re.ASCII)
    return int(found[1]) if found else None


def _field(text: str, name: str) -> int | None:
    found = re.search(rf"(?:^|[;,\s]){name}={_NUMBER}", text, re.ASCII)
    return int(found[1]) if found else None


def _first(*found: int | None) -> int | None:
    return next((number for number in found if number is not None), None)
