"""Every seam into what DSPy does not promise to keep, as one named function each.

Other rooms use DSPy's public interfaces only. In this one are besides: the names that DSPy prints through, the seam
of ``quiet``, and its usage tracker, that of ``usage``. One stands below, where data are: ``identity.input_names``.
``tests/core/programs/test_seams.py`` has a test for
each, which fails when a version of DSPy takes it away.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dspy_nb.core.text import error_text

if TYPE_CHECKING:
    import dspy
    from dspy.clients.cache import Cache
    from pydantic.fields import FieldInfo

logger = logging.getLogger(__name__)


def is_compiled(program: dspy.Module) -> bool:
    """Tell whether an optimizer has marked ``program`` as its result."""
    return bool(getattr(program, "_compiled", False))


def mark_compiled(program: dspy.Module, compiled: bool) -> None:
    """Mark ``program`` as the result of an optimizer, or not; some optimizers refuse one that is."""
    program._compiled = compiled


def is_parameter(value: object) -> bool:
    """Tell whether ``value`` is what DSPy's ``named_parameters`` lists: a predictor, above all."""
    from dspy.predict.parameter import Parameter

    return isinstance(value, Parameter)


def serialize_by_value(modules: list[ModuleType]) -> AbstractContextManager[None]:
    """Let what is pickled within take these modules along, for a process that has not got them."""
    from dspy.utils import pickle_by_value

    return pickle_by_value.serialize_by_value(modules)


class Reserved(NamedTuple):
    """Names that the fields of a module must not have."""

    inputs: frozenset[str]
    outputs: frozenset[str]


_PREDICTOR = frozenset(
    # The first two by Python's own rules, the others are taken out of a call before the prompt is made.
    ["self", "instance", "completions", "config", "demos", "lm", "new_signature", "signature"]
)
_REACT = Reserved(
    _PREDICTOR | {"max_iters", "module", "trajectory"}, frozenset(["base", "self", "trajectory"])
)


DEMO_NAMES = frozenset(["augmented", "base", "self"])
"""Names that the fields of a predictor must not have where demos are made of its answers."""


def reserved_names(module: object) -> Reserved:
    """Return the names that DSPy takes for something else than a field of this module."""
    import dspy

    if isinstance(module, dspy.ReAct | dspy.CodeAct):
        return _REACT
    if isinstance(module, dspy.ReActV2):
        return Reserved(_PREDICTOR | {"max_iters"}, frozenset(["base", "self"]))
    return Reserved(_PREDICTOR, frozenset())


def role_of(field: FieldInfo) -> str:
    """Return ``input`` or ``output``."""
    return str(_extra(field)["__dspy_field_type"])


def description_of(field: FieldInfo) -> str:
    """Return what the prompt says of a field."""
    return str(_extra(field)["desc"])


def is_untyped(field: FieldInfo) -> bool:
    """Tell whether the type of a field was not declared, so that it is ``str``."""
    return untyped().items() <= _extra(field).items()


def untyped() -> dict[str, bool]:
    """Return the arguments of ``dspy.InputField`` for a field whose type was not declared."""
    from dspy.utils.constants import IS_TYPE_UNDEFINED

    return {IS_TYPE_UNDEFINED: True}


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return extra


def dependency_versions() -> dict[str, str]:
    """Return the versions that DSPy stores with a saved program."""
    from dspy.utils.saving import get_dependency_versions

    return dict(get_dependency_versions())


def answer_of(returned: Any) -> Any:
    """Return the answer in what a call of a program returned: GEPA makes that a pair with the call's trace."""
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], list):
        return returned[0]
    return returned


def default_settings() -> dict[str, Any]:
    """Return all of DSPy's settings with their defaults."""
    from dspy.dsp.utils.settings import DEFAULT_CONFIG

    return dict(DEFAULT_CONFIG)


def current_call() -> str | None:
    """Return the id of the call that DSPy's callbacks are within, in this thread or task; ``None`` outside."""
    from dspy.utils.callback_context import ACTIVE_CALL_ID

    return ACTIVE_CALL_ID.get()


def is_second_try() -> bool:
    """Tell whether an adapter is asking again in another format, because the first answer was not in its own."""
    return len(_adapter_scopes().get()) > 1  # that of the adapter that asks again, within that of the first


@functools.cache
def _adapter_scopes() -> ContextVar[tuple[Any, ...]]:
    from dspy.clients.call_context import _adapter_calls

    return _adapter_calls


