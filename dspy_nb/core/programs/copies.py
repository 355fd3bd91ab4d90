"""Copies of programs: predictors that are shared stay shared, also where some part cannot be copied.

DSPy copies the attributes of such a program one by one, so that ``self.final = self.draft`` become two predictors,
and a list with one part that cannot be copied stays the list of the original. Here one memo serves all parts.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

from dspy_nb.core.errors import InputError
from dspy_nb.core.programs.spec import parameters_of
from dspy_nb.core.text import error_text

if TYPE_CHECKING:
    import dspy


def copy_of(program: dspy.Module) -> dspy.Module:
    """Return a copy with predictors of its own; what cannot be copied, such as a lock, is shared with it.

    Raises:
        InputError: A module of it cannot be made anew; the message names its class.
    """
    import dspy

    if type(program).deepcopy is not dspy.Module.deepcopy:
        return program.deepcopy()  # the program knows better
    return _copy(program, {})


def student_of(program: dspy.Module) -> dspy.Module:
    """Return a copy for DSPy's optimizers: they copy it as ``copy_of`` does, and tune every predictor.

    A predictor that DSPy does not find, because it lies deeper than one list or dict, stands in the copy once more,
    as an attribute under its own name such as ``experts['en'][0]``.

    Raises:
        InputError: As for ``copy_of``.
    """
    student = copy_of(program)
    known = {id(parameter) for parameter in student.parameters()}
    for name, parameter in list(parameters_of(student, frozen=False)):
        if id(parameter) not in known:
            vars(student)[name] = parameter
    try:
        copy.deepcopy(student)
    except Exception:
        _copy_by_parts_from_now_on(student)
    return student


def check_copies(program: dspy.Module) -> None:
    """Check that a copy of a program, and a copy of that one, have the predictors of the program.

    Raises:
        InputError: They have not; the message names the predictor.
    """
    original = dict(parameters_of(program))
    try:
        copies = [student_of(program)]
        copies.append(copies[0].deepcopy())
    except RecursionError:
        raise InputError(
            f"{type(program).__name__} contains itself, which DSPy cannot walk through"
        ) from None
    for made in copies:
        copied = dict(parameters_of(made))
        for name in dict.fromkeys([*original, *copied]):
            wrong = None
            if name not in copied or name not in original:
                wrong = f"its predictor {name} is {'lost in' if name in original else 'only in'} the copy"
            elif copied[name] is original[name]:
                wrong = f"its predictor {name} is still that of the original"
            if wrong:
                raise InputError(
                    f"{type(program).__name__} cannot be copied, as every optimizer does: {wrong}; hold predictors "
                    "in attributes, lists or dicts of modules, apart from what cannot be copied"
                )


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy of ``value``, or a copy of its parts where there is none."""
    import dspy

    before = dict(memo)
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        memo.clear()  # it may hold parts that were never finished
        memo.update(before)
    if isinstance(value, dspy.Module):
        return _copy_by_parts(value, memo)
    if type(value) is list:
        made: list[Any] = []
        memo[id(value)] = made
        made.extend(_copy(item, memo) for item in value)
        return made
    if type(value) is dict:
        table: dict[Any, Any] = {}
        memo[id(value)] = table
        table.update({key: _copy(item, memo) for key, item in value.items()})
        return table
    if type(value) is tuple:
        return tuple(_copy(item, memo) for item in value)
    try:
        return copy.copy(value)
    except Exception:
        return value


def _copy_by_parts(program: dspy.Module, memo: dict[int, Any]) -> dspy.Module:
    cls: Any = type(program)
    try:
        made = cls.__new__(cls)
    except Exception as error:
        words = error_text(error, 200)
        raise InputError(
            f"{cls.__name__} cannot be copied, as every optimizer does: {type(error).__name__}: {words}"
        ) from error
    memo[id(program)] = made
    state = program.__getstate__()
    ours = isinstance(state.get("__deepcopy__"), functools.partial)
    made.__setstate__({name: _copy(item, memo) for name, item in state.items() if name != "__deepcopy__"})
    if ours:
        _copy_by_parts_from_now_on(made)
    return made


def _copy_by_parts_from_now_on(program: dspy.Module) -> None:
    """Make ``copy.deepcopy``, which DSPy tries first, copy this object part by part, and its copies too."""
    vars(program)["__deepcopy__"] = functools.partial(_copy_by_parts, program)
