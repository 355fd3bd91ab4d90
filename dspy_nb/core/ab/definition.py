"""What an experiment is, stored once in its file, and how its two programs are found again."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, Final

import dspy
import msgspec

from dspy_nb.core.arguments import check_text, number_between, probability, whole_number
from dspy_nb.core.errors import Corrupt, InputError, Refused
from dspy_nb.core.models.conditions import Conditions
from dspy_nb.core.programs.lms import are_confusable, used_lms, without_cache
from dspy_nb.core.programs.state import program_digest
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.shapes import fit
from dspy_nb.core.text import value_text

# What may be given: what it is by default, and how it is checked.
_SETTINGS: Final[dict[str, tuple[Any, Callable[[Any], Any]]]] = {
    "split": (0.1, lambda value: probability("split", value)),
    "min_samples": (100, lambda value: whole_number("min_samples", value, minimum=1)),
    "confidence": (0.95, lambda value: probability("confidence", value)),
    "margin": (0.0, lambda value: number_between("margin", value, 0, 1)),
    "outcome_within_s": (86_400.0, lambda s: number_between("outcome_within_s", s, 0, math.inf, ends=False)),
    "missing": (0.0, lambda value: number_between("missing", value, 0, 1)),
    "salt": (None, lambda value: check_text("salt", value)),
}  # fmt: skip


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is fixed when an experiment begins.

    Attributes:
        name: Of the experiment.
        a: Exact reference or name of the program in use.
        b: The same of the one that may replace it.
        a_given: What was asked for, such as ``sentiment@production``; a hash of the prompts and demos where a
            ``dspy.Module`` was given; ``""`` for a function.
        b_given: The same of B.
        split: Probability of B at the beginning.
        min_samples: Units that each arm needs for the classical test.
        confidence: 1 − α.
        margin: Largest difference that makes no practical difference.
        outcome_within_s: Seconds after the assignment within which an outcome counts.
        missing: What a unit without outcome counts as after that.
        salt: What units are hashed with.
        created_at: Seconds since 1970.
    """

    name: str
    a: str
    b: str
    a_given: str
    b_given: str
    split: float
    min_samples: int
    confidence: float
    margin: float
    outcome_within_s: float
    missing: float
    salt: str
    created_at: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return msgspec.structs.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: object) -> Definition:
        """Return the definition that a file holds.

        Raises:
            Corrupt: It is none.
        """
        try:
            return fit(values, cls)
        except InputError as error:
            raise Corrupt(f"{where} holds no definition of an experiment: {error}") from error


def check_settings(**given: Any) -> dict[str, Any]:
    """Return the arguments that are not ``None``, each checked.

    Raises:
        InputError: One is out of range.
    """
    return {name: _SETTINGS[name][1](value) for name, value in given.items() if value is not None}


def define(name: str, programs: Programs, given: dict[str, Any], now: float) -> Definition:
    """Return the definition of a new experiment; ``given`` has been checked."""
    values = {**{setting: default for setting, (default, _) in _SETTINGS.items()}, "salt": name, **given}
    (a, b), (a_given, b_given) = map(str, programs.names), programs.asked
    return Definition(name, a, b, a_given, b_given, created_at=now, **values)


def check_given(found: Definition, programs: Programs, given: dict[str, Any]) -> None:
    """Check that what the caller gives now is what the experiment began with; ``given`` has been checked.

    Raises:
        Refused: Something differs; the message says what.
    """
    different = [
        f"{name} is {value_text(getattr(found, name))}, not {value_text(value)}"
        for name, value in given.items()
        if getattr(found, name) != value
    ]
    began = (found.a, found.a_given), (found.b, found.b_given)
    now = zip(programs.names, programs.asked, strict=True)
    for arm, (known, known_asked), (name, asked) in zip("ab", began, now, strict=True):
        if name is None or (known_asked == asked and ("@" in known or name == known)):
            continue  # the same words: what they meant at the beginning is still what is served
        if name != known:
            different.append(f"{arm} is {known!r}, not {name!r}")
        elif "@" not in name:
            different.append(f"{arm} is another {name!r}, with other prompts or demos")
    if different:
        text = "; ".join(different)
        hint = "; set_split() changes the split" if "split" in given and given["split"] != found.split else ""
        raise Refused(f"experiment {found.name!r} exists, and differs: {text}; take another name{hint}")


