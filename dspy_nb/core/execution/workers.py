"""What may be given as ``executor``, and what of it runs examples."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Final, TypeAlias

import dspy

from dspy_nb.core.errors import InputError
from dspy_nb.core.execution.attempts import Work
from dspy_nb.core.execution.travel import RemoteTask
from dspy_nb.core.text import error_text, value_text

Workers: TypeAlias = "Executor | Any"
"""A ``concurrent.futures.Executor``, a Dask client or cluster, an ipyparallel client or view, or a scheduler."""

_ADDRESS: Final = re.compile(r"[a-z]+://\S+")
_LOCAL: Final = re.compile(r"local(?::([1-9]\d{0,3}))?")
_VALID: Final = (
    "a concurrent.futures.Executor, a Dask client or cluster, an ipyparallel client or view, or a Dask scheduler: "
    "'local', 'local:4' (workers) or 'tcp://host:port'"
)


def check_workers(workers: Workers | None) -> None:
    """Check what was given as ``executor``, without going there.

    Raises:
        InputError: It is none.
    """
    if workers is None or _is_executor(workers) or _adapted(workers):
        return
    if isinstance(workers, str) and (_LOCAL.fullmatch(workers) or _ADDRESS.fullmatch(workers)):
        return
    raise InputError(f"executor must be {_VALID}; got {value_text(workers, 80)}")


@contextlib.contextmanager
def open_workers(workers: Workers | None) -> Iterator[Executor | None]:
    """Return the executor that runs on some workers, ``None`` for none; what is begun for it ends with the block.

    Raises:
        InputError: It is none, or the scheduler does not answer.
    """
    check_workers(workers)
    with contextlib.ExitStack() as stack:
        if isinstance(workers, str):
            workers = stack.enter_context(_dask(workers))
        if workers is not None and not _is_executor(workers):
            workers = _executor_of(workers, stack)
        yield workers


def check_travels(executor: Executor | None, program: Any, metric: Any, **settings: Any) -> None:
    """Check that a program gets to the workers, with its language models and its metric.

    Raises:
        InputError: Something cannot be pickled; the message names it.
    """
    if executor is None or isinstance(executor, ThreadPoolExecutor):
        return
    metrics = () if metric is None else (metric,)
    with dspy.context(**settings):
        RemoteTask.of(Work((program,), ({},), metrics, {}), 1, None, 0.0)


def _is_executor(workers: Any) -> bool:
    return isinstance(workers, Executor) or (
        callable(getattr(workers, "submit", None)) and not _adapted(workers)
    )


def _adapted(workers: Any) -> str:
    """Return the library that workers are of, where they are no executor themselves."""
    library = type(workers).__module__.partition(".")[0]
    if library == "ipyparallel" and (hasattr(workers, "load_balanced_view") or hasattr(workers, "executor")):
        return library
    is_dask = hasattr(workers, "get_executor") or hasattr(workers, "get_client")
    return "dask" if is_dask and not isinstance(workers, Executor) else ""


def _executor_of(workers: Any, stack: contextlib.ExitStack) -> Any:
    if _adapted(workers) == "ipyparallel":
        view = workers.load_balanced_view() if hasattr(workers, "load_balanced_view") else workers
        return view.executor
    client = workers
    if not hasattr(workers, "get_executor"):
        client = stack.enter_context(_client_of(workers))
    if client.asynchronous:
        raise InputError("executor is of an asynchronous Dask client; make one with distributed.Client(...)")
    return client.get_executor()


@contextlib.contextmanager
def _client_of(cluster: Any, **more: Any) -> Iterator[Any]:
    """Return a client of our own, which ends with the block and is not what Dask takes where none is named."""
    import distributed

    client = distributed.Client(cluster, set_as_default=False, **more)
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _dask(name: str) -> Iterator[Any]:
    """Return a client of the scheduler of that name; one of this machine is begun, and ends with the block."""
    try:
        import distributed
    except ImportError:
        raise InputError(f"scheduler {name} needs Dask: pip install 'dspy-nb[distributed]'") from None
    local = _LOCAL.fullmatch(name)
    if local and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(_UNGUARDED)  # a worker, which would begin workers
    with contextlib.ExitStack() as stack:
        try:
            if local:
                number = int(local[1]) if local[1] else None
                address: Any = stack.enter_context(
                    distributed.LocalCluster(n_workers=number, threads_per_worker=1, dashboard_address=None)
                )
            else:
                address = name
            client = stack.enter_context(_client_of(address, timeout=_ANSWERS_S))
        except (OSError, ValueError, RuntimeError) as error:
            if local:
                words = f"the workers of {name} did not start: {error_text(error, 200)}"
                raise InputError(f"{words}; in a script, {_UNGUARDED}") from None
            raise InputError(f"scheduler {name} does not answer: {error_text(error, 200)}") from None
        if local:
            client.run(_ignorer())
        yield client


def _ignorer() -> Callable[[], None]:
    """Return what makes a worker of ours ignore interrupts, also where it has nothing to do."""

    def ignore() -> None:  # not of a module, which the worker would have to import first
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)

    return ignore


_ANSWERS_S: Final = 10
_UNGUARDED: Final = (
    "what begins workers has to stand under if __name__ == '__main__': each of them imports it"
)
