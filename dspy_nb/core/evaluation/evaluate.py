"""Evaluate a program on labelled examples: the score with its interval, and everything behind it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dspy

from dspy_nb.core.arguments import number_between, probability, time_limit, whole_number
from dspy_nb.core.audience import Audience
from dspy_nb.core.data.copying import own_copy
from dspy_nb.core.data.examples import check_examples
from dspy_nb.core.data.identity import example_id, fingerprint, value_key
from dspy_nb.core.data.metrics import Metric, MetricLike, as_metric
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.diagnosis import diagnose_answers
from dspy_nb.core.evaluation.examples import ExampleResult
from dspy_nb.core.evaluation.labels import LabelClasses
from dspy_nb.core.evaluation.scorecard import Evaluation, MetricScore
from dspy_nb.core.evaluation.side_effects import watch
from dspy_nb.core.evaluation.summary import (
    classification_of,
    errors_of,
    label_field,
    latency_of,
    metric_score,
    slices_of,
)
from dspy_nb.core.events import Evaluated, Listener, now
from dspy_nb.core.execution import threads
from dspy_nb.core.execution.attempts import PROMPTS_KEPT, Job, Outcome, Tally, Work, split_fields
from dspy_nb.core.execution.executors import run_on
from dspy_nb.core.execution.opening import Opening
from dspy_nb.core.execution.workers import Workers, check_workers, open_workers
from dspy_nb.core.programs.calls import check_calls, declared_types
from dspy_nb.core.programs.interrupts import StopAfter
from dspy_nb.core.programs.lm_call import Redaction, as_cached
from dspy_nb.core.programs.lms import answers_repeat, asked_by, name_lms, rollouts
from dspy_nb.core.programs.rate_limit import RateLimit, check_rate_limit, limited
from dspy_nb.core.programs.spec import Program
from dspy_nb.core.programs.state import program_digest
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.secrecy import scrubber
from dspy_nb.core.statistics.means import running_interval
from dspy_nb.core.text import error_text, value_text


def evaluate(
    program: Program,
    dataset: Iterable[dspy.Example],
    metric: MetricLike | Sequence[MetricLike] | Mapping[str, MetricLike],
    *,
    num_threads: int | None = None,
    rate_limit: RateLimit | None = None,
    confidence: float = 0.95,
    label: str | None = None,
    by: str | Callable[[dspy.Example], Any] | None = None,
    repeats: int = 1,
    timeout_s: float | None = None,
    stop_after_s: float | None = None,
    executor: Workers | None = None,
    max_error_rate: float = 0.05,
    seed: int = 0,
    on_event: Listener | Sequence[Listener] | None = None,
    stop: threading.Event | None = None,
    lm: dspy.BaseLM | None = None,
    adapter: dspy.Adapter | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Run a program on every example and score its answers.

    What raises is an error: counted, named, and a failure in the score, never dropped; so is what is no answer,
    or lacks the field that is compared. An interrupt (``KeyboardInterrupt``, or ``stop``) returns what was
    finished, marked by ``complete=False``.

    The program and the metrics get copies of the examples' values. A program that changes its own attributes is
    warned of.

    Examples that are equal, labels included, are evaluated once and share the result, unless their answers
    would differ: where repeats are asked for, or an LM neither caches nor has temperature 0.

    Args:
        program: A ``dspy.Module``, also one with only ``aforward``; or a function of the input fields, also
            an asynchronous one.
        dataset: Examples with their inputs set, see ``load_examples``.
        metric: What scores an answer, see ``as_metric``; or several in a list, or in a dict by name. The
            first one gives the score.
        num_threads: Examples under way at once; ``dspy.settings.num_threads`` (8) by default. With an
            executor, in each of its tasks.
        rate_limit: The most requests and tokens a minute, see ``RateLimit``.
        confidence: Of the intervals.
        label: The field whose per-class numbers are wanted. By default the metric's field, or the only
            label, if it holds at most 20 different texts, bools or ints and fewer than half the examples.
        by: A field, or a function of the example, whose values slice the score.
        repeats: Times each example is evaluated, each with a ``rollout_id`` of its own. Needs LMs with a
            temperature other than 0.
        timeout_s: An example that takes longer, metric included, is an error of kind ``Timeout``.
        stop_after_s: End after so many seconds, as if stopped, also when a call never returns.
        executor: Where to run instead of in threads of this process: any ``concurrent.futures.Executor``, such as a
            ``ProcessPoolExecutor``; a Dask client or cluster; an ipyparallel client or view; or a Dask scheduler,
            "local", "local:4" (workers) or "tcp://host:port".
        max_error_rate: Above this share of errors the result is not ``reliable``.
        seed: Of the bootstrap.
        on_event: One or several listeners: called with ``Evaluated`` at the start, a few times a second, and at
            the end.
        stop: Set it, from another thread, to stop.
        lm: The LM to use in place of the configured one; predictors with their own LM keep it.
        adapter: The adapter to use in place of the configured one.
        progress: Whether to show how it goes, in a notebook with a Stop button, in a terminal as a bar on stderr;
            by default where there is either, see ``optimize``.

    Raises:
        InputError: An argument is wrong. Nothing has been spent then.
        MetricError: The metric failed on the first answer that it was given.
        NoPrediction, NoField: The first five answers were none, or lack the field that the metric compares.
    """
    examples = check_examples("dataset", dataset)
    metrics = check_metrics(metric, examples)
    types = declared_types(program)
    metrics = {name: function.declaring(types) for name, function in metrics.items()}
    first = next(iter(metrics))
    field = label_field(label, metrics[first], examples)
    check_calls("dataset", examples, program, metrics.values(), label=label)
    confidence = probability("confidence", confidence)
    seed = whole_number("seed", seed)
    repeats = whole_number("repeats", repeats, minimum=1)
    max_error_rate = number_between("max_error_rate", max_error_rate, 0, 1)
    timeout_s = time_limit("timeout_s", timeout_s)
    stop_after_s = time_limit("stop_after_s", stop_after_s)
    if num_threads is not None:
        num_threads = whole_number("num_threads", num_threads, minimum=1)
    check_rate_limit(rate_limit)
    check_workers(executor)
    events = Audience(on_event, progress, stop)
    keys = None if by is None else _slice_keys(by, examples, metrics[first])
    base_model = name_lms(program, lm)
    programs, settings = rollouts(program, lm, repeats)
    shared = {name: value for name, value in (("lm", lm), ("adapter", adapter)) if value is not None}
    work = Work(programs, settings, tuple(metrics.values()), shared)

    ids = [example_id(example) for example in examples]
    share = repeats == 1 and answers_repeat(program, lm)
    originals = _originals(examples, ids) if share else range(len(examples))
    # All examples once, then all again: an interrupt then leaves as many examples as possible.
    places = [(index, repeat) for repeat in range(repeats) for index in sorted(set(originals))]
    jobs = [
        Job(examples[index], repeat, keep_text=number < PROMPTS_KEPT)
        for number, (index, repeat) in enumerate(places)
    ]
    facts = _facts(program, ids, first, base_model, fingerprint(examples), confidence, seed)
    facts |= {"n_planned": len(examples) * repeats, "repeats": repeats, "max_error_rate": max_error_rate}
    facts["by"] = by if by is None or isinstance(by, str) else getattr(by, "__name__", "by")

    started = time.perf_counter()
    opening = Opening()
    stop = StopAfter(events.stop, stop_after_s)
    limits: dict[str, Any] = {"num_threads": num_threads, "timeout_s": timeout_s, "stop": stop}
    at_once = num_threads or dspy.settings.num_threads
    n_distinct = min(facts["n_distinct"], len(originals))

    def standing(tally: Tally) -> Evaluated:
        mean = interval = None
        if n := tally.done:
            mean = tally.score / n
            interval = running_interval(tally.score, tally.squares, n, min(n, n_distinct), confidence)
        elapsed_s = time.perf_counter() - started
        so_far = tally.failed, mean, elapsed_s, False, interval, tally.cached, at_once
        findings = tuple(finding.text for finding in diagnose_answers(tally.answers))
        return Evaluated(tally.done, len(jobs), *so_far, findings=findings, waited_s=waited())

    def build() -> Evaluation:
        found = dict(zip(places, outcomes, strict=True))
        results = _results(examples, ids, originals, found, tuple(metrics), repeats, asked_by(program, lm))
        numbers = _numbers(results, metrics, field, keys, facts)
        return Evaluation(**numbers, **facts, duration_s=duration_s)

    with events, limited(rate_limit) as waited, open_workers(executor) as opened:
        run = threads.run if opened is None else partial(run_on, opened)
        events.send(standing(Tally()))
        warn_of_changes = watch([program])
        limits["progress"] = lambda tally: events.update(lambda: standing(tally))
        outcomes = run(work, jobs, **limits, opening=opening)
        if opening.error is not None:
            raise opening.error
        duration_s = time.perf_counter() - started
        facts["repaired"] = sum(outcome is not None and outcome.repaired for outcome in outcomes)
        try:
            evaluation = build()
        except KeyboardInterrupt:  # one that comes this late must not lose the answers
            evaluation = build()
        finished = [outcome for outcome in outcomes if outcome is not None]
        errors = sum(outcome.failure is not None for outcome in finished)
        with contextlib.suppress(KeyboardInterrupt):
            last = Evaluated(
                len(finished),
                len(jobs),
                errors,
                evaluation.score if finished else None,
                duration_s,
                over=True,
                interval=evaluation.interval if finished else None,
                cached=sum(outcome.cached for outcome in finished),
                at_once=at_once,
                interrupted=len(finished) < len(jobs) and not stop.is_set(),
                findings=tuple(finding.text for finding in evaluation.findings) if events.listeners else (),
                waited_s=waited(),
            )
            events.send(last)
            warn_of_changes()
    return evaluation


