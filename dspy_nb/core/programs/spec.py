"""What a program is made of, as JSON: DSPy's own state has no field names, no types and no class.

DSPy matches the fields of a saved program by position and without a check; here the spec that was stored
is compared with the program by name, and a program of one plain predictor is rebuilt from it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dspy_nb.core.errors import Corrupt, InputError, Refused
from dspy_nb.core.programs.field_types import is_plain_type, parse_type, same_type, type_text
from dspy_nb.core.programs.seams import (
    description_of,
    is_compiled,
    is_parameter,
    is_untyped,
    role_of,
    untyped,
)
from dspy_nb.core.secrecy import SAMPLING_OPTIONS
from dspy_nb.core.text import error_text

if TYPE_CHECKING:
    import dspy
    from pydantic.fields import FieldInfo

Program: TypeAlias = "dspy.Module | Callable[..., Any]"
"""A module of DSPy, or a function of the input fields."""

KEPT_BY_DSPY: Final = frozenset({"history", "callbacks"})
"""Attributes of a module that hold no part of it."""


def class_path(program: object) -> str:
    """Return ``module.Class`` of a program."""
    return f"{type(program).__module__}.{type(program).__qualname__}"


def base_model(program: dspy.Module) -> str | None:
    """Return the model string that the program runs on: its own, else the configured one, else None."""
    import dspy

    models = {parameter.lm.model for _, parameter in parameters_of(program) if getattr(parameter, "lm", None)}
    if models:
        return ", ".join(sorted(map(str, models)))
    return getattr(dspy.settings.lm, "model", None)


def spec_of(program: dspy.Module) -> dict[str, Any]:
    """Return the spec of a program.

    Returns:
        ``kind`` (Predict, ChainOfThought or custom), ``obstacle`` (why the spec alone does not give the
        program back; None if it does) and ``predictors``, each with ``path``, ``kind``, ``obstacle``,
        ``options`` and ``fields`` (name, role, type, untyped, desc).

    Raises:
        InputError: It is no program, or its behaviour is not in its state.
    """
    import dspy

    if not isinstance(program, dspy.Module):
        raise InputError(f"a {type(program).__name__} cannot be registered: give a dspy.Module or a run")
    for name, module in parts_of(program):
        if "forward" in vars(module):
            raise InputError(
                f"the program cannot be registered: the forward of {name} was replaced on the object (as "
                "KNNFewShot does), and DSPy's JSON state does not hold it"
            )
    check_named(program)
    predictors = [_predictor_spec(path, parameter) for path, parameter in parameters_of(program)]
    if not predictors:
        raise InputError("the program cannot be registered: it has no predictors, so it has no state")
    if twice := [path for path, n in Counter(item["path"] for item in predictors).items() if n > 1]:
        raise InputError(f"the program cannot be registered: it has two predictors called {twice[0]}")
    if any(item["path"] == "metadata" for item in predictors):
        raise InputError(
            "the program cannot be registered: DSPy's JSON state has no room for one named 'metadata'"
        )
    kind = {dspy.Predict: "Predict", dspy.ChainOfThought: "ChainOfThought"}.get(type(program), "custom")
    obstacle: str | None = f"it is a program of class {class_path(program)}"
    if kind != "custom":
        obstacle = next((item["obstacle"] for item in predictors if item["obstacle"]), None)
    return {"kind": kind, "obstacle": obstacle, "predictors": predictors}


def check_spec(spec: object, where: str) -> None:
    """Check the shape of an untrusted spec.

    Raises:
        Corrupt: It is not what ``spec_of`` returns.
    """
    if (
        not isinstance(spec, dict)
        or spec.get("kind") not in ("Predict", "ChainOfThought", "custom")
        or not isinstance(spec.get("obstacle"), str | None)
        or not isinstance(spec.get("predictors"), list)
        or not all(map(_is_predictor_spec, spec["predictors"]))
        or not spec["predictors"]
        or (spec["kind"] != "custom" and len(spec["predictors"]) != 1)
    ):
        raise Corrupt(f"{where}: the spec of the program is not as it should be")


def compare_specs(
    stored: Mapping[str, Any], program: Mapping[str, Any], ref: str, *, schemas: bool = True
) -> None:
    """Check that a program is the one that a version was made from.

    Args:
        stored: The spec of the version.
        program: That of the program.
        ref: The version.
        schemas: Whether the schemas of the fields must be the same too.

    Raises:
        Refused: A predictor, field, role or type differs, or what a type is made of; the message names it.
    """
    theirs = {item["path"]: item for item in stored["predictors"]}
    ours = {item["path"]: item for item in program["predictors"]}
    for path in [*theirs, *(path for path in ours if path not in theirs)]:
        if path not in ours or path not in theirs:
            raise Refused(f"{ref} does not fit the program: predictor {_only_in(path, path in theirs)}")
        a, b = ({field["name"]: field for field in item["fields"]} for item in (theirs[path], ours[path]))
        for name in [*a, *(name for name in b if name not in a)]:
            if name not in b or name not in a:
                raise Refused(f"{ref} does not fit the program: field {_only_in(name, name in a)} ({path})")
            for key in ("role", "type"):
                if not (
                    a[name][key] == b[name][key] or (key == "type" and same_type(a[name][key], b[name][key]))
                ):
                    raise Refused(
                        f"{ref} does not fit the program: the {key} of field '{name}' ({path}) is "
                        f"{a[name][key]} in the version but {b[name][key]} in the program"
                    )
        if list(a) != list(b):
            raise Refused(
                f"{ref} does not fit the program: the fields of {path} are in the order {', '.join(a)} in "
                f"the version but {', '.join(b)} in the program"
            )
        if theirs[path]["kind"].rpartition(".")[2] != ours[path]["kind"].rpartition(".")[2]:
            raise Refused(
                f"{ref} does not fit the program: {path} is a {theirs[path]['kind']} in the version but a "
                f"{ours[path]['kind']} in the program"
            )
    for field, text in different_schemas(stored, program) if schemas else ():
        raise Refused(
            f"{ref} does not fit the program: what {text} is made of has changed, the type of field {field}: its "
            "fields, values or constraints are others than in the version"
        )


def rebuild(spec: Mapping[str, Any], ref: str) -> dspy.Module:
    """Build the program that a spec describes, without its state.

    Raises:
        Refused: The spec alone does not say what the program does.
    """
    import dspy

    from dspy_nb.core.programs.quiet import making_predictors

    if spec["obstacle"]:
        raise Refused(f"{ref} cannot be loaded without its class: {spec['obstacle']}: load(ref, program=...)")
    (item,) = spec["predictors"]
    if spec["kind"] == "Predict":
        return rebuild_predictor(item)
    fields = item["fields"]
    if not any(field["name"] == "reasoning" and field["role"] == "output" for field in fields):
        raise Corrupt(f"{ref}: the spec of a ChainOfThought has no output field 'reasoning'")
    signature = _signature([field for field in fields if field["name"] != "reasoning"])
    with making_predictors():
        return dspy.ChainOfThought(signature, **item["options"])


def rebuild_predictor(item: Mapping[str, Any]) -> dspy.Predict:
    """Build one predictor of a spec, without its state.

    Raises:
        Refused: It is no plain predictor.
    """
    import dspy

    from dspy_nb.core.programs.quiet import making_predictors

    if item["obstacle"]:
        raise Refused(f"the predictor {item['path']} cannot be rebuilt: {item['obstacle']}")
    with making_predictors():
        return dspy.Predict(_signature(item["fields"]), **item["options"])


def _signature(fields: list[dict[str, Any]]) -> type[dspy.Signature]:
    import dspy

    described: dict[str, Any] = {}
    for field in fields:
        make = dspy.InputField if field["role"] == "input" else dspy.OutputField
        extra = untyped() if field["untyped"] else {}
        described[field["name"]] = (parse_type(field["type"]), make(desc=field["desc"], **extra))
    try:
        return dspy.Signature(described)
    except Exception as error:  # pydantic's own errors have many types
        raise Corrupt(f"the signature cannot be built: {error_text(error, 200)}") from error


def parameters_of(program: dspy.Module, *, frozen: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield every predictor of a program with its name, each once, however deep it lies.

    The names are those of DSPy's ``named_parameters``, which looks into one list or dict only. Here lists and dicts
    may lie in each other, and a plain object may hold predictors in its attributes. Those in a set have no name,
    and are left out: ``check_named`` refuses them.

    Args:
        program: The program.
        frozen: Whether to yield those of sub-modules that were compiled on their own too, which DSPy leaves out of
            the state of their parent.
    """
    yield from (item for item in _walk(program, frozen) if is_parameter(item[1]))