def is_cut_off(response: Any) -> bool:
    """Tell whether an answer was cut off by the limit of tokens, from the ``response`` of a history entry.

    That is the answer of a provider, as an object or a dict, or the answers of one that was asked several times.
    """
    if isinstance(response, tuple | list):
        return any(map(is_cut_off, response))
    if (reason := _get(response, "finish_reason")) is not None:
        return bool(reason == "length")
    choices = _get(response, "choices")
    if isinstance(choices, tuple | list):
        return any(_get(choice, "finish_reason") == "length" for choice in choices)
    return bool(_get(_get(response, "incomplete_details"), "reason") == "max_output_tokens")  # Responses API


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def engine_as_given(lm: dspy.LM) -> Any:
    """Return the engine that ``lm`` was made with, or the name of one; ``lm.engine`` would make it."""
    return getattr(lm, "_engine_spec", None)


# -- the cache of answers -----------------------------------------------------------------------------------

CACHE_SETTING: Final = "dspy_nb_cache"
"""The DSPy setting that holds the cache of a run."""


def memory_cache() -> Cache:
    """Return a cache of LM answers that ends with the process, of the latest 100,000."""
    from dspy.clients.cache import Cache

    return Cache(
        enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=100_000
    )


# Every database is opened by every thread that reads an answer in it. DSPy makes more of them, and so did earlier
# versions: where an answer is depends on their number.
_SHARDS, _DSPYS_SHARDS = 4, 16


def answer_cache(folder: Path) -> Cache:
    """Return a cache of LM answers in ``folder``, from which only plain types are ever unpickled.

    Of litellm's answers it keeps the price, not where the call went nor what the headers were.
    Once it is open it harms nobody: what its disk cannot give or keep is as if it were not there, which is counted
    in ``disk_cache.lost`` and logged once.

    Raises:
        Exception: The folder cannot be written, or a file in it is damaged.
    """
    from diskcache import FanoutCache
    from dspy.clients.cache import Cache
    from dspy.clients.disk_serialization import restricted_disk

    class AnswerCache(Cache):
        def put(self, request: Any, value: Any, *args: Any, **kwargs: Any) -> None:
            super().put(request, _without_call(value), *args, **kwargs)

    cache = AnswerCache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=str(folder))
    disk = FanoutCache(
        directory=str(folder),
        shards=_DSPYS_SHARDS if (folder / f"{_SHARDS:03}").exists() else _SHARDS,
        timeout=10,
        size_limit=2**40,  # an answer that was paid for is never thrown away
        disk=restricted_disk(frozenset()),
    )
    cache.enable_disk_cache, cache.disk_cache = True, _ForgivingDisk(disk, folder)
    return cache


def is_empty(cache: Any) -> bool:
    """Tell whether a cache of a run holds no answer yet."""
    return not len(getattr(cache, "cache", cache).disk_cache)


