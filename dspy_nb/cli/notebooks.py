"""Execute a notebook in a kernel of this interpreter, and say on a terminal how it is going."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from dspy_nb.cli.output import keep_elsewhere
from dspy_nb.commands.surface import write_late
from dspy_nb.core.errors import DspyNbError, InputError
from dspy_nb.core.storage.files import check_target
from dspy_nb.core.text import excerpt, visible
from dspy_nb.views.wording import duration

_LINES_SHOWN = 24  # of one cell's output
_STARTUP_TIMEOUT_S = 120


class NotebookFailed(DspyNbError):
    """A cell of a notebook failed; the message names it and the copy that shows the traceback."""


def read_notebook(source: Path, parameters: Mapping[str, Any] | None = None) -> Any:
    """Return a notebook, with values for its parameters.

    As papermill does it, the values are assigned in a cell of their own below the one with the tag
    ``parameters``, whose values are the defaults.

    Raises:
        InputError: It cannot be read, is no notebook, or has no such parameter.
    """
    try:
        notebook = nbformat.read(source, as_version=4)  # type: ignore[no-untyped-call]
        nbformat.validate(notebook)
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from None
    except Exception as error:  # nbformat stumbles in many ways over what is none
        raise InputError(f"{source} is no notebook: {excerpt(error, 200)}") from None
    if parameters:
        _set_parameters(notebook, parameters, source)
    return notebook


def _set_parameters(notebook: Any, parameters: Mapping[str, Any], source: Path) -> None:
    place, known = _find_parameters(notebook)
    if place is None:
        raise InputError(f"{source} has no parameters: no cell has the tag 'parameters'")
    if unknown := [name for name in parameters if name not in known]:
        valid = ", ".join(known) or "none"
        raise InputError(
            f"{source} has no parameter {unknown[0]!r}; the cell tagged 'parameters' sets {valid}"
        )
    values = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    cell = nbformat.v4.new_code_cell(  # type: ignore[no-untyped-call]
        f"# Parameters\n{values}", metadata={"tags": ["injected-parameters"]}
    )
    if notebook.nbformat_minor < 5:
        del cell["id"]
    below = slice(place + 1, place + 2)
    earlier = [part for part in notebook.cells[below] if "injected-parameters" in _tags(part)]
    notebook.cells[place + 1 : place + 1 + len(earlier)] = [cell]


def text_parameters(source: Path) -> set[str]:
    """Return the parameters of a notebook whose default is text; none if it cannot be read."""
    try:
        _, defaults = _find_parameters(read_notebook(source))
    except InputError:
        return set()
    values = {name: getattr(value, "value", None) for name, value in defaults.items()}
    return {name for name, value in values.items() if isinstance(value, str)}


def _tags(cell: Any) -> Any:
    return cell.metadata.get("tags", [])


def _find_parameters(notebook: Any) -> tuple[int | None, dict[str, ast.expr | None]]:
    """Return where the cell of the parameters is, and what it assigns at its top level, by name."""
    place = next((number for number, cell in enumerate(notebook.cells) if "parameters" in _tags(cell)), None)
    found = {}
    with contextlib.suppress(SyntaxError):
        for part in ast.parse("" if place is None else notebook.cells[place].source).body:
            if isinstance(part, ast.Assign | ast.AnnAssign):
                for target in part.targets if isinstance(part, ast.Assign) else [part.target]:
                    if isinstance(target, ast.Name):
                        found[target.id] = part.value
    return place, found


def run_notebook(
    source: Path,
    copy: Path,
    *,
    folder: Path,
    out: IO[str],
    environment: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> float:
    """Execute a notebook from top to bottom and keep the executed copy, also if a cell fails.

    The kernel runs the interpreter that runs this, whatever kernels are installed, and without the user's
    IPython profile.

    Args:
        source: The notebook; it stays as it is.
        copy: Where to write the executed copy.
        folder: The kernel's working directory.
        out: Where to say which cell runs and what it printed.
        environment: Variables to set for the kernel.
        parameters: Values for the parameters of the notebook, see ``read_notebook``.

    Returns:
        Wall-clock seconds.

    Raises:
        InputError: It is no notebook, or has no such parameter.
        NotebookFailed: A cell failed or was left out, or the kernel died.
        KeyboardInterrupt: It was interrupted; the kernel is gone.
    """
    notebook = read_notebook(source, parameters)
    check_target("the executed copy", copy)
    failure = None
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dspy-nb-") as scratch:
        variables = {**os.environ, "IPYTHONDIR": scratch, **(environment or {})}
        console = _Console(out, _titles(notebook))
        try:
            asyncio.run(_execute(notebook, folder, variables, Path(scratch), console))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except (CellExecutionError, RuntimeError) as error:
            # The latter is DeadKernelError, or a kernel that does not start.
            said = [error.ename, error.evalue] if isinstance(error, CellExecutionError) else [error]
            reason = ": ".join(excerpt(part, 300) for part in said)
            raise NotebookFailed(f"{console.place}failed: {reason}; see {copy}") from error
        finally:
            failure = write_late(partial(nbformat.write, notebook), copy, keep_elsewhere)
    if failure is not None:
        raise failure
    for number, cell in enumerate(notebook.cells):
        # IPython's UsageError and whatever else ends a notebook without an error in its reply.
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise NotebookFailed(f"cell {number + 1} was not executed; see {copy}")
    return time.monotonic() - started


async def _execute(
    notebook: Any, folder: Path, environment: Mapping[str, str], scratch: Path, console: _Console
) -> None:
    kernel = _ThisInterpreter(connection_file=str(scratch / "kernel.json"))
    if os.name == "posix":  # sockets that are files, which nobody else can open
        kernel.transport, kernel.ip = "ipc", str(scratch / "kernel")
    client = _Client(notebook, kernel, console)
    ticker = asyncio.create_task(console.tick())
    try:
        await client.async_execute(cleanup_kc=True, env=environment, cwd=str(folder))
    except (CellExecutionError, RuntimeError):
        if client.interrupted:
            raise asyncio.CancelledError from None
        raise
    finally:
        ticker.cancel()
        console.end_line()


class _ThisInterpreter(AsyncKernelManager):
    """Starts a kernel with the interpreter that runs now."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python", language="python")


