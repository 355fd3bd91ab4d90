"""Compare programs on the same examples, and stop as soon as the verdict is in."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import dspy

from dspy_nb.core.ab.comparison import Comparison, Comparisons
from dspy_nb.core.ab.contest import Contest, Entrant, fight
from dspy_nb.core.ab.definition import check_arm, name_program
from dspy_nb.core.ab.judging import Terms
from dspy_nb.core.arguments import number_between, probability, time_limit, whole_number
from dspy_nb.core.audience import Audience
from dspy_nb.core.data.examples import check_examples
from dspy_nb.core.data.identity import example_id
from dspy_nb.core.data.metrics import MetricLike
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.evaluate import check_metrics
from dspy_nb.core.events import Listener
from dspy_nb.core.execution.workers import Workers, check_workers
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.programs.calls import check_calls, declared_types
from dspy_nb.core.programs.interrupts import StopAfter
from dspy_nb.core.programs.rate_limit import RateLimit, check_rate_limit, limited
from dspy_nb.core.programs.spec import Program
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.text import value_text

Competitor: TypeAlias = "Program | str | ModelVersion"
"""A program, or a reference to one."""


def compare(
    a: Competitor,
    b: Competitor,
    dataset: Iterable[dspy.Example],
    metric: MetricLike,
    *,
    confidence: float = 0.95,
    margin: float = 0.0,
    max_examples: int | None = None,
    sequential: bool = True,
    num_threads: int | None = None,
    rate_limit: RateLimit | None = None,
    timeout_s: float | None = None,
    stop_after_s: float | None = None,
    executor: Workers | None = None,
    seed: int = 0,
    lm: dspy.BaseLM | None = None,
    lm_a: dspy.BaseLM | None = None,
    lm_b: dspy.BaseLM | None = None,
    adapter: dspy.Adapter | None = None,
    registry: str | os.PathLike[str] | Registry = "registry",
    program: dspy.Module | None = None,
    names: tuple[str, str] | None = None,
    stop: threading.Event | None = None,
    on_event: Listener | Sequence[Listener] | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Let two programs answer the same examples in a random order, until one is shown to be better.

    It may be watched all the while: the interval is a confidence sequence, so the chance of ever giving a
    false verdict is at most 1 − ``confidence``. Failures count as wrong. Examples with equal inputs are
    compared once, or they would be counted as evidence twice. No example begins once the verdict is in; those
    that the other threads are at are finished, and counted. An interrupt (``KeyboardInterrupt``, or ``stop``)
    returns what was compared.

    Args:
        a: The program in use: a ``dspy.Module``, a function, or a reference such as
            ``"sentiment@production"``.
        b: The one that may replace it. For several of them see :func:`compare_many`.
        dataset: Labelled examples that neither program has learnt from.
        metric: What scores an answer, see ``as_metric``.
        confidence: 1 − α of the verdict.
        margin: Largest difference, in either direction, that makes no practical difference, such as .02.
            With 0, equal programs are never told to be equal.
        max_examples: At most so many, drawn at random; all by default.
        sequential: False answers all examples and looks once, with an exact test of fixed size.
        num_threads: Examples under way at once; ``dspy.settings.num_threads`` by default.
        rate_limit: The most requests and tokens a minute of all programs together, see ``RateLimit``.
        timeout_s: An answer that takes longer is a failure.
        stop_after_s: End after so many seconds, as if stopped, also when a call never returns.
        executor: Where to run instead of in threads of this process: any ``concurrent.futures.Executor``, such as a
            ``ProcessPoolExecutor``; a Dask client or cluster; an ipyparallel client or view; or a Dask scheduler,
            "local", "local:4" (workers) or "tcp://host:port". ``num_threads`` then holds in each of
            its tasks, and what those are at is finished once the verdict is in.
        seed: Of the order, and of the bootstrap.
        lm: The LM of both in place of the configured one; predictors with their own LM keep it.
        lm_a: The LM of A alone.
        lm_b: The LM of B alone: one program on two models.
        adapter: The adapter of both.
        registry: Folder or ``Registry`` that references are looked up in.
        program: Where a reference stands for a class of your own: one of these, see ``Registry.load``.
        names: What to call programs that are no references; their classes by default.
        stop: Set it, from another thread, to stop.
        on_event: One or several listeners: called with ``Compared`` at the start, a few times a second, and at
            the end.
        progress: Whether to show how it goes, in a notebook with a Stop button, in a terminal as a bar on stderr;
            by default where there is either, see ``optimize``.

    Raises:
        InputError: An argument is wrong, and nothing has been spent; or the metric returns what is no score.
        NotFound: There is no such version.
    """
    check_arm("a", a)
    check_arm("b", b)
    return compare_many(
        a, [b], dataset, metric, confidence=confidence, margin=margin, max_examples=max_examples,
        sequential=sequential, num_threads=num_threads, rate_limit=rate_limit, timeout_s=timeout_s,
        stop_after_s=stop_after_s, executor=executor, seed=seed, lm=lm, lms=(lm_a, lm_b), adapter=adapter,
        registry=registry, program=program, names=names, stop=stop, on_event=on_event, progress=progress,
    ).comparisons[0]  # fmt: skip


