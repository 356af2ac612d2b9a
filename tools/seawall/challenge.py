"""What a server asks for in ``WWW-Authenticate`` (RFC 9110, section 11.6.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.request import parse_http_list


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in which a server lets itself be asked."""

    scheme: str
    """Lower case: ``bearer``, ``basic``."""
    parameters: Mapping[str, str]
    """Their names in lower case."""


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Return the challenges of a ``WWW-Authenticate`` header, or of several joined by commas.

    A comma separates challenges as well as the parameters of one, and may stand inside a quoted value. What
    cannot be read is left out: a server that is not understood has simply asked for nothing known.
    """
    found: list[tuple[str, dict[str, str]]] = []
    for item in parse_http_list(header):
        name, equals, value = item.partition("=")
        words = name.lower().split()
        if len(words) == 2 or (words and not equals):
            found.append((words[0], {}))
        if found and words and equals:
            found[-1][1].setdefault(words[-1], _unquoted(value.strip()))
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def _unquoted(value: str) -> str:
    # parse_http_list has taken the backslashes of quoted pairs away already.
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value