class _Client(NotebookClient):
    """Tells the console what happens."""

    def __init__(self, notebook: Any, kernel: _ThisInterpreter, console: _Console) -> None:
        super().__init__(notebook, kernel, timeout=None, startup_timeout=_STARTUP_TIMEOUT_S)
        self._kernel = kernel
        self._console = console
        self.interrupted = False
        self.on_notebook_start = self._take_signals
        self.on_cell_execute = lambda cell, cell_index: console.start(cell_index)
        self.on_cell_executed = self._finish

    def _take_signals(self, notebook: Any) -> None:
        # nbclient's own handlers kill the kernel, whatever it does, and report that it died.
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            if self.interrupted:
                task.cancel()
            self.interrupted = True
            self._interrupting = asyncio.ensure_future(self._kernel.interrupt_kernel())

        def terminate() -> None:
            self.interrupted = True
            task.cancel()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGTERM, terminate)

    def _finish(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        self._console.finish(cell.outputs)
        if self.interrupted:
            raise asyncio.CancelledError

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self._console.status = excerpt(msg["content"]["data"].get("text/plain", ""), 80)
        return super().process_message(msg, cell, cell_index)


class _Console:
    """One line for each code cell, with the time that it takes, and what it printed below."""

    def __init__(self, out: IO[str], titles: Mapping[int, str]) -> None:
        self._out = out
        self._titles = titles
        self._numbers = {cell: number for number, cell in enumerate(titles, 1)}
        self._live = out.isatty()
        self._running: int | None = None
        self._started = 0.0
        self.place = ""  # the cell that ran last, in words
        self.status = ""

    def start(self, cell: int) -> None:
        self._running, self._started, self.status = cell, time.monotonic(), ""
        self.place = f"code cell {self._numbers[cell]} of {len(self._titles)} ({self._titles[cell]}) "
        self._show(end="" if self._live else "\n")

    def finish(self, outputs: list[Any]) -> None:
        if self._live:
            self._show(end="\n")
        self._running = None
        lines = [line.rstrip() for output in outputs for line in _text(output).splitlines()]
        hidden = len(lines) - _LINES_SHOWN
        if hidden > 0:
            lines[_LINES_SHOWN:] = [f"... {hidden} more lines"]
        for line in lines:
            print(visible(f"      {line}".rstrip()), file=self._out)

    def end_line(self) -> None:
        if self._running is not None and self._live:
            print(file=self._out)

    async def tick(self) -> None:
        """Keep the line of the running cell current, on a terminal."""
        while self._live:
            await asyncio.sleep(0.5)
            if self._running is not None:
                self._show(end="")

    def _show(self, end: str) -> None:
        assert self._running is not None
        line = f"[{self._numbers[self._running]:>2}/{len(self._titles)}] {self._titles[self._running]}"
        if self._live:
            status = f": {self.status}" if self.status and not end else ""
            elapsed = f" ({duration(time.monotonic() - self._started)})"
            line = f"\r\x1b[K{excerpt(line + elapsed + status, _columns(self._out) - 1)}"
        print(line, end=end, file=self._out, flush=True)


def _columns(out: IO[str]) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except OSError:
        return 80


def _titles(notebook: Any) -> dict[int, str]:
    """Return what to call each code cell: the heading above it, or its own first line."""
    titles, heading = {}, ""
    for index, cell in enumerate(notebook.cells):
        lines = cell.source.strip().splitlines()
        if cell.cell_type == "markdown":
            heading = next((line.lstrip("# ") for line in lines if line.startswith("#")), heading)
        elif cell.cell_type == "code" and lines:
            titles[index] = excerpt(heading or lines[0], 60)
            heading = ""
    return titles


def _text(output: Any) -> str:
    """Return an output as text; nothing for a picture, and for what a cell wrote to stderr."""
    if output.output_type == "stream":
        return str(output.text) if output.name == "stdout" else ""
    data = output.get("data", {})
    if any(kind.startswith("image/") for kind in data):
        return ""
    return str(data.get("text/plain", ""))
