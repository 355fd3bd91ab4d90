"""Turn a JSON schema into what the embedded model is made to write: a form with blanks.

Three things make a schema work for a model this small:

- What the schema fixes is never generated. The opening (``{"sentiment": "``) goes into the prompt, where
  reading it costs a tenth of writing it, and an answer of a single label ends with that label. A call to
  classify a short review is 1.5 times faster for it.
- Every blank is bounded. A small model that starts to repeat itself never closes the quote, the number or
  the list, and the answer is cut off in the middle. So strings, lists and numbers get a maximum that lets
  all of them fit into ``max_tokens``.
- The text around the blanks is laid out as ``dspy.JSONAdapter`` lays out its demonstrations.

The grammar is written for llguidance (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]

# Characters that a token is trusted to be worth, and items in a list, for the first attempt and for the next
# ones if an answer was cut off. English runs at 4 to 5 characters a token; the last row holds even for text
# where every character takes four tokens.
TIGHTNESS = ((3.0, 10), (1.0, 4), (0.25, 2))

_DEPTH = 4  # how deep a recursive schema is counted
_TOKENS_PER_BLANK = 8  # quotes, commas, the name of the field
_SHORTEST = 8  # characters that a string is always allowed
_LARGEST = 10**12  # of a number that has no limit of its own
_PRECISION = 0.0001  # of a number that has none of its own
_PROPERTIES = 8  # of an object whose property names are not given
# Compact, and without the whitespace in which a small model can lose itself. Lenient: keywords that cannot
# be enforced, like uniqueItems, are ignored; otherwise llama.cpp would silently drop the whole grammar.
_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}


@dataclass(frozen=True)
class Form:
    """One answer: ``opening`` + what the model writes under ``grammar`` up to ``stop`` + ``closing``."""

    opening: str
    grammar: str
    stop: tuple[str, ...] = ()
    closing: str = ""


def answer_form(schema: Schema, max_tokens: int, attempt: int = 0) -> Form:
    """Return the form that makes an answer of at most ``max_tokens`` satisfy ``schema``.

    Args:
        schema: A JSON schema; DSPy's has an object at the root, any other works too.
        max_tokens: What the whole answer may take.
        attempt: Index into ``TIGHTNESS``.
    """
    definitions: Schema = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    per_token, items = TIGHTNESS[attempt]
    blanks = max(1, _blanks(schema, definitions, items, _DEPTH))
    characters = max(_SHORTEST, int((max_tokens / blanks - _TOKENS_PER_BLANK) * per_token))
    bounded = _bound({**schema, **definitions}, characters, items)
    properties = bounded.get("properties")
    if not properties:
        return Form("", "%llguidance {}\nstart: " + _json_rule(bounded, {}))
    names = list(properties)
    labels = properties[names[0]].get("enum", [])
    if len(names) == 1 and labels and all(isinstance(label, str) for label in labels):
        escaped = [json.dumps(label, ensure_ascii=False)[1:-1] for label in labels]
        if not any('"' in label for label in escaped):
            alternatives = " | ".join(_literal(label) for label in escaped)
            rule = f"start: ({alternatives}) " + _literal('"\n}')
            return Form(f'{{\n  {json.dumps(names[0])}: "', "%llguidance {}\n" + rule, ('"',), '"\n}')
    kept: Schema = {key: bounded[key] for key in definitions}
    separators = [" "] + [f",\n  {json.dumps(name, ensure_ascii=False)}: " for name in names[1:]]
    start = " ".join(f"{_literal(text)} value{number}" for number, text in enumerate(separators))
    rules = [f"value{number}: {_json_rule(properties[name], kept)}" for number, name in enumerate(names)]
    grammar = "\n".join(["%llguidance {}", f"start: {start} " + _literal("\n}"), *rules])
    return Form(f"{{\n  {json.dumps(names[0], ensure_ascii=False)}:", grammar)


def _literal(text: str) -> str:
    return json.dumps(text)


def _json_rule(schema: Schema, definitions: Schema) -> str:
    return "%json " + json.dumps({"x-guidance": _OPTIONS, **definitions, **schema})


def _blanks(node: Any, definitions: Schema, items: int, depth: int) -> int:
    """Return how many values the largest instance of ``node`` holds."""
    if not isinstance(node, dict) or depth < 0:
        return 1
    if "$ref" in node:
        return _blanks(_resolve(node["$ref"], definitions), definitions, items, depth - 1)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in node:
            return max(_blanks(option, definitions, items, depth) for option in node[union])
    if node.get("type") == "array":
        if "prefixItems" in node:
            return sum(_blanks(item, definitions, items, depth) for item in node["prefixItems"])
        each = _blanks(node.get("items"), definitions, items, depth - 1)
        return each * int(min(node.get("maxItems", items), items))
    if properties := node.get("properties"):
        return sum(_blanks(value, definitions, items, depth) for value in properties.values())
    return _PROPERTIES if node.get("type") == "object" else 1


def _resolve(reference: str, definitions: Schema) -> Any:
    _, _, path = reference.partition("#/")
    found: Any = definitions
    for part in path.split("/"):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _bound(node: Schema, characters: int, items: int) -> Schema:
    """Return ``node`` with a maximum on every string, list, number and open object that has none."""
    if "enum" in node or "const" in node or "$ref" in node:
        return node
    bounded = dict(node)
    for key in ("properties", "$defs", "definitions"):
        if key in node:
            bounded[key] = {name: _bound(value, characters, items) for name, value in node[key].items()}
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if key in node:
            bounded[key] = [_bound(value, characters, items) for value in node[key]]
    kind = node.get("type")
    if kind == "string" and "pattern" not in node:
        longest = max(characters, node.get("minLength", 0))
        bounded["maxLength"] = min(longest, node.get("maxLength", longest))
    elif kind in ("integer", "number"):
        bounded.setdefault("minimum", node.get("exclusiveMinimum", -_LARGEST))
        bounded.setdefault("maximum", node.get("exclusiveMaximum", _LARGEST))
        if kind == "number":
            bounded.setdefault("multipleOf", _PRECISION)
    elif kind == "array":
        most = max(items, node.get("minItems", 0), len(node.get("prefixItems", ())))
        bounded["maxItems"] = min(most, node.get("maxItems", most))
        if isinstance(node.get("items"), dict):
            bounded["items"] = _bound(node["items"], characters, items)
    elif kind == "object" and not node.get("properties"):
        value = node.get("additionalProperties", True)
        value = _bound(value, characters, items) if isinstance(value, dict) else _anything(characters)
        bounded |= {"additionalProperties": value, "maxProperties": _PROPERTIES}
    return bounded


def _anything(characters: int) -> Schema:
    """Return the schema of a value that nothing is known about: one level deep, so that it ends."""
    plain = [_bound({"type": kind}, characters, 0) for kind in ("string", "number", "boolean", "null")]
    return {"anyOf": [*plain, {"type": "array", "items": {"anyOf": plain}, "maxItems": _PROPERTIES}]}