def compare_many(
    baseline: Competitor,
    candidates: Sequence[Competitor],
    dataset: Iterable[dspy.Example],
    metric: MetricLike,
    *,
    confidence: float = 0.95,
    margin: float = 0.0,
    max_examples: int | None = None,
    sequential: bool = True,
    num_threads: int | None = None,
    rate_limit: RateLimit | None = None,
    timeout_s: float | None = None,
    stop_after_s: float | None = None,
    executor: Workers | None = None,
    seed: int = 0,
    lm: dspy.BaseLM | None = None,
    lms: Sequence[dspy.BaseLM | None] | None = None,
    adapter: dspy.Adapter | None = None,
    registry: str | os.PathLike[str] | Registry = "registry",
    program: dspy.Module | None = None,
    names: Sequence[str] | None = None,
    stop: threading.Event | None = None,
    on_event: Listener | Sequence[Listener] | None = None,
    progress: bool | None = None,
) -> Comparisons:
    """Compare several candidates with one baseline, as :func:`compare` does with one.

    The baseline answers each example once for all of them, and a candidate whose verdict is in is asked no
    more. The more candidates, the more chances of a false verdict, so each needs more evidence: with K
    candidates each has a confidence sequence at 1 − α/K, and the chance of any false verdict is at most α.
    With ``sequential=False``, p-values are Holm's: the chance that any candidate as good as the baseline is
    told to be better or worse is at most α, and so is the chance that any other is told to make no practical
    difference.

    Args:
        baseline: The program in use, or its reference.
        candidates: Those that may replace it: programs, references, or both.
        dataset: As in :func:`compare`.
        metric: As in :func:`compare`.
        confidence: 1 − α of all verdicts together.
        margin: As in :func:`compare`.
        max_examples: As in :func:`compare`.
        sequential: As in :func:`compare`.
        num_threads: As in :func:`compare`.
        rate_limit: As in :func:`compare`.
        timeout_s: As in :func:`compare`.
        stop_after_s: As in :func:`compare`.
        executor: As in :func:`compare`.
        seed: As in :func:`compare`.
        lm: The LM of all in place of the configured one; predictors with their own LM keep it.
        lms: One LM for each, that of the baseline first, ``None`` for the usual one: one program on several
            models.
        adapter: The adapter of all.
        registry: Folder or ``Registry`` that references are looked up in.
        program: As in :func:`compare`.
        names: What to call those that are no references, the baseline first; their classes by default.
        stop: Set it, from another thread, to stop.
        on_event: As in :func:`compare`.
        progress: As in :func:`compare`.

    Raises:
        InputError: An argument is wrong, and nothing has been spent; or the metric returns what is no score.
        NotFound: There is no such version.
    """
    if isinstance(candidates, str | Mapping) or not isinstance(candidates, Sequence) or not candidates:
        raise InputError("candidates must be a list of programs or references, at least one")
    events = Audience(on_event, progress, stop)
    programs = (baseline, *candidates)
    if lms is not None and len(lms) != len(programs):
        raise InputError(
            f"lms must be {len(programs)}, one for the baseline and for each candidate, got {len(lms)}"
        )
    for number, given in enumerate(programs):
        check_arm(f"candidate {number}" if number else "baseline", given)
    examples = check_examples("dataset", dataset)
    metrics = check_metrics(metric, examples)
    if len(metrics) > 1:
        raise InputError("compare takes one metric, the one that decides; evaluate takes several")
    confidence = probability("confidence", confidence)
    margin = number_between("margin", margin, 0, 1)
    seed = whole_number("seed", seed)
    if max_examples is not None:
        max_examples = whole_number("max_examples", max_examples, minimum=1)
    if num_threads is not None:
        num_threads = whole_number("num_threads", num_threads, minimum=1)
    check_rate_limit(rate_limit)
    timeout_s = time_limit("timeout_s", timeout_s)
    stop_after_s = time_limit("stop_after_s", stop_after_s)
    check_workers(executor)
    order = _draw_order(examples, seed)
    repeated = len(examples) - len(order)
    order = order[:max_examples]
    terms = Terms(confidence, margin, sequential, max_examples is not None, seed, len(order))
    warnings = (f"{repeated:,} examples repeat the inputs of another one and are left out",) * (repeated > 0)
    models = [own or lm for own in lms or [None] * len(programs)]
    entrants = _find_entrants(programs, names, models, registry, program)
    types = declared_types(*(one.program for one in entrants))
    metrics = {name: function.declaring(types) for name, function in metrics.items()}
    for one in entrants:
        check_calls("dataset", examples, one.program, metrics.values())
    ending = StopAfter(events.stop, stop_after_s)
    contest = Contest(
        examples, metrics, terms, order, num_threads, timeout_s, adapter, ending, executor, warnings
    )
    with limited(rate_limit):
        return fight(contest, entrants, events)


