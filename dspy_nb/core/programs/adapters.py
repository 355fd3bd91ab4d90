"""Which adapter turns a program into prompts, as JSON: another one asks the same language model otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dspy_nb.core.secrecy import is_secret, without_secrets

if TYPE_CHECKING:
    import dspy


def describe_adapter(adapter: dspy.Adapter | None = None) -> dict[str, Any]:
    """Return class and options of an adapter, by default of the one in force: ChatAdapter, if none was set."""
    import dspy

    adapter = adapter or dspy.settings.adapter or dspy.ChatAdapter()
    cls = type(adapter)
    options = {
        name: describe_value(value)
        for name, value in sorted(vars(adapter).items())
        if name != "callbacks" and not name.startswith("_") and not is_secret(name) and "key" not in name
    }
    return {"class": f"{cls.__module__}.{cls.__qualname__}", "options": without_secrets(options)}


def same_adapter(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Tell whether two descriptions are of one adapter; options that only one DSPy version knows do not count."""
    return _name(a) == _name(b) and not _list_differences(a, b)


def adapter_text(adapter: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return an adapter in words, with the options that tell it from another one of its class."""
    if _name(adapter) != _name(other):
        return _name(adapter)
    options = ", ".join(f"{name}={adapter['options'][name]!r}" for name in _list_differences(adapter, other))
    return f"{_name(adapter)}({options})"


def _name(adapter: Mapping[str, Any]) -> str:
    return str(adapter.get("class")).rpartition(".")[2]  # DSPy moves its modules


def _list_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    ours, theirs = a.get("options"), b.get("options")
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        return []
    return [name for name in ours if name in theirs and ours[name] != theirs[name]]


def describe_value(value: Any) -> Any:
    """Return an option as JSON can hold it: a model, program or function by its name."""
    import dspy

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dspy.BaseLM):
        return value.model
    if isinstance(value, list | tuple):
        return [describe_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): describe_value(item) for key, item in value.items()}
    return getattr(value, "name", None) or getattr(value, "__name__", None) or type(value).__name__
