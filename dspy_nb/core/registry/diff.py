"""What changed between two versions: instructions, demos, fields, options, scores, rendered prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.models.loading import StoredProgram
from dspy_nb.core.models.names import sort_key
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.programs.spec import rebuild_predictor
from dspy_nb.core.programs.state import load_state
from dspy_nb.core.registry.measured import Measured, measure
from dspy_nb.core.storage.plain import plain
from dspy_nb.core.text import value_text

_OPTIONS: Final = ("optimizer", "base_model", "seed", "metric", "num_training_examples", "datasets")


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a diff.

    Attributes:
        section: What it is about: ``score``, ``options``, ``fields``, ``instructions``, ``demos`` or
            ``prompt``, followed by the path of the predictor where there are several.
        sign: ``-`` only in the first version, ``+`` only in the second, a space in both.
        text: The line.
    """

    section: str
    sign: str
    text: str


@dataclass(frozen=True, slots=True)
class VersionDiff(Shown):
    """What changed from the older version to the newer one, as lines grouped by section.

    Attributes:
        a: The older version.
        b: The newer one.
        made: When each was made, ISO 8601 in UTC.
        changes: The lines.
        measured: How the two score.
    """

    a: str
    b: str
    made: tuple[str, str]
    changes: tuple[Change, ...]
    measured: Measured

    def sections(self) -> dict[str, list[Change]]:
        """Return the changes by section, in order; sections in which nothing changed are left out."""
        grouped: dict[str, list[Change]] = {}
        for change in self.changes:
            grouped.setdefault(change.section, []).append(change)
        return grouped

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def compare_versions(
    a: tuple[ModelVersion, StoredProgram],
    b: tuple[ModelVersion, StoredProgram],
    inputs: Mapping[str, Any] | None = None,
    predictor: str | None = None,
) -> VersionDiff:
    """Compare two versions, from the older to the newer, in whichever order they are given.

    Args:
        a: A version with what is stored of it.
        b: Another one.
        inputs: Values of the input fields; if given, the rendered prompts are compared too.
        predictor: Whose prompt, where the programs have several predictors.
    """
    (version_a, stored_a), (version_b, stored_b) = sorted((a, b), key=lambda one: one[0].created_at)
    if version_a.model_id == version_b.model_id:
        (version_a, stored_a), (version_b, stored_b) = sorted(
            (a, b), key=lambda one: sort_key(one[0].version)
        )
    changes = [*_values("score", _scores(version_a), _scores(version_b))]
    changes += _values("options", _options(stored_a), _options(stored_b))
    paths = list(dict.fromkeys([*stored_a.predictors, *stored_b.predictors]))
    for path in paths:
        suffix = f" {path}" if len(paths) > 1 else ""
        parts_a, parts_b = (_parts(stored, path) for stored in (stored_a, stored_b))
        for section in ("fields", "instructions", "demos"):
            changes += _lines(section + suffix, parts_a[section], parts_b[section])
    if inputs is not None:
        prompts = [render_prompt(stored, inputs, predictor).splitlines() for stored in (stored_a, stored_b)]
        changes += _lines("prompt", *prompts)
    made, measured = (version_a.created_at, version_b.created_at), measure(version_a, version_b)
    return VersionDiff(version_a.ref, version_b.ref, made, tuple(changes), measured)


def render_prompt(stored: StoredProgram, inputs: Mapping[str, Any], predictor: str | None = None) -> str:
    """Return the exact messages that the language model would get, with the adapter that is configured.

    Raises:
        InputError: There are several predictors and none was named, or the inputs are not the input fields.
        Refused: The predictor has field types that cannot be rebuilt without its class.
    """
    import dspy

    paths = list(stored.predictors)
    if predictor is None and len(paths) == 1:
        predictor = paths[0]
    if predictor not in stored.predictors:
        raise InputError(f"predictor {value_text(predictor)} is not known: name one of {', '.join(paths)}")
    item, state = stored.predictors[predictor]
    if not isinstance(inputs, Mapping):
        raise InputError(f"the inputs must be a dict, not a {type(inputs).__name__}")
    wanted = [field["name"] for field in item["fields"] if field["role"] == "input"]
    if sorted(inputs) != sorted(wanted):
        raise InputError(f"the inputs must be {', '.join(wanted)}, not {', '.join(inputs) or 'none'}")
    rebuilt = rebuild_predictor(item)
    load_state(rebuilt, state)
    adapter = dspy.settings.adapter or dspy.ChatAdapter()
    messages = adapter.format(rebuilt.signature, rebuilt.demos, dict(inputs))
    texts = [f"[{message['role']}]\n{_as_text(message['content'], 1)}" for message in messages]
    return "\n\n".join(texts) + "\n"


def _scores(version: ModelVersion) -> dict[str, Any]:
    if version.score is None:
        return {}
    interval = f" [{version.interval[0]:.1%}, {version.interval[1]:.1%}]" if version.interval else ""
    return {f"{version.score_kind} score": f"{version.score:.1%}{interval}"}


def _options(stored: StoredProgram) -> dict[str, Any]:
    metadata = stored.metadata
    options = {name: metadata.get(name) for name in _OPTIONS}
    options |= metadata.get("hyperparameters") or {}
    for path, (item, _) in stored.predictors.items():
        options |= {f"{path}.{name}": value for name, value in item["options"].items()}
    return {name: _as_text(value) for name, value in options.items() if value is not None}


def _parts(stored: StoredProgram, path: str) -> dict[str, list[str]]:
    if path not in stored.predictors:
        return {"fields": [], "instructions": [], "demos": []}
    item, state = stored.predictors[path]
    if not item["fields"]:
        return {"fields": [f"class {item['kind']}"], "instructions": [], "demos": []}
    described = zip(item["fields"], state["signature"]["fields"], strict=True)
    return {
        "fields": [f"{f['role']} {f['name']}: {f['type']} ({s['description']})" for f, s in described],
        "instructions": state["signature"]["instructions"].splitlines(),
        "demos": [_as_text(demo) for demo in state["demos"]],
    }


def _values(section: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            sides = (("-", a), ("+", b))
            yield from (
                Change(section, sign, f"{name}: {side[name]}") for sign, side in sides if name in side
            )


def _lines(section: str, a: Sequence[str], b: Sequence[str]) -> Iterator[Change]:
    if list(a) == list(b):
        return
    import difflib

    for operation, a1, a2, b1, b2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if operation == "equal":
            yield from (Change(section, " ", line) for line in a[a1:a2])
        else:
            yield from (Change(section, "-", line) for line in a[a1:a2])
            yield from (Change(section, "+", line) for line in b[b1:b2])


def _as_text(value: object, indent: int | None = None) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, indent=indent, ensure_ascii=False, default=str)
