"""Tag filters: which of a source's tags an entry of the images file carries."""

import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Iterable

import pydantic
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from seawall.errors import InputError
from seawall.version import TagVersion, tag_version

REGEX_TIMEOUT = 10.0
"""Seconds that a regular expression has for all tags of a source."""

_PATTERN_MAX = 256
_GLOB = re.compile(r"[A-Za-z0-9_.*?-]+")
# Tags are short, but a regular expression can take years for thirty characters, and Python cannot stop one in its own
# process. This one is matched in a process of its own, which can be ended.
_MATCHER = """
import json, re, sys
pattern, tags = json.load(sys.stdin)
json.dump([tag for tag in tags if re.fullmatch(pattern, tag)], sys.stdout)
"""


class TagFilter(pydantic.BaseModel):
    """A rule that picks tags: those that fit all that it says."""

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"anyOf": [{"required": [name]} for name in ("glob", "regex", "range")]},
    )

    glob: str = pydantic.Field("", min_length=1, max_length=_PATTERN_MAX)
    """``*`` stands for any characters, ``?`` for one; as in a shell, but without ``[ ]``."""
    regex: str = pydantic.Field("", min_length=1, max_length=_PATTERN_MAX)
    """A regular expression in Python's syntax that the whole tag has to match."""
    range: str = pydantic.Field("", min_length=1, max_length=_PATTERN_MAX)
    """Versions as PEP 440 specifies them: ``>=3.18,<4``, ``~=1.25``, ``==3.*``, ``!=3.19``."""
    suffix: str = pydantic.Field("", min_length=1, max_length=128)
    """What follows the version in the tag: ``-alpine``. Left out: nothing does."""
    prereleases: bool = False
    """Take pre-releases as well (``3.20.0-rc.1``)."""
    newest: int | None = pydantic.Field(None, ge=1)
    """Keep only so many of the highest versions."""

    @pydantic.model_validator(mode="after")
    def _can_be_asked(self) -> "TagFilter":
        if not (self.glob or self.regex or self.range):
            raise _wrong("says nothing that picks tags", "give glob, regex or range")
        if (self.suffix or self.prereleases) and not self.compares_versions:
            raise _wrong("has suffix or prereleases, which belong to versions", "add range or newest, or leave it out")
        if self.glob and _GLOB.fullmatch(self.glob) is None:
            raise _wrong(f"has the glob {self.glob!r}", "use the characters of a tag, * and ?")
        try:
            re.compile(self.regex)
        except (re.error, RecursionError, OverflowError) as error:
            raise _wrong(f"has a regex that cannot be used ({error})", "correct it, and quote it in ' '") from None
        try:
            specifiers = SpecifierSet(self.range)
        except InvalidSpecifier:
            raise _wrong(f"has the range {self.range!r}", "write it like '>=3.18,<4' or '~=1.25'") from None
        if any(specifier.operator == "===" for specifier in specifiers):
            raise _wrong("compares text with ===", "name the tag, or use ==")
        return self

    @property
    def compares_versions(self) -> bool:
        """Whether only tags can fit that spell a version."""
        return bool(self.range) or self.newest is not None

    def __str__(self) -> str:
        fields = self.model_dump(exclude_defaults=True)
        return "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"


def select(wanted: TagFilter, tags: Iterable[str]) -> tuple[str, ...]:
    """Return those of *tags* that fit *wanted*, sorted.

    With ``range`` or ``newest`` only versions fit that have the suffix of the filter, and pre-releases only where they
    are asked for. ``newest`` counts versions: tags that spell the same one (``3.20``, ``3.20.0``) stay together.

    Raises:
        InputError: the regular expression takes too long.
    """
    found = sorted(set(tags))
    if wanted.glob:
        found = [tag for tag in found if fnmatch.fnmatchcase(tag, wanted.glob)]
    if wanted.regex:
        found = _matching(wanted.regex, found)
    if wanted.compares_versions:
        found = _versions(wanted, found)
    return tuple(found)


def _versions(wanted: TagFilter, tags: list[str]) -> list[str]:
    specifiers = SpecifierSet(wanted.range)

    def fits(found: TagVersion) -> bool:
        if found.suffix != wanted.suffix or (found.version.is_prerelease and not wanted.prereleases):
            return False
        return specifiers.contains(found.version, prereleases=wanted.prereleases)

    versions = {tag: found.version for tag in tags if (found := tag_version(tag)) is not None and fits(found)}
    kept = sorted(set(versions.values()), reverse=True)[: wanted.newest]
    return [tag for tag, version in versions.items() if version in kept]


def _matching(pattern: str, tags: list[str]) -> list[str]:
    try:
        ran = subprocess.run(  # noqa: S603 - this Python, our own lines; pattern and tags are its input
            [sys.executable, "-I", "-S", "-c", _MATCHER],
            input=json.dumps([pattern, tags]),
            capture_output=True,
            text=True,
            timeout=REGEX_TIMEOUT,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"regex {pattern}",
            f"was not done with {len(tags)} tags in {REGEX_TIMEOUT:g} seconds",
            "write it without a repetition inside a repetition",
        ) from None
    except subprocess.CalledProcessError as error:
        raise InputError(f"regex {pattern}", f"failed (exit code {error.returncode})", "write a simpler one") from None
    found: list[str] = json.loads(ran.stdout)
    return found


def _wrong(what: str, todo: str) -> ValueError:
    return ValueError(InputError("", what, todo))