def _digest(program: Program) -> str | None:
    """Return what tells a program from others in evidence; None for functions, and where its state is no JSON."""
    with contextlib.suppress(Exception):  # DSPy dumps the state, and a program may override that
        return program_digest(program) if isinstance(program, dspy.Module) else None
    return None


def evaluation_of(
    program: Program,
    examples: Sequence[dspy.Example],
    outcomes: Sequence[Outcome],
    metrics: Mapping[str, Metric],
    *,
    confidence: float,
    seed: int,
    indices: Sequence[int],
    base_model: str | None,
    data_fingerprint: str,
    lm: dspy.BaseLM | None = None,
) -> Evaluation:
    """Return the evaluation that these outcomes are: one for each of the examples, at these places."""
    ids = [example_id(example) for example in examples]
    found = {(place, 0): outcome for place, outcome in enumerate(outcomes)}
    results = _results(examples, ids, range(len(examples)), found, tuple(metrics), 1, asked_by(program, lm))
    results = [replace(result, index=index) for result, index in zip(results, indices, strict=True)]
    facts = _facts(program, ids, next(iter(metrics)), base_model, data_fingerprint, confidence, seed)
    facts["repaired"] = sum(outcome.repaired for outcome in outcomes)
    return Evaluation(**_numbers(results, metrics, None, None, facts), **facts, duration_s=0.0)


