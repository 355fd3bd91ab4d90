"""Compare two programs on the same examples, and stop as soon as the verdict is in."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import dspy

from dspy_nb.core import execution
from dspy_nb.core.arguments import number_between, probability, whole_number
from dspy_nb.core.attempts import Outcome, is_asynchronous
from dspy_nb.core.comparison_result import Comparison, Flip
from dspy_nb.core.data import example_id, fingerprint
from dspy_nb.core.duel import A, B, Duel, DuelJobs, DuelWork
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation import check_examples, check_metrics, evaluation_of
from dspy_nb.core.lms import confusable, uncached, used_lms
from dspy_nb.core.metrics import Metric
from dspy_nb.core.scorecard import Evaluation
from dspy_nb.core.stats import (
    Ratio,
    bca_interval,
    decide,
    mcnemar,
    paired_difference_interval,
    ratio_interval,
    sign_flip_p_value,
    two_proportion_z,
)

__all__ = ["compare"]

logger = logging.getLogger(__name__)

Listener = Callable[[Duel, int], object]

_POWER = 0.8
_PRICE_OF_LOOKING = 1.75  # examples of a sequential design to those of a fixed one at 80 % power: 1.6 to 1.9
_PATH_LENGTH = 500


def compare(
    a: Any,
    b: Any,
    dataset: Iterable[dspy.Example],
    metric: Any,
    *,
    confidence: float = 0.95,
    margin: float = 0.0,
    max_examples: int | None = None,
    sequential: bool = True,
    num_threads: int | None = None,
    timeout_s: float | None = None,
    seed: int = 0,
    lm: Any = None,
    lm_a: Any = None,
    lm_b: Any = None,
    adapter: Any = None,
    registry: Any = "registry",
    names: tuple[str, str] | None = None,
    stop: threading.Event | None = None,
    on_event: Listener | None = None,
) -> Comparison:
    """Let two programs answer the same examples in a random order, until one is shown to be better.

    It may be watched all the while: the interval is a confidence sequence, so the chance of ever giving a
    false verdict is at most 1 − ``confidence``. Failures count as wrong. Examples with equal inputs are
    compared once, or they would be counted as evidence twice.

    Args:
        a: The program in use: a ``dspy.Module``, a function, or a reference such as
            ``"sentiment@production"``.
        b: The one that may replace it.
        dataset: Labelled examples that neither program has learnt from.
        metric: What scores an answer, see ``as_metric``.
        confidence: 1 − α of the verdict.
        margin: Largest difference, in either direction, that makes no practical difference, such as .02.
            With 0, equal programs are never told to be equal.
        max_examples: At most so many, drawn at random; all by default.
        sequential: False answers all examples and looks once, with an exact test of fixed size.
        num_threads: Examples under way at once; ``dspy.settings.num_threads`` by default.
        timeout_s: An answer that takes longer is a failure.
        seed: Of the order, and of the bootstrap.
        lm: The LM of both in place of the configured one; predictors with their own LM keep it.
        lm_a: The LM of A alone.
        lm_b: The LM of B alone: one program on two models.
        adapter: The adapter of both.
        registry: Folder or ``Registry`` that references are looked up in.
        names: What to call programs that are no references; their classes by default.
        stop: Set it, from another thread, to stop.
        on_event: Called with the ``Duel`` and the number of examples planned, a few times a second. If it
            raises, that is logged.

    Raises:
        InputError: An argument is wrong, and nothing has been spent; or the metric returns what is no score.
        NotFound: There is no such version.
    """
    examples = check_examples(dataset)
    metrics = check_metrics(metric, examples)
    if len(metrics) > 1:
        raise InputError("compare takes one metric, the one that decides; evaluate takes several")
    confidence = probability("confidence", confidence)
    margin = number_between("margin", margin, 0, 1)
    size = len(examples) if max_examples is None else whole_number("max_examples", max_examples, minimum=1)
    if num_threads is not None:
        num_threads = whole_number("num_threads", num_threads, minimum=1)
    if timeout_s is not None:
        timeout_s = number_between("timeout_s", timeout_s, 0, math.inf, ends=False)
    if names is not None and any("@" in name for name in names):
        raise InputError(f"names must not look like references, got {names[0]!r} and {names[1]!r}")
    program_a, a_name = _program(a, "a", registry, names and names[A])
    program_b, b_name = _program(b, "b", registry, names and names[B])
    work, warnings = _work(
        program_a, program_b, (lm_a or lm, lm_b or lm), metrics, adapter, timeout_s is None
    )

    order = _order(examples, seed)
    if len(order) < len(examples):
        warnings.append(
            f"{len(examples) - len(order):,} examples repeat the inputs of another one and are left out"
        )
    order = order[:size]
    chosen = [examples[index] for index in order]
    (metric_name, function), *_ = metrics.items()
    duel = Duel(len(chosen), function.binary, confidence, margin, sequential=sequential)
    jobs = DuelJobs(chosen, lambda: duel.over)
    started = time.perf_counter()

    def landed(place: int, outcome: Outcome) -> None:
        duel.take(*jobs.places[place], outcome)

    def progress(done: int, failed: int) -> None:
        nonlocal on_event
        if on_event is None:
            return
        try:
            on_event(duel, len(chosen))
        except Exception:
            logger.exception("the listener of a comparison is broken and hears no more")
            on_event = None

    execution.run(
        work,
        jobs,
        num_threads=num_threads,
        timeout_s=timeout_s,
        stop=stop,
        progress=progress,
        landed=landed,
    )
    progress(0, 0)
    if duel.bad_metric is not None:
        raise InputError(f"{metric_name} is no metric to compare by: {duel.bad_metric}")
    places = order[: duel.n]
    arms = [
        evaluation_of(
            program,
            [examples[index] for index in places],
            duel.outcomes(arm),
            metrics,
            confidence=confidence,
            seed=seed,
            indices=places,
            base_model=_model_names(program, own_lm),
            data_fingerprint=fingerprint(examples),
        )
        for arm, program, own_lm in ((A, program_a, lm_a or lm), (B, program_b, lm_b or lm))
    ]
    return _result(duel, arms, warnings, (a_name, b_name), len(chosen), margin, confidence, sequential, seed,
                   time.perf_counter() - started)  # fmt: skip


def _program(program: Any, argument: str, registry: Any, name: str | None) -> tuple[Any, str]:
    """Return a program and its name."""
    if isinstance(program, str):
        from dspy_nb.core.registry import Registry

        store = Registry(registry) if isinstance(registry, str | os.PathLike) else registry
        version = store.get(program)
        return store.load(version), version.ref
    if not callable(program):
        raise InputError(
            f"{argument} must be a dspy.Module, a function or a reference such as 'sentiment@1.0.0', "
            f"got {type(program).__name__}"
        )
    return program, name or getattr(program, "__name__", None) or type(program).__name__


def _work(
    a: Any, b: Any, lms: tuple[Any, Any], metrics: Mapping[str, Metric], adapter: Any, turns: bool
) -> tuple[DuelWork, list[str]]:
    """Return what asks both programs, and what a reader must know of it."""
    warnings = []
    if is_asynchronous(a) != is_asynchronous(b):
        raise InputError("one of the programs has only aforward and the other has not; give both a forward")
    programs = [a, b]
    settings: list[dict[str, Any]] = [{} if lm is None else {"lm": lm} for lm in lms]
    if confusable(used_lms(a, lms[A]), used_lms(b, lms[B])):
        # The cache would hand the answers of the one to the other.
        for arm in (A, B):
            programs[arm], settings[arm] = uncached(programs[arm], lms[arm])
        warnings.append("two language models have the same name, so the cache was left out for both")
    shared = {} if adapter is None else {"adapter": adapter}
    work = DuelWork(tuple(programs), tuple(settings), tuple(metrics.values()), shared, turns=turns)
    return work, warnings


def _order(examples: Sequence[dspy.Example], seed: int) -> list[int]:
    """Return places in the data set, in random order, without those whose inputs came before."""
    first: dict[str, int] = {}
    for index, example in enumerate(examples):
        first.setdefault(example_id(example), index)
    order = list(first.values())
    random.Random(seed).shuffle(order)
    return order


def _model_names(program: Any, lm: Any) -> str | None:
    names = dict.fromkeys(str(getattr(model, "model", model)) for model in used_lms(program, lm))
    return ", ".join(names) or None


def _result(
    duel: Duel,
    arms: Sequence[Evaluation],
    warnings: list[str],
    names: tuple[str, str],
    planned: int,
    margin: float,
    confidence: float,
    sequential: bool,
    seed: int,
    duration_s: float,
) -> Comparison:
    a, b = arms
    differences = duel.differences
    b_wins, a_wins = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    effect = math.fsum(differences) / len(differences) if differences else math.nan
    n_at_verdict = duel.n_at_verdict
    if sequential:
        interval, p_value, verdict = duel.sequence.interval, duel.sequence.p_value, duel.verdict
        method = "paired betting confidence sequence, valid at every look"
        complete = duel.n == planned or verdict != "inconclusive"
    else:
        interval, p_value, method = _fixed_test(duel, a, b_wins, a_wins, confidence, seed)
        complete = duel.n == planned
        verdict = decide(*interval, margin) if differences and complete else "inconclusive"
        if verdict in ("A better", "B better") and p_value > 1 - confidence:
            verdict = "inconclusive"  # the exact test does not agree with the interval
        n_at_verdict = None if verdict == "inconclusive" else duel.n
    warnings += _warnings(a, b, interval, b_wins + a_wins, verdict)
    shown = max(1, math.ceil(len(duel.path) / _PATH_LENGTH))
    return Comparison(
        verdict=verdict,
        effect=effect,
        interval=interval,
        p_value=p_value,
        n=duel.n,
        n_at_verdict=n_at_verdict,
        n_planned=planned,
        b_wins=b_wins,
        a_wins=a_wins,
        more_needed=_more_needed(differences, effect, margin, confidence, sequential)
        if verdict == "inconclusive" and not math.isnan(interval[0])
        else None,
        method=method,
        margin=margin,
        confidence=confidence,
        sequential=sequential,
        a=a,
        b=b,
        a_name=names[A],
        b_name=names[B],
        latency_ratio=_latency_ratio(a, b, confidence),
        usd_ratio=_ratio(a.usage.usd, b.usage.usd),
        tokens_ratio=_ratio(_tokens(a), _tokens(b)),
        complete=complete,
        warnings=tuple(warnings),
        path=tuple(step for step in duel.path if step.n % shown == 0 or step.n == duel.n),
        flips=_flips(a, b),
        seed=seed,
        data_fingerprint=a.data_fingerprint,
        metric=a.metric,
        duration_s=duration_s,
    )


def _fixed_test(
    duel: Duel, a: Evaluation, b_wins: int, a_wins: int, confidence: float, seed: int
) -> tuple[tuple[float, float], float, str]:
    if not duel.differences:
        return (-1.0, 1.0), 1.0, "no example was answered by both"
    if duel.binary:
        both = sum(bool(result.score) for result in a.results) - a_wins
        table = both, a_wins, b_wins, duel.n - both - a_wins - b_wins
        low, high = paired_difference_interval(*table, confidence)  # of A − B
        return (-high, -low), mcnemar(*table).exact_p, "exact McNemar test and Tango's interval, one look"
    interval = bca_interval(duel.differences, confidence, bounds=(-1.0, 1.0), seed=seed)
    return (
        interval,
        sign_flip_p_value(duel.differences, seed=seed),
        "sign-flip test and BCa interval, one look",
    )


def _warnings(
    a: Evaluation, b: Evaluation, interval: tuple[float, float], discordant: int, verdict: str
) -> list[str]:
    warnings = []
    if math.isnan(interval[0]):
        warnings.append(
            "every difference is contradicted by the data: the programs drifted while they were compared, or "
            "the examples are not in random order; there is no verdict"
        )
    if a.errors.count or b.errors.count:
        text = f"A failed on {a.errors.count:,} examples and B on {b.errors.count:,}; failures count as wrong"
        test = two_proportion_z(a.errors.count, a.n, b.errors.count, b.n)
        if test.p_value < 0.05:
            text += ", and the two fail so differently often that this alone may explain the verdict"
        warnings.append(text)
    if verdict == "inconclusive" and discordant < 10:
        warnings.append(f"they differ on {discordant} examples; no test can tell much from fewer than 10")
    return warnings


def _more_needed(
    differences: Sequence[float], effect: float, margin: float, confidence: float, sequential: bool
) -> int | None:
    """Return how many more examples a design of this kind would take, if the effect is the one seen."""
    n = len(differences)
    gap = max(abs(effect), margin - abs(effect)) if n else 0.0
    if gap < 1e-9:
        return None
    variance = max(math.fsum((d - effect) ** 2 for d in differences) / n, 1 / (n + 2))
    z = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(_POWER)
    needed = variance * (z / gap) ** 2 * (_PRICE_OF_LOOKING if sequential else 1)
    return max(1, math.ceil(needed - n))


def _latency_ratio(a: Evaluation, b: Evaluation, confidence: float) -> Ratio | None:
    pairs = [
        (x.latency_ms, y.latency_ms)
        for x, y in zip(a.results, b.results, strict=True)
        if not (x.cached or y.cached or x.error or y.error)
    ]
    return ratio_interval([x for x, _ in pairs], [y for _, y in pairs], confidence) if pairs else None


def _tokens(evaluation: Evaluation) -> float | None:
    usage = evaluation.usage
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return usage.prompt_tokens + usage.completion_tokens


def _ratio(a: float | None, b: float | None) -> float | None:
    return b / a if a and b else None


def _flips(a: Evaluation, b: Evaluation) -> tuple[Flip, ...]:
    flips = []
    for x, y in zip(a.results, b.results, strict=True):
        difference = float(y.score or 0) - float(x.score or 0)
        if difference:
            flips.append(Flip(x.index, x.inputs, x.expected, x.predicted, y.predicted, difference))
    return tuple(sorted(flips, key=lambda flip: flip.index))
