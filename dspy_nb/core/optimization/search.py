"""Carrying out one optimization: score, search, score again, and say what happens."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import dspy

from dspy_nb.core.data.metrics import MetricError
from dspy_nb.core.errors import InputError, NoField, NoPrediction, OptimizationFailed, failure_text
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.events import Broadcaster, CandidateScored, Completed, Progress, Started, warn_of
from dspy_nb.core.optimization.calls import SEED_SETTING, Assignment
from dspy_nb.core.optimization.ending import advise
from dspy_nb.core.optimization.findings import findings_of
from dspy_nb.core.optimization.optimizers import RACERS
from dspy_nb.core.optimization.run import Result, RunSettings, ending_of, held_out_of
from dspy_nb.core.optimization.task import Task
from dspy_nb.core.programs import quiet
from dspy_nb.core.programs.copies import copy_of
from dspy_nb.core.programs.interrupts import Interrupts
from dspy_nb.core.programs.seams import is_compiled, mark_compiled
from dspy_nb.core.programs.spec import predictors_of
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.supervision.budget import Budget, ErrorCount, remaining
from dspy_nb.core.supervision.candidates import BatchRecorder, Candidate, Prompt, Recorder
from dspy_nb.core.supervision.guard import Guard, StopRun
from dspy_nb.core.supervision.leases import purse_of
from dspy_nb.core.supervision.racing import Racing, in_force
from dspy_nb.core.supervision.scoring import RemoteScoring
from dspy_nb.core.supervision.supervisor import Supervisor
from dspy_nb.core.supervision.watched_metric import ending_on_no_score

logger = logging.getLogger(__name__)

_EXCERPT = 120
_NO_LIMIT = 10**9  # DSPy's own limit on errors would cut a run short; the guard decides instead


@dataclass(frozen=True)
class Setup:
    """A task, ready to start here and now.

    Attributes:
        task: what to do.
        plan: what is shown and stored of it.
        student: what the optimizer gets: a copy without pinned models (for Ensemble the list of programs).
        model: the language model of the run.
        executor: where the program is scored, ``None`` for threads of this process.
        settings: further DSPy settings, such as the cache of a run directory.
    """

    task: Task
    plan: RunSettings
    student: Any
    model: Any
    settings: Mapping[str, Any]
    executor: Executor | None = None


class Search:
    """Carries out one task.

    Args:
        setup: what to do.
        stop: ends it at the next LM call when set.
        events: gets what happens.
    """

    def __init__(self, setup: Setup, stop: threading.Event, events: Broadcaster) -> None:
        self._setup, self._task, self._plan = setup, setup.task, setup.plan
        self._stop = stop
        self._events = events
        self._guards: list[Guard] = []
        self._started = time.monotonic()
        self._reserve = Usage(setup.task.reserve)
        self._scoring_s = 0.0  # what the scores before took: about what those after will take
        self._cut_by: str | None = None
        self._baseline_score: float | None = None
        self._interrupts = Interrupts(stop)
        self._supervisor = Supervisor(self._interrupts, self._plan.budget.grace)
        self._phase: str | None = None
        self._recorder = self._make_recorder()

    def run(self) -> Result:
        """Do it and return the result, also when it was stopped.

        Raises:
            InputError: the metric returned what is no score, or a limit cannot be enforced.
            OptimizationFailed: most calls fail, or the optimizer itself failed.
        """
        plan = self._plan
        estimate = plan.estimate.lm_calls
        with self._events as events:
            events.send(Started(plan.optimizer, estimate or None, plan.budget.limits(), plan.run_id))
            try:
                with self._interrupts.watched():
                    result = self._run()
                self._phase = "done"
            finally:
                events.send(self._progress())  # the last throttled one is behind
            held_out = held_out_of(plan, result)
            step = advise(ending_of(plan, result, held_out), plan.voice)
            events.send(
                Completed(
                    result.score,
                    result.duration_s,
                    result.stopped_by,
                    result.origin,
                    held_out,
                    step,
                    findings=tuple(finding.text for finding in result.findings),
                )
            )
        return result

    def _run(self) -> Result:
        task = self._task
        before = self._measure("held-out examples, before", task.program, task.testset)
        unseen_before = self._baseline()
        baseline = self._baseline_score = _score(unseen_before)
        self._scoring_s = time.monotonic() - self._started
        self._reserve_what_it_takes()
        compiled, reason = self._search()
        best = self._recorder.best
        if compiled is not None:
            program = self._finish(compiled)
            known = self._find_score(program)
        else:
            program = task.program if best is None else best.program
            known = None if best is None else self._find_score(program)
        if baseline is None:
            baseline = self._find_score(task.program)
        score, after, unseen_after = known, None, None
        if compiled is None and best is None:  # the program as it was given: there is nothing new to score
            score, after = baseline, before
        elif not self._stop.is_set():
            if known is None and task.valset:
                unseen_after = self._measure("validation examples", program, task.valset)
                score = _score(unseen_after)
            after = self._measure("held-out examples, after", program, task.testset)
        left_behind = tuple(self._supervisor.left_behind)
        if left_behind:
            warn_of(
                f"calls had not returned {self._plan.budget.grace:g} s after the stop: they count as LM calls, and "
                f"are left behind in {', '.join(left_behind)}"
            )
        reason = reason or self._cut_by
        if self._stop.is_set():
            reason = "interrupt" if self._interrupts.happened else "stop"
        return Result(
            program=program,
            score=score,
            baseline_score=baseline,
            candidates=tuple(self._recorder.with_examples()),
            usage=self._usage(),
            errors=self._errors(),
            stopped_by=reason,
            duration_s=time.monotonic() - self._started,
            test_before=before,
            test_after=after,
            origin="optimizer" if compiled is not None else "given" if best is None else "candidate",
            left_behind=left_behind,
            unseen_before=unseen_before,
            unseen_after=unseen_after,
            changed=self._is_changed(program),
            findings=findings_of(
                task,
                program,
                (before, after),
                self._recorder,
                self._errors(),
                [one.answers for one in self._guards],
            ),
            **self._recorder.races,
        )

    # -- the search ----------------------------------------------------------------------------------

    def _search(self) -> tuple[Any, str | None]:
        """Return the optimizer's program, or ``None`` and why it was stopped."""
        task, guard = self._task, self._guard(self._left(reserve_scoring=True), self._recorder)
        plan, metric = self._plan, self._scoring(guard)
        elsewhere = self._score_elsewhere(guard, metric)
        if elsewhere is not None:
            self._recorder.on_evaluation = elsewhere.note
        sets = self._setup.student, task.trainset, task.valset
        job = Assignment(*sets, metric, plan.options, plan.seed, plan.num_threads)
        self._phase = None
        try:
            compiled = self._supervisor.run(guard, partial(self._compile, job, guard, elsewhere))
            if guard.nothing_worked:
                raise OptimizationFailed(f"every call failed: {guard.errors}")
            return compiled, None
        except (StopRun, KeyboardInterrupt):
            return None, self._explain(guard)
        except OptimizationFailed:
            raise
        except BaseException as error:  # also SystemExit and its like: it ends the run, and no kernel
            failure = OptimizationFailed(f"{task.method.name} failed: {failure_text(error)}")
            guard.errors.fatal = error
            return None, self._keep_or_raise(guard, "failure", failure, error)

    def _compile(self, job: Assignment, guard: Guard, elsewhere: RemoteScoring | None) -> Any:
        with self._in_force(guard), in_force(elsewhere or self._recorder.racing):
            optimizer, arguments = self._task.method.build(job)
            return optimizer.compile(job.student, **arguments)

    def _keep_or_raise(self, guard: Guard, reason: str, error: Exception, cause: Any = None) -> str:
        """Return ``reason``, with a warning, if a candidate besides the program as given was scored; else raise."""
        given = self._recorder.find(self._task.program)
        if guard.nothing_worked or all(c is given for c in self._recorder.candidates if c.full):
            raise error from cause
        warn_of(f"{failure_text(error)}; the best candidate until then is kept")
        return reason

    def _explain(self, guard: Guard) -> str:
        """Return why ``guard`` stopped the search, or raise if that leaves nothing worth returning."""
        reason = guard.reason or "stop"
        if reason in ("metric", "failure"):
            fatal = guard.errors.fatal
            error = fatal if isinstance(fatal, Exception) else InputError("the metric failed")
            return self._keep_or_raise(guard, reason, error)
        if reason == "errors" and guard.hopeless:
            failure = OptimizationFailed(
                f"most calls fail, so there is nothing to learn from: {guard.errors}"
            )
            return self._keep_or_raise(guard, reason, failure)
        if reason.startswith("unknown "):
            what = {"usd": "its price is unknown", "tokens": "it does not report them"}[reason.split()[1]]
            raise InputError(
                f"a budget in {reason.split()[1]} cannot be enforced for {self._plan.base_model}: {what}; "
                "use lm_calls or seconds"
            )
        return reason

    def _scoring(self, guard: Guard) -> Callable[..., Any]:
        """Return the metric as the optimizer gets it: SIMBA's candidates are recorded by it."""
        metric, recorder = ending_on_no_score(self._task.metric, guard), self._recorder

        def scored(
            gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
        ) -> Any:
            if pred is None or metric is None:  # SIMBA's way to say that the program raised
                return 0.0
            score = metric(gold, pred, trace, pred_name, pred_trace)
            if isinstance(recorder, BatchRecorder):
                recorder.add_score(float(score), gold, pred)
            return score

        return scored

    def _score_elsewhere(self, guard: Guard, metric: Callable[..., Any]) -> RemoteScoring | None:
        """Return what scores candidates on the executor, if there is one."""
        executor, watched = self._setup.executor, ending_on_no_score(self._task.metric, guard)
        if executor is None or watched is None:
            return None
        threads = self._plan.num_threads
        return RemoteScoring(executor, threads, guard, watched, metric, RACERS, self._recorder.racing)

    def _make_recorder(self) -> Recorder:
        task = self._task
        method, options = task.method, self._plan.options
        if method.in_batches:
            full_n = min(options["bsize"], len(task.trainset))
            return BatchRecorder(task.program, full_n, self._on_candidate, examples=task.trainset)
        compared = {"valset": task.valset, "trainset": task.trainset, None: ()}[method.compares_on]
        full_n = min(len(compared), method.compares_at_most(options) or len(compared)) or None
        steps = compared if method.made_of_steps else ()  # only they may score on other examples
        racing = Racing(task.rule, compared, full_n, task.seed, RACERS) if task.rule and full_n else None
        return Recorder(task.program, full_n, self._on_candidate, steps, compared, racing)

    def _finish(self, compiled: Any) -> Any:
        """Return the optimizer's program on the caller's own: with its class state and its pinned models."""
        if self._task.method.replaces_program:
            return compiled
        program = Prompt.of(compiled).applied_to(self._task.program)
        mark_compiled(program, is_compiled(compiled))
        return program

    # -- scores before and after -------------------------------------------------------------------------

    def _find_score(self, program: Any) -> float | None:
        """Return the score that the search itself gave ``program``, if that is the one to report."""
        if self._task.method.replaces_program:
            return None
        if self._plan.has_unseen_valset:
            return None  # the search compared on the training set
        found = self._recorder.find(program)
        return None if found is None else found.score

    def _is_changed(self, program: Any) -> bool:
        """Whether a program has other prompts than the one that was given."""
        if self._task.method.replaces_program:
            return True
        return Prompt.of(program).key != Prompt.of(self._task.program).key

    def _baseline(self) -> Evaluation | None:
        """Score the program as it is, where the search would not."""
        task = self._task
        if not task.valset or task.method.scores_student:
            return None
        return self._measure("validation examples, before", task.program, task.valset)

    def _reserve_what_it_takes(self) -> None:
        """Reserve for the scores after the search what those before took.

        LM calls: at least what was foreseen. A program may ask its predictors several times, and an answer in
        the wrong format costs a second call. Tokens and dollars: with those of the calls that are in flight
        when the search stops, for they are known too late to count against it.
        """
        task, usage = self._task, self._usage()
        scored = len(task.testset) + (0 if task.method.scores_student else len(task.valset))
        if not scored or not task.reserve:
            return
        foreseen = scored * len(predictors_of(task.program))
        calls = max(task.reserve, task.reserve * (usage.lm_calls + usage.cache_hits) // foreseen)
        more = 1 + self._plan.num_threads / max(usage.lm_calls, 1)
        tokens = (usage.prompt_tokens, usage.completion_tokens)
        prompt, completion = (None if number is None else round(number * more) for number in tokens)
        self._reserve = Usage(calls, 0, prompt, completion, None if usage.usd is None else usage.usd * more)

    def _measure(self, what: str, program: Any, examples: Sequence[dspy.Example]) -> Evaluation | None:
        """Evaluate ``program``; ``None`` without examples, or when there is no budget left for it."""
        left = self._left()
        if not examples or isinstance(left, str) or isinstance(program, list):
            return None
        guard = self._guard(left)
        self._phase = f"scoring {len(examples)} {what}"
        try:
            with self._supervisor.settling(guard), self._in_force(guard), self._interrupts.breaking_off():
                found = evaluate(
                    copy_of(program),  # scoring may change a program that keeps a state
                    examples,
                    ending_on_no_score(self._task.metric, guard),
                    num_threads=self._plan.num_threads,
                    executor=self._setup.executor,
                    stop=cast("threading.Event", guard),
                )
                if not found.complete:
                    raise guard.halt("stop")
                return found
        except (StopRun, KeyboardInterrupt):
            self._cut_by = self._explain(guard)
            return None
        except (MetricError, NoField, NoPrediction) as error:
            if self._recorder.best is None and self._baseline_score is None:
                seen = guard.errors if guard.errors.count else error
                raise OptimizationFailed(
                    f"every call fails, so there is nothing to learn from: {seen}"
                ) from error
            self._cut_by = "errors"  # what the search has found is not thrown away
            return None

    # -- limits, counts and events -----------------------------------------------------------------------

    def _left(self, *, reserve_scoring: bool = False) -> Budget | str:
        reserve = self._reserve if reserve_scoring else None
        elapsed = time.monotonic() - self._started + (self._scoring_s if reserve_scoring else 0.0)
        return remaining(self._plan.budget, self._usage(), elapsed, reserve=reserve)

    def _guard(self, left: Budget | str, follower: Recorder | None = None) -> Guard:
        """Return a guard with what is left; if that is nothing, of this limit, it stops at the first call."""
        budget, program = Budget() if isinstance(left, str) else left, self._task.program
        kind = None if isinstance(program, list) else type(program)
        guard = Guard(budget, self._stop, lambda: self._events.update(self._progress), follower, kind)
        if isinstance(left, str):
            guard.halt(left)
        self._guards.append(guard)
        return guard

    @contextlib.contextmanager
    def _in_force(self, guard: Guard) -> Iterator[None]:
        for module in self._task.method.imports:
            importlib.import_module(module)
        quiet.install()
        with dspy.context(
            lm=self._setup.model,
            max_errors=_NO_LIMIT,
            **guard.settings(),
            **purse_of(guard),
            **quiet.QUIET_SETTINGS,
            **{SEED_SETTING: self._plan.seed},
            **self._setup.settings,
        ):
            yield

    def _usage(self) -> Usage:
        return Usage.total(guard.usage for guard in self._guards)

    def _errors(self) -> ErrorCount:
        return sum((guard.errors for guard in self._guards), ErrorCount())

    def _progress(self) -> Progress:
        usage, best = self._usage(), self._recorder.best
        # Where the search does not use the valset, the best score is not of the examples of the score before.
        metrics = {
            **usage.to_dict(),
            "errors": self._errors().count,
            "best_score": None if best is None else best.score,
            "baseline_score": None if self._plan.has_unseen_valset else self._baseline_score,
            "elapsed_s": round(time.monotonic() - self._started, 3),
            **self._recorder.races,
        }
        return Progress(usage.lm_calls + usage.cache_hits, self._phase or self._recorder.phase, metrics)

    def _on_candidate(self, candidate: Candidate, best: bool) -> None:
        if self._baseline_score is None and candidate.full:
            self._baseline_score = self._find_score(self._task.program)
        instruction, given_up = next(iter(candidate.instructions.values()), ""), candidate.abandoned
        self._events.send(
            CandidateScored(
                candidate=candidate.number,
                score=candidate.score,
                n=candidate.n,
                full=candidate.full,
                best=best,
                instruction=" ".join(instruction.split())[:_EXCERPT],
                demos=candidate.num_demos,
                abandoned=None if given_up is None else given_up.of,
                interval=None if given_up is None else given_up.interval,
                certain=given_up is not None and given_up.certain,
                prompt=candidate.prompt,
            )
        )
        self._events.send(self._progress())


def _score(evaluation: Evaluation | None) -> float | None:
    return None if evaluation is None or not evaluation.complete else evaluation.score
