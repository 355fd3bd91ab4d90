"""What the user will call the result of the call that a cell makes, read from the cell itself.

In ``best = nb.optimize(...)`` that is ``best``, also over several lines, as ``runs["a"] = ...``, in a tuple or
within a with block, and where the call stands in a magic such as ``%%time``. A function of the user's own between
the cell and the call is followed where it returns the result. Nothing here raises, and outside of IPython nothing
has a name.
"""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

_OURS = ("dspy_nb", "IPython", "click", "contextlib")  # what a call goes through on its way
_LONGEST = 60


def called() -> tuple[str, str]:
    """Return what the result of the call under way, and dspy_nb itself, are called where the user types.

    Returns:
        Both names; "" where there is none. In a script dspy_nb is "nb".
    """
    try:
        shell = _shell()
        return ("", "nb") if shell is None else (_assigned(shell), _package(shell))
    except Exception:  # whatever the cell is like, the call goes on
        return "", "nb"


def is_displayed() -> bool:
    """Whether IPython shows the result of the call under way: a cell ends with it, and it is not assigned."""
    try:
        shell = _shell()
        frame = next(frame for frame in _stack() if frame.f_locals is shell.user_ns)
        tree, _ = _parsed(frame, shell)
        call, statements = _call_at(tree, frame), tree.body if isinstance(tree, ast.Module) else []
        shown = statements if shell.ast_node_interactivity == "all" else statements[-1:]
        return any(isinstance(one, ast.Expr) and one.value is call for one in shown)
    except Exception:  # as where a magic is run by other code: better shown twice than not at all
        return True


def _shell() -> Any:
    """Return IPython's shell, ``None`` in a process that has none."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def _package(shell: Any) -> str:
    package = sys.modules["dspy_nb"]
    names = [name for name, value in shell.user_ns.items() if value is package and not name.startswith("_")]
    return "nb" if "nb" in names else min(names, default="")


def _assigned(shell: Any) -> str:
    """Return the name that the innermost call of a cell is assigned to, if there is a single one."""
    frames = list(_stack())
    if not any(frame.f_locals is shell.user_ns for frame in frames):
        return _awaited(shell)
    for frame in frames:
        if frame.f_locals is shell.user_ns:
            tree, source = _parsed(frame, shell)
            call = _call_at(tree, frame)
            return "" if call is None else _target(tree, call, source)
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _OURS and not _is_returned(frame):
            break
    return ""


def _stack() -> Iterator[FrameType]:
    """Yield the frames of this thread, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


# -- where the call stands ------------------------------------------------------------------------------------


def _parsed(frame: FrameType, shell: Any) -> tuple[ast.AST, str]:
    """Return what a frame of the user's executes, as a tree and as text."""
    source = "".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals))
    if not source:  # of a magic that executes the rest of its line or cell, such as %time
        outer = frame.f_back
        while outer is not None and outer.f_locals is not shell.user_ns:
            outer = outer.f_back
        if outer is not None:
            call = _call_at(_parsed(outer, shell)[0], outer)
            last = call.args[-1] if call is not None and call.args else None
            if isinstance(last, ast.Constant) and isinstance(last.value, str):
                source = shell.transform_cell(last.value)
    return ast.parse(source), source


def _call_at(tree: ast.AST, frame: FrameType) -> ast.Call | None:
    """Return the call that a frame is making; it is told by where it ends, which it shares with no other call."""
    positions = itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None)
    _, end_line, _, end_column = next(positions)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (node.end_lineno, node.end_col_offset) == (end_line, end_column):
            return node
    return None


def _is_returned(frame: FrameType) -> bool:
    """Whether a function returns the very result of the call that it makes."""
    source = "".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals))
    tree = ast.parse(source)
    call = _call_at(tree, frame)
    return call is not None and any(
        isinstance(node, ast.Return | ast.Lambda)
        and (value := node.value if isinstance(node, ast.Return) else node.body) is not None
        and "" in _paths(value, call)
        for node in ast.walk(tree)
    )


# -- what it is assigned to -----------------------------------------------------------------------------------


def _target(tree: ast.AST, call: ast.AST, source: str) -> str:
    """Return the first target of an assignment that the result of a call is reached by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            for name in _reached(target, value, call, source):
                return name
    return ""


def _reached(target: ast.expr, value: ast.expr, call: ast.AST, source: str) -> Iterator[str]:
    """Yield under which names of a target the result of a call is found."""
    plain = ast.Tuple | ast.List
    if isinstance(target, plain):
        starred = any(isinstance(part, ast.Starred) for part in (*target.elts, *getattr(value, "elts", ())))
        if isinstance(value, plain) and len(value.elts) == len(target.elts) and not starred:
            for part, of_it in zip(target.elts, value.elts, strict=True):
                yield from _reached(part, of_it, call, source)
        return
    if not isinstance(target, ast.Name | ast.Attribute | ast.Subscript):
        return
    if any(isinstance(part, ast.Call | ast.Await | ast.NamedExpr | ast.Lambda) for part in ast.walk(target)):
        return  # to say it again would do it again
    text = ast.get_source_segment(source, target) or ast.unparse(target)
    text = ast.unparse(target) if "\n" in text else text
    for path in _paths(value, call):
        if len(name := f"{text}{path}") <= _LONGEST:
            yield name


def _paths(value: ast.expr, call: ast.AST) -> Iterator[str]:
    """Yield how the result of a call is reached from a value that it is, or is part of: "" or ``["a"]``."""
    if value is call:
        yield ""
    elif isinstance(value, ast.Await | ast.NamedExpr):
        yield from _paths(value.value, call)
    elif isinstance(value, ast.IfExp):
        for branch in (value.body, value.orelse):
            yield from _paths(branch, call)
    elif isinstance(value, ast.Tuple | ast.List) and not any(isinstance(e, ast.Starred) for e in value.elts):
        for number, part in enumerate(value.elts):
            yield from (f"[{number}]{path}" for path in _paths(part, call))
    elif isinstance(value, ast.Dict):
        for key, part in zip(value.keys, value.values, strict=True):
            if isinstance(key, ast.Constant | ast.Name):
                yield from (f"[{ast.unparse(key)}]{path}" for path in _paths(part, call))
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "wait":
        yield from _paths(value.func.value, call)  # which returns the run itself


def _awaited(shell: Any) -> str:
    """Return the name for a call in another thread that the cell awaits, as ``await asyncio.to_thread(...)``."""
    cells = shell.user_ns.get("In") or [""]
    tree = ast.parse(cells[-1], mode="exec")
    found = []
    for awaited in (node for node in ast.walk(tree) if isinstance(node, ast.Await)):
        names = [getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(awaited)]
        found += [awaited] * names.count("optimize")
    return _target(tree, found[0], cells[-1]) if len(found) == 1 else ""
