"""llama.cpp inside this process: one server for everybody, started at the first call.

``xllamacpp`` runs llama.cpp's own server on a thread of this process and answers calls through it directly.
The server also opens a socket and cannot be told not to: it is bound to 127.0.0.1, on a port the system
picks, behind a random key that nobody is given.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy import lm15

from dspy_nb.core.errors import ModelNotInstalled
from dspy_nb.core.local.install import model_name, model_path

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT_TOKENS = 4096  # for one call, prompt and answer together; the model was trained on 8192
PREFIXES = 4  # beginnings of prompts kept read, when calls run one at a time
_MAX_THREADS = 8  # more gain nothing on 135 million weights


@dataclass(frozen=True)
class Completion:
    """What the server wrote, and the tokens it took; ``cached_tokens`` of the prompt were not read again."""

    text: str
    cut_off: bool
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int


class LocalServer:
    """llama.cpp's server with one model, for any number of threads.

    With one slot, calls run one after the other and an answer depends on nothing but its own prompt and
    options, to the last bit. That takes care: the same tokens give slightly different numbers when they are
    computed in another batch, enough to change a word in a third of the longer answers. So the beginning of
    a prompt (``prefix``) is always computed on its own and the rest always from there, whatever the cache
    holds; this costs one token per call.

    With more slots, calls are computed side by side, and an answer may change with what else is running.
    """

    def __init__(self, path: Path, slots: int) -> None:
        self._slots = slots
        self._exact = slots == 1
        self._turn = threading.Semaphore(slots)
        sequences = PREFIXES if self._exact else slots
        # Which prefix each sequence of the server begins with, least recently used first.
        self._prefixes: OrderedDict[int, str | None] = OrderedDict.fromkeys(range(sequences))
        self._server = _start(path, sequences)
        # A server that is freed before its loop runs waits for that loop for ever; an answer comes from the loop.
        self._call({"prompt": "", "max_tokens": 0})

    def complete(self, prefix: str, rest: str, options: Mapping[str, Any]) -> Completion:
        """Return how the model continues ``prefix + rest``.

        Args:
            prefix: The beginning that other prompts are likely to share, cut at a message boundary.
            rest: The remainder of the prompt.
            options: Of llama.cpp's completion request.

        Raises:
            lm15.ContextLengthError: Prompt and answer do not fit into ``CONTEXT_TOKENS``.
            lm15.InvalidRequestError: llama.cpp refuses an option.
        """
        answer, is_new = self.ask(prefix, rest, options)
        # What was read a moment ago, on its own, was read for this call.
        return replace(answer, cached_tokens=0) if is_new else answer

    def ask(self, prefix: str, rest: str, options: Mapping[str, Any]) -> tuple[Completion, bool]:
        """Return what ``complete`` does, and whether the prefix had to be read for it, which it does not count."""
        request = {"prompt": prefix + rest, "cache_prompt": True, **options}
        with self._turn:
            if not self._exact:
                return _completion(self._call(request)), False
            sequence, is_new = self._place(prefix)
            return _completion(self._call({**request, "id_slot": sequence})), is_new

    @property
    def address(self) -> str:
        """Where the unavoidable socket listens."""
        return str(self._server.listening_address)

    def stop(self) -> None:
        """Wait for the calls that are being answered, let no other begin and free the model."""
        for _ in range(self._slots):
            self._turn.acquire()
        del self._server

    def _place(self, prefix: str) -> tuple[int, bool]:
        """Return a sequence that holds exactly ``prefix``, and whether it had to be read first."""
        sequence = next((key for key, held in self._prefixes.items() if held == prefix), None)
        is_new = sequence is None
        if sequence is None:
            sequence = next(iter(self._prefixes))
            self._prefixes[sequence] = None  # so that nobody trusts it if the next line fails
            self._read(prefix, sequence, cache_prompt=False)
            self._prefixes[sequence] = prefix
        self._prefixes.move_to_end(sequence)
        self._read(prefix, sequence, cache_prompt=True)  # drops what the last call left behind the prefix
        return sequence, is_new

    def _read(self, prefix: str, sequence: int, *, cache_prompt: bool) -> None:
        self._call({"prompt": prefix, "max_tokens": 0, "id_slot": sequence, "cache_prompt": cache_prompt})

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._server.handle_completions(request)
        except (ValueError, RuntimeError) as error:
            raise lm15.InvalidRequestError(f"llama.cpp refused the request: {error}") from error
        if "choices" not in answer:
            raise _error(answer.get("error", answer))
        return answer


_servers: dict[tuple[str, int], Future[LocalServer]] = {}
_servers_lock = threading.Lock()


def shared_server(name: str, slots: int) -> LocalServer:
    """Return this process's server for the model of that name, started by whoever comes first.

    Raises:
        ModelNotInstalled: The model is not here, or llama.cpp cannot be loaded.
    """
    with _servers_lock:
        server = _servers.get((name, slots))
        if server is None or (server.done() and server.exception()):
            server = Future()
            # In a thread of its own, which no interrupt reaches: broken off halfway, the server would hang.
            threading.Thread(target=_serve, args=(server, name, slots), name="dspy-nb-local").start()
            _servers[name, slots] = server  # after that: an interrupt in between leaves nothing to wait for
    return server.result()


def _serve(server: Future[LocalServer], name: str, slots: int) -> None:
    try:
        path = model_path()
        if model_name(path) != name:
            raise ModelNotInstalled(f"{name} is wanted, but {path} is what is installed")
        server.set_result(LocalServer(path, slots))
    except BaseException as error:
        server.set_exception(error)


def _start(path: Path, sequences: int) -> Any:
    try:
        with _patient_threads():
            import xllamacpp
    except ImportError as error:
        needs = 'pip install "dspy-nb[local]", and on Linux the system package libgomp1'
        raise ModelNotInstalled(f"xllamacpp cannot be loaded ({error}): {needs}") from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = sequences
    params.n_ctx = CONTEXT_TOKENS * sequences
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads()
    params.cache_ram_mib = 0  # it grows to gigabytes, and what is restored from it is not what was computed
    params.fit_params = False  # measures free memory at every start, to fit what is small anyway
    params.warmup = False
    params.verbosity = -1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [secrets.token_urlsafe(32)]
    params.n_threads_http = 1
    params.ui = False
    params.endpoint_slots = False
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise ModelNotInstalled(
            f"llama.cpp cannot load {path}: run `dspy-nb install-model --force`"
        ) from error


@contextmanager
def _patient_threads() -> Iterator[None]:
    """Let OpenMP's threads, which read this when the library is loaded, spin for microseconds, then sleep.

    By default they spin for milliseconds while they wait for each other, some hundred times a token. Beside
    one other busy process that keeps the very thread they wait for from running: 1 token a second instead
    of 15 to 30. Alone on the machine the short spin costs a tenth at most.
    """
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def _threads() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MAX_THREADS)


def _completion(answer: dict[str, Any]) -> Completion:
    choice, usage = answer["choices"][0], answer["usage"]
    return Completion(
        text=choice["text"],
        cut_off=choice["finish_reason"] == "length",
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        answer_tokens=usage["completion_tokens"],
    )


def _error(error: dict[str, Any]) -> lm15.LM15Error:
    if error.get("type") == "exceed_context_size_error":
        return lm15.ContextLengthError(
            f"the prompt has {error.get('n_prompt_tokens')} tokens; the embedded model takes {CONTEXT_TOKENS}"
        )
    message = f"llama.cpp: {error.get('message')}"
    return lm15.InvalidRequestError(message) if error.get("code") == 400 else lm15.ServerError(message)


@atexit.register
def _stop_servers() -> None:
    # The process crashes if it ends while a daemon thread is being answered.
    while _servers:
        _, server = _servers.popitem()
        if not server.exception():
            server.result().stop()


def _keep_servers() -> None:
    for server in _servers.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))


def _forget_servers() -> None:
    """Start anew in a forked child: the threads of the parent's servers do not exist here.

    Nothing that would wait for one of them may run. So no server is destroyed any more, and glibc is told
    to end the process before the destructors of the library's globals.
    """
    global _servers_lock
    _servers_lock = threading.Lock()
    if not _servers:
        return
    _keep_servers()
    _servers.clear()
    atexit.unregister(_stop_servers)
    atexit.register(_keep_servers)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_servers)