def check_arm(argument: str, program: object) -> None:
    """Raise InputError for what is neither a program nor a reference to one."""
    if not isinstance(program, str) and not callable(program):
        raise InputError(
            f"{argument} must be a dspy.Module, a function or a reference such as 'sentiment@1.0.0', "
            f"got {type(program).__name__}"
        )


def name_program(program: Any) -> str:
    """Return what a program is called that has no other name."""
    return getattr(program, "__name__", None) or type(program).__name__


class Programs:
    """The programs of both arms: loaded from the registry once, or given by the caller.

    Attributes:
        names: Exact reference or name of each; ``None`` where none was given.
        asked: What was asked for, see ``Definition``.
    """

    def __init__(self, registry: Registry, a: Any, b: Any, names: tuple[str, str] | None) -> None:
        if (a is None) != (b is None):
            raise InputError("give both programs, a= and b=, or neither for an experiment that exists")
        if names is not None and not (
            isinstance(names, list | tuple)
            and len(names) == 2
            and all(isinstance(name, str) and name and "@" not in name for name in names)
        ):
            raise InputError(
                f"names must be two names that do not look like references, got {value_text(names, 80)}"
            )
        self._registry = registry
        self._given: list[Any] = [a, b]
        self._loaded: list[tuple[Any, dict[str, Any]]] | None = None
        self._conditions: list[Conditions | None] = [None, None]
        self._lock = threading.Lock()
        self.names: list[str | None] = [None, None]
        self.asked = ["", ""]
        for arm, program in enumerate(self._given):
            if isinstance(program, str):
                self.names[arm], self.asked[arm] = registry.get(program).ref, program
            elif callable(program):
                self.names[arm] = names[arm] if names else name_program(program)
                if isinstance(program, dspy.Module):
                    self.asked[arm] = program_digest(program)
            elif program is not None:
                check_arm("ab"[arm], program)
        if a is not b and self.names[0] == self.names[1] and "@" not in (self.names[0] or "@"):
            self.names = [f"{self.names[0]} ({letter})" for letter in "AB"]

    def load(self, found: Definition) -> list[tuple[Any, dict[str, Any]]]:
        """Return the program of A and that of B, each with the DSPy settings that it needs.

        Raises:
            InputError: One is no version of the registry, and was not given.
            NotFound, Corrupt, Refused: The registry cannot load it.
        """
        with self._lock:
            if self._loaded is None:
                programs = [self._program(arm, (found.a, found.b)[arm]) for arm in (0, 1)]
                settings: list[dict[str, Any]] = [{}, {}]
                if are_confusable(used_lms(programs[0]), used_lms(programs[1])):
                    # The cache would hand the answers of the one to the other.
                    (programs[0], settings[0]), (programs[1], settings[1]) = map(without_cache, programs)
                self._loaded = list(zip(programs, settings, strict=True))
                self._conditions = [self._conditions_of(ref) for ref in (found.a, found.b)]
            for conditions, (program, own) in zip(self._conditions, self._loaded, strict=True):
                if conditions is not None:
                    with dspy.context(**own):
                        conditions.compare(program, stacklevel=5)
            return self._loaded

    def _conditions_of(self, ref: str) -> Conditions | None:
        version = self._registry.get(ref) if "@" in ref else None
        return None if version is None else Conditions.of(version, version.metadata)

    def _program(self, arm: int, ref: str) -> Any:
        given = self._given[arm]
        if given is not None and not isinstance(given, str):
            return given
        if "@" not in ref:
            how = "give the programs, Experiment(name, a=..., b=...)"
            raise InputError(f"{ref!r} is no version in the registry: {how}")
        return self._registry.load(ref)
