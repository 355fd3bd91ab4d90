"""Names of models, versions, environments: which are allowed, how versions are ordered, what references mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, Literal, get_args

from dspy_nb.core.errors import InputError
from dspy_nb.core.text import did_you_mean, value_text

BUMPS: Final = ("major", "minor", "patch", "prerelease")

Stage = Literal["development", "staging", "production", "deprecated", "archived"]
"""The life of a version, in order."""

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

ENVIRONMENTS: Final = ("development", "staging", "production")
"""The environments that need not be made; any other one begins with ``create=True``."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?", re.ASCII)

# The Windows device names are reserved with any extension ("nul.txt" too), in any case.
_RESERVED: Final = frozenset(
    ["con", "prn", "aux", "nul", "log"] + [f"{port}{n}" for port in ("com", "lpt") for n in range(10)]
)

# https://semver.org/#backusnaur-form-grammar-for-valid-semver-versions, without build metadata.
_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER: Final = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION: Final = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?", re.ASCII
)
_RANGE: Final = re.compile(rf"([\^~])({_NUMBER})(?:\.({_NUMBER}))?(?:\.({_NUMBER}))?", re.ASCII)
_LONGEST_VERSION: Final = 64

Bounds = tuple[tuple[int, int, int], tuple[int, int, int]]
SortKey = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def _check_name(name: object, what: str) -> str:
    """Return ``name`` if it can be a folder name on every file system.

    Raises:
        InputError: It is not a string of 1 to 100 letters, digits, ``.``, ``_``, ``-`` that starts with a
            letter or digit and does not end with a dot, or it is a reserved name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        valid = "1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit and not ending with '.'"
        raise InputError(f"{what} {value_text(name, 80)} is not valid: use {valid}")
    if name.split(".")[0].lower() in _RESERVED:
        raise InputError(f"{what} {name!r} is a reserved name: choose another")
    return name


def check_stage(stage: object) -> Stage:
    """Return ``stage`` if it is one.

    Raises:
        InputError: It is not; the message names the ones there are, and which may be meant.
    """
    for known in STAGES:
        if stage == known:
            return known
    hint = did_you_mean(stage, STAGES)
    known_ones = f"se one of {', '.join(STAGES)}"
    words = f"{hint}? U{known_ones}" if hint else f"u{known_ones}"
    raise InputError(f"stage {value_text(stage, 80)} is not known: {words}")


check_model_id = partial(_check_name, what="model id")
check_environment = partial(_check_name, what="environment")
check_experiment = partial(_check_name, what="experiment")


def check_version(version: object) -> str:
    """Return ``version`` if it is a semantic version such as ``1.2.0`` or ``1.2.0-rc.1``.

    Build metadata (``+abc``) is refused: two versions that differ only there have no order.

    Raises:
        InputError: It is not.
    """
    if not isinstance(version, str) or len(version) > _LONGEST_VERSION or not _VERSION.fullmatch(version):
        valid = "major.minor.patch such as 1.2.0, or 1.2.0-rc.1"
        raise InputError(f"version {value_text(version, 80)} is not valid: write {valid}")
    return version


@lru_cache(maxsize=16_384)
def sort_key(version: str) -> SortKey:
    """Return a key that sorts valid versions by the precedence of https://semver.org/#spec-item-11."""
    match = _VERSION.fullmatch(check_version(version))
    assert match is not None
    major, minor, patch, prerelease = match.groups()
    identifiers = tuple(
        (False, int(part), "") if part.isdigit() else (True, 0, part)
        for part in (prerelease.split(".") if prerelease else ())
    )
    return int(major), int(minor), int(patch), prerelease is None, identifiers


def rank(version: str) -> tuple[bool, SortKey]:
    """Return a key that sorts as ``latest`` does: every release above every prerelease."""
    key = sort_key(version)
    return key[3], key


def check_bump(bump: object) -> None:
    """Check which part of a version is to be raised.

    Raises:
        InputError: It is none of major, minor, patch, prerelease.
    """
    if bump not in BUMPS:
        raise InputError(f"bump {value_text(bump, 80)} is not known: use one of {', '.join(BUMPS)}")


def next_version(taken: Iterable[str], bump: str) -> str:
    """Return the version that follows the highest one of ``taken`` (semver precedence).

    The first version of a model is 1.0.0, or 1.0.0-rc.1 for a prerelease. A release that completes a
    prerelease keeps its number: after 1.1.0-rc.2, ``minor`` gives 1.1.0.

    Raises:
        InputError: ``bump`` is none of major, minor, patch, prerelease.
    """
    check_bump(bump)
    highest = max(taken, key=sort_key, default=None)
    if highest is None:
        return "1.0.0-rc.1" if bump == "prerelease" else "1.0.0"
    from semver import Version

    version = Version.parse(highest)
    if bump == "prerelease" and version.prerelease:
        following = str(version.bump_prerelease())  # keeps "alpha" where next_version would start "rc.1"
        return following if following != highest else f"{highest}.1"
    return str(version.next_version(bump, prerelease_token="rc"))


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference; exactly one of ``version``, ``bounds`` and ``stage`` is set.

    Attributes:
        model_id: The model.
        version: An exact version.
        bounds: Lower bound (inclusive) and upper bound (exclusive) of a range, as (major, minor, patch).
        stage: ``latest``, or a stage that at most one version holds at a time.
        text: The reference as it was written, for messages.
    """

    model_id: str
    version: str | None
    bounds: Bounds | None
    stage: str | None
    text: str


def parse_reference(text: object) -> Reference:
    """Parse ``model``, ``model@1.2.0``, ``model@^1.1``, ``model@~1.2`` or ``model@production``.

    ``@staging`` and ``@latest`` are the other words that may follow.

    Raises:
        InputError: It is none of these.
    """
    if not isinstance(text, str):
        raise InputError(f"reference {value_text(text, 80)} is not valid: write model, or model@version")
    name, at, wanted = text.partition("@")
    model_id = check_model_id(name)
    if not at or wanted in ("latest", "staging", "production"):
        return Reference(model_id, None, None, wanted or "latest", text)
    if len(wanted) <= _LONGEST_VERSION:
        if match := _RANGE.fullmatch(wanted):
            return Reference(model_id, None, _bounds(*match.groups()), None, text)
        if _VERSION.fullmatch(wanted):
            return Reference(model_id, wanted, None, None, text)
    valid = "a version (1.2.0), a range (^1.1 or ~1.2), latest, staging or production"
    raise InputError(f"reference {value_text(text, 80)} is not valid: after '@' write {valid}")


def matches(bounds: Bounds, version: str) -> bool:
    """Return whether ``version`` is a release (never a prerelease) within ``bounds``."""
    major, minor, patch, is_release, _ = sort_key(version)
    return is_release and bounds[0] <= (major, minor, patch) < bounds[1]


def _bounds(sign: str, major: str, minor: str | None, patch: str | None) -> Bounds:
    """``^`` keeps the first number that is not zero, ``~`` keeps major and minor (npm's rules)."""
    low = int(major), int(minor or 0), int(patch or 0)
    if minor is None or (sign == "^" and low[0] > 0):
        return low, (low[0] + 1, 0, 0)
    if sign == "~" or low[1] > 0 or patch is None:
        return low, (low[0], low[1] + 1, 0)
    return low, (low[0], low[1], low[2] + 1)
