"""A Dask cluster: its workers come, die and are replaced, and it tries the tasks of a dead one again by itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, InvalidStateError
from typing import Any

from dspy_nb.core.errors import InputError
from dspy_nb.core.execution.shield import SHIELD

_ENDED = ""  # the mark of a task, in place of its worker's address
_LOOK_S = 2.0
_ANSWER_S = 10.0  # of the scheduler
_COMES_BACK_S = 30.0  # after the last worker died
_STARTS_AGAIN_S = 120.0  # the same, where a nanny is there to start another one
_COMES_S = 300.0  # the first one, which a queue of batch jobs may hold up


class WorkerDied(Exception):
    """The worker that began a task is gone."""


class DaskCluster:
    """Hands tasks to a Dask cluster, so that each is begun by one worker only.

    Dask gives the task of a dead worker to others, up to four of them: one bad example would kill them all, and
    those of its neighbours would be suspects with it. So every task leaves a mark at the scheduler when it
    begins, and another one when it ends; where there is one already, it ends at once.

    Args:
        executor: What ``client.get_executor()`` returned.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._client: Any = executor._client  # type: ignore[attr-defined]
        self._run = f"dspy-nb-{uuid.uuid4().hex}"
        self._serial = itertools.count()
        self._keys: weakref.WeakKeyDictionary[Future[Any], str] = weakref.WeakKeyDictionary()
        self._threads: dict[str, int] = {}
        self._most = 0  # threads of a worker
        self._patience_s = _COMES_S
        self._looked = time.monotonic()
        self._deserted: float | None = None  # since when there has been no worker
        if self._client.asynchronous:
            raise InputError(
                "executor is of an asynchronous Dask client; make one with distributed.Client(...)"
            )
        self._look()

    @staticmethod
    def has(executor: Executor) -> bool:
        """Tell whether an executor is Dask's."""
        return hasattr(getattr(executor, "_client", None), "nthreads")

    @property
    def width(self) -> int:
        """How many tasks it runs at once; 1 while there is no worker."""
        return max(1, sum(self._threads.values()))

    @property
    def one_by_one(self) -> bool:
        """Whether a worker has one task at a time, so that the one that was begun is what killed it."""
        return self._most == 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Hand out a task; it raises ``WorkerDied`` if its worker does.

        Not by the executor's own method, whose futures wait for ever where a result that was finished goes with its
        worker and cannot be computed again.
        """
        if self._executor._shutdown:  # type: ignore[attr-defined]
            raise RuntimeError("cannot schedule new futures after shutdown")
        key = f"{self._run}-{next(self._serial)}"
        options = {**self._executor._kwargs, "key": key}  # type: ignore[attr-defined]
        there = self._client.submit(_once, self._run, key, function, *arguments, **options)
        here: Future[Any] = Future()

        async def land() -> None:
            error: BaseException | None = None
            try:
                if (result := await there) is None:
                    error = WorkerDied("a worker died at it")
            except (Exception, asyncio.CancelledError) as raised:
                error = raised
            there.release()  # or it would be computed again when its worker dies later
            with contextlib.suppress(InvalidStateError):  # nobody waits for it any more
                here.set_result(result) if error is None else here.set_exception(error)

        here.add_done_callback(lambda _: there.cancel() if here.cancelled() else None)
        self._client.loop.add_callback(land)
        self._keys[here] = key
        return here

    def under_way(self, future: Future[Any]) -> bool:
        """Tell whether a worker is at a task, or died while it was; yes if the scheduler does not say.

        If not, the task was still to begin, or it is the result that went with the worker.
        """
        with contextlib.suppress(Exception):
            return bool(self._address(future))
        return True

    def withdraw(self, future: Future[Any]) -> bool:
        """Take a task back; return whether it had not begun, and will not."""
        with contextlib.suppress(Exception):
            place = [self._run, self._keys[future]]
            if self._client.get_metadata(place, None) is None:
                self._client.set_metadata(place, _ENDED)
                future.cancel()
                return True
        return False

    def watch(self) -> None:
        """Look at the workers, now and then.

        Raises:
            InputError: There has been none for too long, or the client is closed.
        """
        if self._client.status in ("closing", "closed"):
            raise InputError("executor's Dask client is closed")
        if time.monotonic() - self._looked >= _LOOK_S:
            self._look()
        if self._deserted is not None and self._looked - self._deserted > self._patience_s:
            what = "has no workers left" if self._most else "has no workers"
            raise InputError(f"executor's Dask cluster {what}, and none came within {self._patience_s:g} s")

    def restart(self, futures: Iterable[Future[Any]]) -> None:
        """Restart the workers that hang at some tasks, as far as they have a nanny that does it."""
        with contextlib.suppress(Exception):
            if workers := {address for future in futures if (address := self._address(future))}:
                self._client.restart_workers(list(workers), timeout=_ANSWER_S, raise_for_error=False)

    def close(self) -> None:
        """Forget the marks."""
        with contextlib.suppress(Exception):
            if self._client.status == "running":
                self._client.set_metadata([self._run], {})

    def _address(self, future: Future[Any]) -> str | None:
        """Return the worker that is at a task."""
        found: str | None = self._client.get_metadata([self._run, self._keys[future]], None)
        return found

    def _look(self) -> None:
        with contextlib.suppress(Exception):  # the scheduler is busy, or goes away, which shows otherwise
            self._threads = self._client.nthreads(callback_timeout=_ANSWER_S)
            if self._threads and not self._most:
                workers = self._client.scheduler_info()["workers"].values()
                nannies = any(worker.get("nanny") for worker in workers)
                self._patience_s = _STARTS_AGAIN_S if nannies else _COMES_BACK_S
            self._fill_up()
        self._most = max(self._most, *self._threads.values(), 0)
        self._looked = time.monotonic()
        if self._threads:
            self._deserted = None
        elif self._deserted is None:
            self._deserted = self._looked

    def _fill_up(self) -> None:
        """Let the cluster start the workers that it was made with: it drops one that is down 15 s after a death."""
        wanted = getattr(self._client.cluster, "worker_spec", ())
        if len(self._threads) < len(wanted):
            self._client.cluster.scale(len(wanted))


def _once(run: str, key: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a worker; return ``None`` if another one began it and is gone."""
    from distributed import get_client, get_worker

    client, worker = get_client(), get_worker()
    worker.loop.add_callback(SHIELD.__enter__)  # in the worker's main thread, before what is asked next
    try:
        if client.get_metadata([run, key], None) is not None:
            return None
        client.set_metadata([run, key], worker.address)
        try:
            return function(*arguments)
        finally:
            client.set_metadata([run, key], _ENDED)
    finally:
        worker.loop.add_callback(SHIELD.__exit__)