def parts_of(program: dspy.Module) -> Iterator[tuple[str, Any]]:
    """Yield every module and predictor of a program with its name, each once, itself first, as "self".

    DSPy's ``named_sub_modules`` walks through the modules' histories too, up to 10,000 calls each.
    """
    import dspy

    yield from (
        item for item in _walk(program, True) if isinstance(item[1], dspy.Module) or is_parameter(item[1])
    )


def predictors_of(program: dspy.Module, *, frozen: bool = True) -> list[dspy.Predict]:
    """Return those of ``parameters_of`` that are a ``dspy.Predict``."""
    import dspy

    return [part for _, part in parameters_of(program, frozen=frozen) if isinstance(part, dspy.Predict)]


def check_named(program: dspy.Module) -> None:
    """Check that no predictor stands in a set, where it has no name to be tuned, stored and loaded by.

    Raises:
        InputError: One does; the message names the attribute.
    """
    for name, value in _walk(program, frozen=True):
        if isinstance(value, set | frozenset):
            raise InputError(
                f"the predictors in {name} stand in a set, so that they have no names to be tuned and stored by: "
                "hold them in a list or a dict"
            )


def _walk(program: dspy.Module, frozen: bool) -> Iterator[tuple[str, Any]]:
    """Yield the modules, the predictors, and the sets that hold some."""
    import dspy

    seen: set[int] = set()

    def walk(name: str, value: object) -> Iterator[tuple[str, Any]]:
        if isinstance(value, str | bytes | int | float | None) or id(value) in seen:
            return
        if is_parameter(value) or (isinstance(value, set | frozenset) and any(map(_is_part, value))):
            seen.add(id(value))
            yield name, value
        elif isinstance(value, dspy.Module):
            if frozen or value is program or not is_compiled(value):
                yield name or "self", value
                attributes = (item for item in vars(value).items() if item[0] not in KEPT_BY_DSPY)
                yield from walk_into(name, value, attributes, ".{}")
        elif isinstance(value, list | tuple | deque):
            yield from walk_into(name, value, enumerate(value), "[{}]")
        elif isinstance(value, dict):
            yield from walk_into(name, value, value.items(), "['{}']")
        elif _holds_parts(value):
            yield from walk_into(name, value, vars(value).items(), ".{}")

    def walk_into(
        name: str, value: object, items: Iterable[tuple[Any, object]], form: str
    ) -> Iterator[tuple[str, Any]]:
        seen.add(id(value))
        for key, item in list(items):
            yield from walk((name + form.format(key)).removeprefix("."), item)

    if is_parameter(program):
        yield "self", program
    else:
        yield from walk("", program)