def _facts(
    program: Program,
    ids: Sequence[str],
    metric: str,
    base_model: str | None,
    data_fingerprint: str,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Return what is known of an evaluation before its first answer, where each example is to be answered once."""
    return {
        "n_planned": len(ids),
        "metric": metric,
        "program": getattr(program, "__name__", None) or type(program).__name__,
        "program_sha256": _digest(program),
        "base_model": base_model,
        "data_fingerprint": data_fingerprint,
        "n_examples": len(ids),
        "n_distinct": len(set(ids)),
        "repeats": 1,
        "by": None,
        "confidence": confidence,
        "max_error_rate": 0.05,
        "seed": seed,
        "started_at": now(),
    }


def _numbers(
    results: Sequence[ExampleResult],
    metrics: Mapping[str, Metric],
    field: str | None,
    keys: Sequence[str] | None,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    first, confidence, seed = facts["metric"], facts["confidence"], facts["seed"]
    scores = {
        name: metric_score(name, results, metric.binary, confidence, seed) for name, metric in metrics.items()
    }
    score = scores[first]

    def score_part(part: Sequence[ExampleResult]) -> MetricScore:
        return metric_score(first, part, score.correct is not None, confidence, seed)

    errors = errors_of(results)
    return {
        "score": score.score,
        "interval": score.interval,
        "n": score.n,
        "correct": score.correct,
        "score_without_errors": score.score_without_errors,
        "errors": errors,
        "reliable": bool(results) and errors.rate <= facts["max_error_rate"],
        "metrics": scores,
        "classification": None if field is None else classification_of(field, metrics[first], results),
        "latency": latency_of(results),
        "usage": Usage.total(result.usage for result in results),
        "metric_usage": Usage.total(result.metric_usage for result in results),
        "slices": {} if keys is None else slices_of(results, keys, score_part),
        "results": tuple(results),
    }


def check_metrics(
    metric: MetricLike | Sequence[MetricLike] | Mapping[str, MetricLike], examples: Sequence[dspy.Example]
) -> dict[str, Metric]:
    """Return metrics by name, the one that gives the score first.

    Raises:
        InputError: There is none, two have one name, or the examples lack what one needs.
    """
    if isinstance(metric, Mapping):
        metrics = {str(name): as_metric(function) for name, function in metric.items()}
    else:
        listed = [as_metric(one) for one in (metric if isinstance(metric, list | tuple) else [metric])]
        metrics = {function.label: function for function in listed}
        if len(metrics) < len(listed):
            raise InputError("two metrics have the same name; give a dict: metric={'name': function, ...}")
    if not metrics:
        raise InputError("metric is empty; give at least one, such as dspy_nb.exact_match('answer')")
    for function in metrics.values():
        function.check(examples)
    return metrics


def _slice_keys(
    by: str | Callable[[dspy.Example], Any], examples: Sequence[dspy.Example], metric: Metric
) -> list[str]:
    if not isinstance(by, str):
        try:
            return [str(by(own_copy(example))) for example in examples]
        except Exception as error:
            raise InputError(
                f"by fails on an example: {type(error).__name__}: {error_text(error)}"
            ) from error
    for number, example in enumerate(examples, 1):
        if by not in example:
            names = ", ".join(map(repr, example.keys()))
            raise InputError(f"by={value_text(by)}: example {number} has no such field; it has {names}")
    if by not in metric.fields:
        return [str(example[by]) for example in examples]
    classes = LabelClasses(metric.same)
    found = [classes.label(example[by], metric.read(by, example[by])) for example in examples]
    texts = classes.names()
    return [texts[label] for label in found]


def _originals(examples: Sequence[dspy.Example], ids: Sequence[str]) -> list[int]:
    """Return for each example the index of the first one that is equal, labels included."""
    occurrences = Counter(ids)
    first: dict[tuple[str, str], int] = {}
    originals = []
    for index, (example, identity) in enumerate(zip(examples, ids, strict=True)):
        if occurrences[identity] == 1:
            originals.append(index)
        else:
            originals.append(first.setdefault((identity, value_key(dict(example.items()))), index))
    return originals


def _results(
    examples: Sequence[dspy.Example],
    ids: Sequence[str],
    originals: Sequence[int],
    outcomes: Mapping[tuple[int, int], Outcome | None],
    names: tuple[str, ...],
    repeats: int,
    parts: Sequence[Any],
) -> list[ExampleResult]:
    redact = Redaction(scrubber(parts))
    results = []
    for index, example in enumerate(examples):
        inputs, expected = split_fields(example)
        for repeat in range(repeats):
            outcome = outcomes[originals[index], repeat]
            if outcome is None:
                continue
            copied = originals[index] != index
            results.append(
                ExampleResult(
                    index=index,
                    repeat=repeat,
                    example_id=ids[index],
                    inputs=inputs,
                    expected=expected,
                    predicted=outcome.predicted,
                    score=outcome.scores[0],
                    scores=dict(zip(names, outcome.scores, strict=True)),
                    latency_ms=outcome.latency_ms,
                    cached=outcome.cached or copied,
                    error=outcome.failure,
                    usage=Usage() if copied else outcome.usage,
                    metric_usage=Usage() if copied else outcome.metric_usage,
                    calls=tuple(redact(as_cached(call) if copied else call) for call in outcome.calls),
                )
            )
    return results
