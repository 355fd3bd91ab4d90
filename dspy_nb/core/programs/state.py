"""DSPy's JSON state of a program: written without language models, checked before DSPy reads it.

DSPy sets every unknown key of a predictor's state as an attribute and restores the endpoint of a language
model. Neither happens here: unknown keys are refused, and a language model is neither written nor read.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.programs.demos import dump_demo, load_demo
from dspy_nb.core.programs.seams import dependency_versions
from dspy_nb.core.programs.spec import parameters_of
from dspy_nb.core.storage.files import dump_json
from dspy_nb.core.text import error_text, repaired

if TYPE_CHECKING:
    import dspy

_STATE_KEYS: Final = {"traces", "train", "demos", "signature", "lm", "fields"}


def dump_state(program: dspy.Module, *, repair: bool = False) -> dict[str, Any]:
    """Return DSPy's own JSON state, which ``program.load`` of DSPy reads too, without language models.

    Demos are those of ``dump_demo``: columns of the data that are no fields are left out where they are no JSON.

    Args:
        program: The program.
        repair: Whether half of a surrogate pair, which is no text by itself, becomes text; else it is refused.

    Raises:
        InputError: A demo cannot be stored; the message names the field and its type.
    """
    states = {path: _dump_parameter(parameter, repair) for path, parameter in parameters_of(program)}
    state = states["self"] if list(states) == ["self"] else states
    state = repaired(state) if repair else state
    return {**state, "metadata": {"dependency_versions": dependency_versions()}}


def _dump_parameter(parameter: Any, repair: bool) -> dict[str, Any]:
    import dspy

    bare = copy.copy(parameter)
    if hasattr(bare, "lm"):
        bare.lm = None
    if not isinstance(parameter, dspy.Predict):
        return dict(bare.dump_state())
    bare.demos = []
    state = dict(bare.dump_state())
    if "demos" in state:
        try:
            demos = [repaired(dict(demo.items())) for demo in parameter.demos] if repair else parameter.demos
            state["demos"] = [dump_demo(demo, parameter.signature) for demo in demos]
        except InputError as error:
            raise type(error)(f"the state of the program cannot be stored: {error}") from None
    return state


def program_digest(program: dspy.Module) -> str:
    """Return a hash of the prompts and the demos of a program; its code and its LMs do not count.

    Raises:
        InputError: Its state is no JSON.
    """
    return state_digest(json.loads(dump_json(dump_state(program), "the state of the program")))


def state_digest(state: Mapping[str, Any]) -> str:
    """Return the same hash of a state, as JSON has it."""
    return hashlib.sha256(json.dumps(answering_parts(state), sort_keys=True).encode()).hexdigest()


def answering_parts(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by predictor, what decides its answers."""
    parts = {"self": state} if "signature" in state else state
    return {
        path: {key: part.get(key) for key in ("signature", "demos")}
        for path, part in parts.items()
        if path != "metadata" and isinstance(part, Mapping)
    }


def load_state(program: dspy.Module, state: Mapping[str, Any]) -> None:
    """Load a state that ``check_state`` has passed; the language models of the program stay."""
    import dspy

    for path, parameter in parameters_of(program):
        if path != "self" and path not in state:
            continue  # stored before predictors this deep were found; who may, the caller has checked
        own = copy.deepcopy(state if path == "self" else state[path])
        own = {key: value for key, value in own.items() if path != "self" or key != "metadata"}
        known = _STATE_KEYS if isinstance(parameter, dspy.Predict) else set(parameter.dump_state())
        if unknown := set(own) - known:
            raise Corrupt(f"the state of {path} has unknown keys: {', '.join(sorted(unknown))}")
        if isinstance(parameter, dspy.Predict) and "demos" in own:
            own["demos"] = [load_demo(demo, parameter.signature) for demo in own["demos"]]
        lm = getattr(parameter, "lm", None)
        try:
            parameter.load_state(own)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Corrupt(f"the state of {path} does not load: {error_text(error)}") from error
        if hasattr(parameter, "lm"):
            parameter.lm = lm


def check_state(state: object, spec: Mapping[str, Any], where: str) -> None:
    """Check an untrusted state against its spec before DSPy sees it.

    Raises:
        Corrupt: It has keys that DSPy would set as attributes, fields or predictors that the spec does not
            have, or a language model.
    """
    if not isinstance(state, dict):
        raise Corrupt(f"{where} is not a program state")
    paths = [item["path"] for item in spec["predictors"]]
    own = {key: value for key, value in state.items() if key != "metadata"}
    own = {"self": own} if paths == ["self"] else own
    if sorted(own) != sorted(paths):
        raise Corrupt(f"{where} holds the predictors {sorted(own)}, but its spec says {sorted(paths)}")
    for item in spec["predictors"]:
        _check_predictor(own[item["path"]], item, f"{where}: {item['path']}")


def _check_predictor(state: object, item: Mapping[str, Any], where: str) -> None:
    if not isinstance(state, dict):
        raise Corrupt(f"{where} is not a predictor's state")
    if not item["fields"]:
        return  # a parameter of a class of its own: load_state compares its keys with the program's
    if unknown := set(state) - _STATE_KEYS:
        raise Corrupt(f"{where} has unknown keys: {', '.join(sorted(map(repr, unknown)))}")
    if state.get("lm") is not None:
        raise Corrupt(f"{where} names a language model, and the registry never stores one")
    signature, demos = state.get("signature"), state.get("demos")
    signature = signature if isinstance(signature, dict) else {}
    fields = signature.get("fields") if isinstance(signature.get("instructions"), str) else None
    if not isinstance(fields, list) or not all(
        isinstance(field, dict) and all(isinstance(field.get(key), str) for key in ("prefix", "description"))
        for field in fields
    ):
        raise Corrupt(f"{where} has no signature")
    if len(fields) != len(item["fields"]):
        raise Corrupt(f"{where} has {len(fields)} fields, but its spec has {len(item['fields'])}")
    if not isinstance(demos, list) or not all(isinstance(demo, dict) for demo in demos):
        raise Corrupt(f"{where} has demos that are no records")
    if not all(isinstance(state.get(key, []), list) for key in ("traces", "train")):
        raise Corrupt(f"{where} has traces that are no list")
