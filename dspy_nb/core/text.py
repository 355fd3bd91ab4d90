"""Text from outside, fit for every output: without controls, without half of a surrogate pair, without secrets.

Stored data stay as they are. What is printed, drawn or written for people passes :func:`visible`; what an exception
says is asked for with :func:`error_text` alone.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dspy_nb.core.secrecy import scrubbed

# Unicode's categories Cc (without line break and tab), Cf, Cs, Zl and Zp: terminals obey them, or they hide or turn
# around what stands beside them.
_HIDDEN: Final = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
# Joiners belong into Persian, Hindi and emoji: they stay between two characters that are neither ASCII nor hidden.
_JOINED: Final = rf"(?<=[^\x00-\x7f{_HIDDEN}])[\u200c\u200d](?=[^\x00-\x7f{_HIDDEN}])"
_ESCAPED: Final = re.compile(rf"(?!{_JOINED})[{_HIDDEN}]")
# Also what marks mathematics on GitHub and in Jupyter. Ampersands and angle brackets are HTML's to escape.
_MARKUP: Final = re.compile(r"[\\`*_\[\]#~$|]")
_LIST: Final = re.compile(r"^(\d*)([-+=.)])(?=[\s=-]|$)")  # a list, a rule or the underline of a heading
_WHOLE: Final = frozenset({bool, bytes, float, int, type(None)})
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return ``text`` with each control and invisible format character as Python writes it: ``\x1b``, ``\u202e``.

    Line breaks and tabs stay. Doing it twice changes nothing more.
    """
    return text if text.isascii() and text.isprintable() else _ESCAPED.sub(_escape, text)


def one_line(text: object, length: int | None = None) -> str:
    """Return ``text`` on one line, visible, of at most ``length`` characters."""
    return visible(" ".join(str(text).split()))[:length]


def excerpt(text: object, length: int) -> str:
    """Return ``text`` on one line, visible, of at most ``length`` characters, with … where it is cut."""
    line = one_line(text)
    return line if len(line) <= length else line[: length - 1] + "…"


def markdown_text(text: object) -> str:
    """Return ``text`` as Markdown on one line, visible, in which nothing means anything to Markdown or HTML."""
    return _LIST.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", html.escape(one_line(text), quote=False)))


def sayable(error: BaseException) -> None:
    """Give an exception whose ``__str__`` or ``__repr__`` raises one that says so: DSPy writes errors into logs."""
    try:
        str(error), repr(error)
    except Exception:
        text = error_text(error)
        kind = type(error)
        own = {"__module__": kind.__module__, "__str__": lambda self: text, "__repr__": lambda self: text}
        with contextlib.suppress(TypeError):  # of a class with slots: there is nothing more to be done
            error.__class__ = type(kind.__name__, (kind,), own)


def value_text(value: object, length: int | None = None) -> str:
    """Return what ``repr`` says of a value, on one line, visible; it may fail, as for 5,000 digits."""
    try:
        text = repr(value)
    except Exception:
        text = "an integer too long to be shown" if isinstance(value, int) else f"a {type(value).__name__}"
    return one_line(text, length)


def json_text(data: Any, indent: int | None = None, *, ascii_only: bool = False) -> str:
    """Return data as JSON in which controls are escaped too, so that it reads back as it was.

    JSON itself escapes those of ASCII alone. Raises what ``json.dumps`` raises.
    """
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    return _ESCAPED.sub(lambda match: r"\u007f" if match[0] == "\x7f" else json.dumps(match[0])[1:-1], text)


def error_text(error: BaseException, length: int | None = None) -> str:
    """Return what an exception says: on one line, visible, without the values that a language model was made with.

    Its ``__str__`` may fail: then that is said.
    """
    try:
        text = str(error)
    except Exception as failure:
        text = f"(no message: its __str__ raised {type(failure).__name__})"
    return one_line(scrubbed(text, error), length)


def repaired(value: Any) -> Any:
    r"""Return ``value`` with each half of a surrogate pair as the text ``\ud83d``; itself if there is none.

    Looks into lists, tuples, mappings and Pydantic models. What is nested too deep for Python stays as it is.
    """
    try:
        return _repaired(value)
    except RecursionError:
        return value


def _repaired(value: Any) -> Any:
    if type(value) in _WHOLE:
        return value
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub(_escape, value)
    if isinstance(value, list | tuple):
        items = [_repaired(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict | Mapping):
        changed = {_repaired(key): _repaired(item) for key, item in value.items()}
        same = all(a is b and changed[a] is value[b] for a, b in zip(changed, value, strict=False))
        return value if same and len(changed) == len(value) else changed
    if hasattr(type(value), "model_fields"):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        updates = {name: new for name, old in fields.items() if (new := _repaired(old)) is not old}
        return value.model_copy(update=updates) if updates else value
    return value


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "backslashreplace").decode("ascii")


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return ``did you mean production`` for ``prodution``, ``Production`` or ``prod``; ``""`` if none is near.

    Case, blanks around it and forms of Unicode that look alike make no difference.
    """
    if not isinstance(word, str) or not (said := unicodedata.normalize("NFKC", word).strip().casefold()):
        return ""
    import difflib

    names = {name.casefold(): name for name in sorted(known, key=len, reverse=True)}
    begun = [name for name in names if len(said) > 2 and name.startswith(said)]
    near = [said] if said in names else begun[-1:] or difflib.get_close_matches(said[:200], names, n=1)
    return f"did you mean {names[near[0]]}" if near else ""
