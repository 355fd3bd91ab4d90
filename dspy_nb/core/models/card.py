"""The README.md of a version: what it is, how good, made from what, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from dspy_nb.core.text import markdown_text, visible

_MOST_DEMOS: Final = 16


def model_card(
    metadata: Mapping[str, Any],
    state: Mapping[str, Any],
    summary: Mapping[str, Any],
    program_class: str | None,
) -> str:
    """Return the model card as Markdown; every value from outside is escaped.

    Args:
        metadata: The content of metadata.json.
        state: The content of model.json.
        summary: Score, interval and what the score was measured on, as in the log.
        program_class: The class that loading needs, or None if the version loads without.
    """
    ref = f"{metadata['model_id']}@{metadata['version']}"
    parts = [
        f"# {markdown_text(metadata['model_id'])} {markdown_text(metadata['version'])}",
        _score(summary, metadata),
        *([markdown_text(metadata["notes"])] if metadata.get("notes") else []),
        "## How it was made",
        _table(_made(metadata)),
        *_options(metadata),
        "## Use",
        _usage(ref, metadata, program_class),
        "## Prompt",
        *_prompt(metadata, state),
        "## Lineage",
        _table(_lineage(metadata)),
    ]
    return "\n\n".join(parts) + "\n"


def _score(summary: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    if summary.get("score") is None:
        return "Score: not measured when it was registered."
    measured = {
        "test": "on held-out test data",
        "evaluation": "in the evaluation stored with it",
        "validation": "on the validation data that the search saw, so it flatters",
    }[summary["score_kind"]]
    interval = summary.get("interval")
    range_ = f" (interval {interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
    metric = f", metric {markdown_text(metadata['metric'])}" if metadata.get("metric") else ""
    return f"**Score {summary['score']:.1%}**{range_} {measured}{metric}.{_change(metadata)}"


def _change(metadata: Mapping[str, Any]) -> str:
    """Return what the optimization has changed on held-out examples, "" where that is not known."""
    before, after, gain = (metadata.get(name) for name in ("test_before", "test", "improvement"))
    try:
        scores = f"{before['score']:.1%} -> {after['score']:.1%}"  # type: ignore[index]
        return f" Against the program before: held-out {scores}, {markdown_text(gain['verdict'])}."  # type: ignore[index]
    except (TypeError, KeyError, ValueError):  # older versions, and metadata of people's own
        return ""


def _made(metadata: Mapping[str, Any]) -> dict[str, Any]:
    datasets = metadata.get("datasets") or {}
    return {
        "Optimizer": metadata.get("optimizer"),
        "Language model": metadata.get("base_model"),
        "Training examples": _number(metadata.get("num_training_examples")),
        "Validation score": _number(metadata.get("validation_score"), ".1%"),
        "Seed": metadata.get("seed"),
        "Spent": _spent(metadata.get("usage") or {}),
        "Duration": _number(metadata.get("duration_s"), ",.0f", " s"),
        "Stopped by": metadata.get("stopped_by"),
        **{f"Data: {name}": _data(value) for name, value in datasets.items()},
    }


def _number(value: Any, form: str = ",", unit: str = "") -> Any:
    """Return a number in that format, anything else as it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:{form}}{unit}" if is_number else value


_SPENT: Final = {
    "lm_calls": "{} LM calls",
    "cache_hits": "{} answers from a cache",
    "prompt_tokens": "{} tokens sent",
    "completion_tokens": "{} tokens received",
}


def _spent(usage: Mapping[str, Any]) -> str | None:
    known = {key: value for key, value in usage.items() if value is not None}
    parts = [text.format(_number(known.pop(key))) for key, text in _SPENT.items() if key in known]
    if "usd" in known:
        parts.append(f"${_number(known.pop('usd'), ',.4f')}")
    return ", ".join([*parts, *(f"{key} {_number(value)}" for key, value in known.items())]) or None


def _data(given: Any) -> str:
    """Return how many examples there were, and the start of their fingerprint; metadata.json has all of it."""
    if not isinstance(given, Mapping) or not {"n", "fingerprint"} <= set(given):
        return json.dumps(given, ensure_ascii=False)
    rest = {key: value for key, value in given.items() if key not in ("n", "fingerprint")}
    more = f", {json.dumps(rest, ensure_ascii=False)}" if rest else ""
    what = "example" if given["n"] == 1 else "examples"
    return f"{_number(given['n'])} {what}, fingerprint {str(given['fingerprint'])[:12]}{more}"


def _options(metadata: Mapping[str, Any]) -> list[str]:
    options = metadata.get("hyperparameters")
    return ["Options of the optimizer:", _json(options)] if options else []


def _usage(ref: str, metadata: Mapping[str, Any], program_class: str | None) -> str:
    fields = [field for item in metadata["signature"]["predictors"][:1] for field in item["fields"]]
    inputs = ", ".join(f'{field["name"]}="..."' for field in fields if field["role"] == "input")
    outputs = [field["name"] for field in fields if field["role"] == "output"]
    needed = f", program={program_class.rpartition('.')[2]}()" if program_class else ""
    call = f"program({inputs}){'.' + outputs[-1] if outputs else ''}" if not program_class else "program(...)"
    opened = 'import dspy_nb as nb\n\nregistry = nb.Registry("registry")'
    return _block(f'{opened}\nprogram = registry.load("{ref}"{needed})\n{call}', "python")


def _prompt(metadata: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    parts: list[str] = []
    for item in metadata["signature"]["predictors"]:
        own = state if item["path"] == "self" else state[item["path"]]
        if not item["fields"]:
            continue
        if item["path"] != "self":
            parts.append(f"### {markdown_text(item['path'])}")
        signature = ", ".join(f"{each['name']}: {each['type']} ({each['role']})" for each in item["fields"])
        parts += [f"Fields: {markdown_text(signature)}", "Instructions:"]
        parts.append(_block(own["signature"]["instructions"], "text"))
        demos = own["demos"]
        parts.append(f"Demos: {len(demos)}" + ("" if demos else "."))
        parts += map(_json, demos[:_MOST_DEMOS])
        if len(demos) > _MOST_DEMOS:
            parts.append(f"... and {len(demos) - _MOST_DEMOS} more in model.json.")
    return parts


def _lineage(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Registered": _moment(metadata["saved_at"]),
        "Created": _moment(metadata["created_at"]),
        "Parent version": metadata["parent"] or "none: the first version",
        "Class": metadata["program_class"],
        "Git commit": metadata.get("git_commit"),
        "Packages": ", ".join(f"{name} {version}" for name, version in metadata["packages"].items()),
    }


def _moment(at: Any) -> str:
    return f"{str(at)[:19].replace('T', ' ')} UTC"


def _table(rows: Mapping[str, Any]) -> str:
    facts = [map(markdown_text, fact) for fact in rows.items() if fact[1] is not None]
    lines = [f"| {' | '.join(fact)} |" for fact in facts]
    return "\n".join(["| Fact | Value |", "|---|---|", *lines])


def _json(value: object) -> str:
    return _block(json.dumps(value, indent=2, ensure_ascii=False), "json")


def _block(text: str, language: str) -> str:
    """Return a code block with a fence longer than any run of backticks in the text."""
    text = visible(text)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"