def _is_part(value: object) -> bool:
    import dspy

    return isinstance(value, dspy.Module) or is_parameter(value)


def _holds_parts(value: object) -> bool:
    """Tell whether a plain object has modules among its attributes; classes, functions and tools are code."""
    import dspy
    from pydantic import BaseModel

    if isinstance(value, type | ModuleType | FunctionType | BaseModel | dspy.BaseLM):
        return False
    attributes = getattr(value, "__dict__", None)
    return isinstance(attributes, dict) and any(map(_is_part, attributes.values()))


def _predictor_spec(path: str, parameter: Any) -> dict[str, Any]:
    import dspy

    kind = "Predict" if type(parameter) is dspy.Predict else class_path(parameter)
    if not isinstance(parameter, dspy.Predict):
        return {"path": path, "kind": kind, "obstacle": f"it is a {kind}", "options": {}, "fields": []}
    fields = [_field_spec(name, field) for name, field in parameter.signature.fields.items()]
    options = {key: value for key, value in parameter.config.items() if key in SAMPLING_OPTIONS}
    obstacles = (_find_obstacle(name, field) for name, field in parameter.signature.fields.items())
    obstacle = next(filter(None, obstacles), None)
    if kind != "Predict":
        obstacle = f"it is a {kind}"
    elif left_out := sorted(set(parameter.config) - SAMPLING_OPTIONS):
        obstacle = f"its options {', '.join(left_out)} are not stored"
    return {"path": path, "kind": kind, "obstacle": obstacle, "options": options, "fields": fields}


def _field_spec(name: str, field: Any) -> dict[str, Any]:
    return {
        "name": name, "role": role_of(field), "type": type_text(field.annotation), "untyped": is_untyped(field),
        "desc": description_of(field), "schema": schema_hash(field),
    }  # fmt: skip


def _find_obstacle(name: str, field: Any) -> str | None:
    if not is_plain_type(text := type_text(field.annotation)):
        return f"the type {text} of the field '{name}' is not one that the registry can rebuild"
    constrained = field.metadata or not field.is_required()
    return f"the field '{name}' has a default or a constraint" if constrained else None


def schema_hash(field: FieldInfo) -> str | None:
    """Return a hash of the JSON schema of a field, which names each nested field, enum value and constraint.

    ``None`` where the text of the type says as much, and where the type has no schema.
    """
    from pydantic import TypeAdapter

    if is_plain_type(type_text(field.annotation)) and not field.metadata:
        return None
    try:
        schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    except Exception:  # a type of one's own may refuse in its own way
        return None
    return hashlib.sha256(json.dumps(schema, default=str).encode()).hexdigest()[:16]


def different_schemas(stored: Mapping[str, Any], program: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and the type of each field whose schema is known on both sides and differs."""
    ours = {item["path"]: item["fields"] for item in program["predictors"]}
    return [
        (f"'{theirs['name']}' ({item['path']})", theirs["type"])
        for item in stored["predictors"]
        for theirs in item["fields"]
        for own in ours.get(item["path"], ())
        if own["name"] == theirs["name"]
        and None not in (own.get("schema"), theirs.get("schema"))
        and own["schema"] != theirs["schema"]
    ]


def _is_predictor_spec(item: object) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("path"), str)
        and isinstance(item.get("kind"), str)
        and isinstance(item.get("obstacle"), str | None)
        and isinstance(item.get("options"), dict)
        and set(item["options"]) <= SAMPLING_OPTIONS
        and isinstance(item.get("fields"), list)
        and all(
            isinstance(field, dict)
            and all(isinstance(field.get(key), str) for key in ("name", "role", "type", "desc"))
            and field["name"].isidentifier()
            and field["role"] in ("input", "output")
            and isinstance(field.get("untyped"), bool)
            and isinstance(field.get("schema"), str | None)
            for field in item["fields"]
        )
    )


def _only_in(name: str, in_version: bool) -> str:
    places = ("version", "program") if in_version else ("program", "version")
    return f"'{name}' is in the {places[0]} but not in the {places[1]}"
