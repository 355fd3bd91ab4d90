"""Words of a command, turned into the objects that they name: programs and metrics of modules and files.

What cannot be turned is an InputError of one line, before anything is spent.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import os
import sys
import sysconfig
import traceback
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dspy_nb.core.arguments import user_path
from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.text import error_text


def parse_options(
    texts: Iterable[str], as_text: Container[str] = (), named: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return options given as ``name=value``: a JSON or Python literal, else what has that name, else text.

    Args:
        texts: The options.
        as_text: Names of those whose value is text, whatever it looks like: ``1.10`` is a version.
        named: What has a name, as in a notebook.

    Raises:
        InputError: one has no name or no value, or a name occurs twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.isidentifier() and equals):
            raise InputError(f"option {text!r} is not name=value, as in num_candidates=6")
        if name in options:
            raise InputError(f"option {name!r} is given twice")
        options[name] = value if name in as_text else _value(value, named or {})
    return options


def _value(text: str, named: Mapping[str, Any]) -> Any:
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return read(text)
    return named.get(text, text)


def load_object(text: str) -> Any:
    """Return what ``package.module:name`` or ``folder/file.py:name`` stands for.

    Modules are also found in the working directory.

    Raises:
        InputError: there is no such module or name, or the module cannot be imported.
    """
    place, colon, name = text.rpartition(":")
    if not (colon and place and name):
        raise InputError(
            f"{text!r} is not module:name, as in my_package.programs:Classifier or app.py:program"
        )
    value: Any = _module(place)
    for part in name.split("."):
        if not hasattr(value, part):
            raise InputError(f"{place} has no {name!r}")
        value = getattr(value, part)
    return value


def _module(place: str) -> ModuleType:
    file = user_path("the file", place) if place.endswith(".py") else None
    if file is not None and not os.path.isfile(file):  # noqa: PTH113 (it raises nothing)
        raise InputError(f"no such file: {place}")
    try:
        return _import(place) if file is None else _import_file(file)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"cannot import {place}: {type(error).__name__}: {error_text(error)}{_place(error)}"
        ) from error


def _place(error: Exception) -> str:
    """Return the last line of the user's own code that an error passed through, if there is one."""
    libraries = ("<frozen", sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), __file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(libraries)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _import(name: str) -> ModuleType:
    _let_import_from(Path.cwd())
    top = name.partition(".")[0]
    for own in (Path(f"{top}.py"), Path(top, "__init__.py")):
        if own.is_file() and _is_elsewhere(top, own):
            raise InputError(f"{top} is a module of Python or of a package too: name the file, {own}:name")
    return importlib.import_module(name)


def _let_import_from(folder: Path) -> None:
    """Let modules be found in a folder, after all others: none may take the place of a library."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _is_elsewhere(name: str, file: Path) -> bool:
    """Return whether the name of a module means another one than the one in ``file``."""
    if name in sys.builtin_module_names or name in sys.stdlib_module_names:
        return True
    module = sys.modules.get(name)
    try:
        spec = importlib.util.find_spec(name) if module is None else None
    except (ImportError, ValueError):
        return False
    where = spec.origin if spec is not None else getattr(module, "__file__", None)
    if where is None:
        return spec is not None or module is not None
    with contextlib.suppress(OSError):
        return not file.samefile(where)
    return True


def _import_file(path: Path) -> ModuleType:
    name = path.stem
    while _is_elsewhere(name, path):
        name += "_"  # not in the place of the other one, which is in use
    before = sys.modules.get(name)
    _let_import_from(path.resolve().parent)  # its neighbours, as where Python runs it
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def load_program(text: str) -> Any:
    """Return the program that ``module:name`` stands for: a ``dspy.Module``, or what makes one when called.

    Raises:
        InputError: it is neither, or making it failed.
    """
    import dspy

    found = load_object(text)
    if callable(found) and not isinstance(found, dspy.Module):
        try:
            found = found()
        except Exception as error:
            raise InputError(f"{text}() failed: {type(error).__name__}: {error_text(error)}") from error
    if isinstance(found, list) and found and all(isinstance(part, dspy.Module) for part in found):
        return found
    if not isinstance(found, dspy.Module):
        raise InputError(f"{text} is neither a dspy.Module nor makes one, but a {type(found).__name__}")
    return found


def load_metric(text: str) -> Any:
    """Return the metric that ``exact_match:field`` and its like, or ``module:function``, stands for.

    Raises:
        InputError: it is neither.
    """
    from dspy_nb.core.data.metrics import as_metric, parse_metric

    try:
        return parse_metric(text)
    except InputError as error:
        if _is_module(text.rpartition(":")[0]):
            return as_metric(load_object(text))
        raise InputError(f"{error}; a function of your own is package.module:name or file.py:name") from None


def load_lm(text: str) -> Any:
    """Return the language model that ``provider/model`` stands for.

    Raises:
        InputError: it is no such name.
    """
    import dspy

    if "/" not in text.strip("/"):
        raise InputError(f"--lm {text!r} is not provider/model, as in openai/gpt-4o-mini")
    return dspy.LM(text)


def load_evidence(file: str) -> Any:
    """Return the evidence in a file of JSON.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    from dspy_nb.core.storage.files import parse_json, read_file

    try:
        found = parse_json(read_file(Path(file)), file)
    except (OSError, Corrupt) as error:
        raise InputError(f"--evidence {file}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict):
        raise InputError(f"--evidence {file}: the file must hold one JSON object")
    return found


def _is_module(place: str) -> bool:
    _let_import_from(Path.cwd())
    return (
        place.endswith(".py") or "." in place or (place != "" and importlib.util.find_spec(place) is not None)
    )


def input_fields(program: Any) -> list[str]:
    """Return the names of the fields that a program is called with.

    These are the parameters of its ``forward``, or the inputs of its signature where that takes any.

    Raises:
        InputError: they cannot be told.
    """
    from dspy_nb.core.programs.inputs import required_parameters  # imports dspy, which takes seconds

    program = program[0] if isinstance(program, list) else program
    if names := required_parameters(program):
        return names
    for part in (program, *program.predictors()):
        if (signature := getattr(part, "signature", None)) is not None:
            return list(signature.input_fields)
    raise InputError(f"the input fields of {type(program).__name__} cannot be told: name them with --inputs")