def _draw_order(examples: Sequence[dspy.Example], seed: int) -> list[int]:
    """Return places in the data set, in random order, without those whose inputs came before."""
    first: dict[str, int] = {}
    for index, example in enumerate(examples):
        first.setdefault(example_id(example), index)
    order = list(first.values())
    random.Random(seed).shuffle(order)
    return order


def _find_entrants(
    programs: Sequence[Any], names: Sequence[str] | None, lms: Sequence[Any], registry: Any, kind: Any
) -> list[Entrant]:
    """Return the programs with their names: the baseline, then the candidates."""
    if names is not None:
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise InputError(f"names must be a list of {len(programs)} names, got {value_text(names, 80)}")
        names = [str(name) for name in names]
        if len(names) != len(programs):
            raise InputError(f"names must be {len(programs)}, one for each program, got {len(names)}")
        if reference := next((name for name in names if "@" in name), None):
            raise InputError(f"names must not look like references, got {reference!r}")
    given = [None] * len(programs) if names is None else names
    found = [_find_program(*one, registry, kind) for one in zip(programs, given, strict=True)]
    candidates = Counter(name for _, name in found[1:])
    if twice := next((name for name, times in candidates.items() if times > 1 and "@" in name), None):
        raise InputError(f"{twice} is a candidate twice")
    seen: Counter[str] = Counter()
    entrants: list[Entrant] = []
    for (program, name), lm in zip(found, lms, strict=True):
        if entrants and candidates[name] > 1:  # a class has many programs
            seen[name] += 1
            name = f"{name} {seen[name]}"
        entrants.append(Entrant(program, name, lm))
    return entrants


def _find_program(program: Any, name: str | None, registry: Any, kind: Any) -> tuple[Any, str]:
    """Return a program and its name."""
    if isinstance(program, str):
        store = Registry(registry) if isinstance(registry, str | os.PathLike) else registry
        version = store.get(program)
        return store.load(version, kind), version.ref
    return program, name or name_program(program)
