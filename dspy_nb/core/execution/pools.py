"""Pools of processes: how to make one like another, and how to end one that hangs."""

from __future__ import annotations

from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any


def like(pool: Any) -> Executor | None:
    """Return a new pool of processes of the same make; they say only in private how they were made."""
    if isinstance(pool, ProcessPoolExecutor):
        given: Any = pool
        return ProcessPoolExecutor(
            given._max_workers,
            mp_context=given._mp_context,
            initializer=given._initializer,
            initargs=given._initargs,
            max_tasks_per_child=given._max_tasks_per_child,
        )
    if hasattr(type(pool), "get_reusable_executor"):  # loky, and joblib's copy of it
        names = ("context", "timeout", "initializer", "initargs", "env")
        settings = {name: getattr(pool, f"_{name}") for name in names}
        again = {"reuse": False, "kill_workers": True}
        made: Executor = type(pool).get_reusable_executor(pool._max_workers, **settings, **again)[0]
        return made
    return None


def end(pool: Any, *, kill: bool) -> None:
    """Shut a pool of processes down; kill them if they hang."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False)
    for process in processes if kill else ():
        process.kill()