class _ForgivingDisk:
    """Stands where the disk of a cache stands: what fails there is not there.

    DSPy itself lets a failed ``get`` end the call of the program, and says nothing of a failed ``set``.
    """

    def __init__(self, disk: Any, folder: Path) -> None:
        self._disk, self._folder = disk, folder
        self._writes, self._said = True, False
        self.lost = 0

    def get(self, key: str) -> Any:
        return self._try(lambda: self._disk.get(key))

    def set(self, key: str, value: Any) -> None:
        def write() -> None:
            if not self._disk.set(key, value):  # held up by somebody else for too long
                self._writes = False
                raise TimeoutError("another process holds it")

        if self._writes:
            self._try(write)
        else:
            self.lost += 1

    def delete(self, key: str) -> None:
        self._try(lambda: self._disk.delete(key))

    def __contains__(self, key: str) -> bool:
        return bool(self._try(lambda: key in self._disk))

    def __len__(self) -> int:
        return int(self._try(lambda: len(self._disk)) or 0)

    def __getitem__(self, key: str) -> Any:
        return self._disk[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._disk[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def _try(self, work: Callable[[], Any]) -> Any:
        from dspy.clients.disk_serialization import DeserializationError

        try:
            return work()
        except DeserializationError:
            raise  # DSPy deletes the answer, and asks anew
        except Exception as error:
            self.lost += 1
            if not self._said:  # threads that come at once may say it twice
                self._said = True
                why = error_text(error, 200) or type(error).__name__
                logger.warning("%s: an answer cannot be kept or read: %s; the run goes on", self._folder, why)
            return None


def _without_call(answer: Any) -> Any:
    hidden = getattr(answer, "_hidden_params", None)
    if not isinstance(hidden, dict):
        return answer
    answer = copy.copy(answer)
    answer._hidden_params = {name: hidden[name] for name in ("response_cost",) if name in hidden}
    if hasattr(answer, "_response_headers"):
        answer._response_headers = None
    return answer


class Took(NamedTuple):
    """What an LM answer took when it was asked for; ``None`` is not known.

    Attributes:
        completions: How many texts it holds.
        prompt_tokens: Tokens sent.
        completion_tokens: Tokens received.
        usd: Its price in US dollars, as DSPy estimated it.
    """

    completions: int
    prompt_tokens: int | None
    completion_tokens: int | None
    usd: float | None


def what_it_took(cache: Cache, key: str) -> Took:
    """Return what the answer took that ``cache`` holds under this key; what it hands out says no more of that."""
    stored = cache.memory_cache.get(key)
    stored = cache.disk_cache.get(key) if stored is None else stored
    if isinstance(stored, dict) and "outputs" in stored:
        usage, usd, texts = stored.get("usage") or {}, stored.get("cost"), stored["outputs"]
    else:
        usage = dict(getattr(stored, "usage", None) or {})
        usd = (getattr(stored, "_hidden_params", None) or {}).get("response_cost")
        texts = getattr(stored, "choices", ())
    return Took(max(len(texts), 1), usage.get("prompt_tokens"), usage.get("completion_tokens"), usd)


def route_cache(setting: str) -> None:
    """Let LM calls use the cache that the DSPy setting of this name holds, where there is one.

    Calling it again does no harm.
    """
    import dspy

    if not isinstance(dspy.cache, _RoutedCache):
        dspy.cache = _RoutedCache(dspy.cache, setting)


class _RoutedCache:
    """Stands where ``dspy.cache`` stands: a run's calls go to the run's cache, all others where they went."""

    def __init__(self, usual: Cache, setting: str) -> None:
        self._usual = usual
        self._setting = setting

    def _cache(self) -> Cache:
        import dspy

        return dspy.settings.get(self._setting) or self._usual

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self._cache().get(*args, **kwargs)

    def put(self, *args: Any, **kwargs: Any) -> None:
        self._cache().put(*args, **kwargs)

    def __contains__(self, key: str) -> bool:
        return key in self._cache()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._usual, name)


# -- optuna -------------------------------------------------------------------------------------------------


def seed_optuna(setting: str) -> None:
    """Make BootstrapFewShotWithOptuna draw with the seed that the DSPy setting of this name holds, if any.

    Calling it again does no harm.
    """
    import dspy
    from dspy.teleprompt import teleprompt_optuna

    import_optuna = teleprompt_optuna._import_optuna
    if hasattr(import_optuna, "dspy_nb"):
        return

    def import_seeded_optuna() -> Any:
        optuna, seed = import_optuna(), dspy.settings.get(setting)
        if seed is None:
            return optuna
        sampler = optuna.samplers.TPESampler(seed=seed)
        return SimpleNamespace(create_study=functools.partial(optuna.create_study, sampler=sampler))

    import_seeded_optuna.dspy_nb = True  # type: ignore[attr-defined]
    teleprompt_optuna._import_optuna = import_seeded_optuna


# -- evaluations ----------------------------------------------------------------------------------------------


def route_evaluations(setting: str) -> None:
    """Let ``dspy.Evaluate`` ask as the DSPy setting of this name says, where there is one.

    The setting holds an object with ``begin(call_id, data)``, which returns ``None``, or what has
    ``run(execute, ask, data)`` and is called in place of ``execute(ask, data)``. Calling this again does no harm.
    """
    from dspy.evaluate import evaluate

    usual = evaluate.ParallelExecutor
    if hasattr(usual, "dspy_nb"):
        return

    class RoutedExecutor(usual):  # type: ignore[valid-type,misc]
        dspy_nb = True

        def execute(self, function: Any, data: Any) -> Any:
            import dspy

            router = dspy.settings.get(setting)
            race = None if router is None else router.begin(current_call(), data)
            return (
                super().execute(function, data) if race is None else race.run(super().execute, function, data)
            )

    evaluate.ParallelExecutor = RoutedExecutor
