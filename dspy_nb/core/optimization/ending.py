"""What to do when a run has ended: one sentence from what it found, in the words of where it was started."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from dspy_nb.core.events import HeldOut
from dspy_nb.core.optimization.optimizers import another_optimizer
from dspy_nb.core.statistics.proportions import critical_value
from dspy_nb.core.statistics.sample_sizes import more_needed, more_needed_paired, plan

NOT_REGISTRABLE: Final = "KNNFewShot"
"""It picks its demos in code, at each call."""

_MANY_ERRORS: Final = 0.05  # as in evaluate(): above this share a score is not reliable
_MOST_EXAMPLES: Final = 2_000  # nobody labels more to see a difference as small as that
_FEWEST_EXAMPLES: Final = 30
_WORTH_SEEING: Final = 0.05  # a difference that is worth an effort
_NOTHING: Final = 1e-9
_BY_HAND: Final = ("stop", "interrupt")
_BY_BUDGET: Final = ("lm_calls", "seconds", "tokens", "usd")


@dataclass(frozen=True)
class Voice:
    """How one says, where a run was started, what can be done with it: in Python; for commands there is a subclass.

    Attributes:
        name: what the caller calls the run.
        package: what the caller calls dspy_nb; "" where it has no name yet.
        run_dir: the run directory, if there is one.
        model_id: the model that it is to become a version of, if that is known.
        registry: the folder of the registry.
        registers: whether it is registered as soon as it has ended.
        registers_stopped: whether it is registered also where the user has stopped it.
        ref: the version that it has become, once it has.
        silent: whether nothing is said: somebody else decides what follows, such as a pipeline.
    """

    name: str = "run"
    package: str = "nb"
    run_dir: str | None = None
    model_id: str | None = None
    registry: str = "registry"
    registers: bool = False
    registers_stopped: bool = False
    ref: str | None = None
    silent: bool = False

    @property
    def _package(self) -> str:
        return self.package or "import dspy_nb as nb; nb"

    @property
    def _opened(self) -> str:
        return f"{self._package}.Registry({_quoted(self.registry)})"

    @property
    def register(self) -> str:
        """What registers the run."""
        return f"{self._opened}.register({self.name}, {_quoted(self.model_id or 'my-model')})"

    @property
    def deploy(self) -> str:
        """What deploys the version that it is, or will be."""
        return f'{self._opened}.environment("staging").deploy({_quoted(self.ref or self.model_id or "my-model")})'

    @property
    def score(self) -> str:
        """What scores the program that the run ended with."""
        return f"{self._package}.evaluate({self.name}.program, examples, metric)"

    @property
    def compare(self) -> str:
        """What compares that program with another one."""
        return f"{self._package}.compare(program, {self.name}.program, examples, metric)"

    @property
    def answers(self) -> str:
        """What shows the worst answers on held-out examples."""
        return f"{self.name}.test_after.worst()"

    @property
    def errors(self) -> str:
        """What shows the errors of a run."""
        return f"{self.name}.errors"

    @property
    def again(self) -> str:
        """The call that goes on where a run with a run directory has ended."""
        return f"the same call with run_dir={_quoted(self.run_dir or '')}"

    def argument(self, name: str, value: str | None = None) -> str:
        """Return an argument of optimize() as it is written here."""
        return f"{name}={'' if value is None else _quoted(value)}"


SPOKEN: Final[ContextVar[Voice | None]] = ContextVar("dspy_nb_voice", default=None)
"""The voice of what optimize() is called from; ``None`` for a caller of Python."""


@contextlib.contextmanager
def speaking(voice: Voice) -> Iterator[None]:
    """Let the runs that are started within this context advise in a voice."""
    token = SPOKEN.set(voice)
    try:
        yield
    finally:
        SPOKEN.reset(token)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended, as far as that decides what to do next.

    Attributes:
        optimizer: its name.
        tried: names of all optimizers that took part.
        sets: size of each set of examples, by train, val and test.
        origin: where the program comes from, as in ``OptimizationRun.origin``.
        stopped_by: what ended it early, as in ``OptimizationRun.stopped_by``.
        held_out: what changed on examples that the search never saw; ``None`` where there were none.
        score: of the program, on the examples that candidates are compared on.
        baseline: the same of the program as it was given.
        candidate_scores: of the candidates that were scored in full.
        changed: False where the program has the prompts that it was given with.
        errors: calls that failed.
        calls: calls of the language model that were answered.
    """

    optimizer: str
    tried: Sequence[str] = ()
    sets: Mapping[str, int] = field(default_factory=dict)
    origin: str = "optimizer"
    stopped_by: str | None = None
    held_out: HeldOut | None = None
    score: float | None = None
    baseline: float | None = None
    candidate_scores: Sequence[float] = ()
    changed: bool = True
    errors: int = 0
    calls: int = 0

    @property
    def verdict(self) -> str:
        """That of ``held_out``, "" without."""
        return "" if self.held_out is None else self.held_out.verdict


def advise(end: Ending, voice: Voice) -> str:
    """Return what to do next, on one line; "" where nobody is to be advised.

    It has no full stop, for it often ends with what is to be typed.
    """
    if voice.silent:
        return ""
    parts = [_first(end, voice)]
    if end.stopped_by in (*_BY_HAND, *_BY_BUDGET):
        parts.append(_go_on(end, voice))
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}"


def _first(end: Ending, voice: Voice) -> str:
    """Return what comes before going on with a run that was stopped."""
    held, failing = end.held_out, _failing(end, voice)
    if end.origin == "given":
        return failing or "there is nothing to register: the program is as it was given"
    if end.stopped_by in ("errors", "metric", "failure"):
        kept = _keep(end, voice)
        return f"see what failed: {voice.errors}" + (f"; {kept}" if end.verdict != "worse" else "")
    if end.verdict == "better":
        return f"{_keep(end, voice)}{f'; {failing}' if failing else ''}"
    if failing:
        return failing
    if end.verdict == "worse":
        return _drop(end, voice)
    if end.stopped_by is not None:
        return _keep(end, voice)
    if end.verdict == "no clear difference" and held is not None:
        return _undecided(end, held, voice)
    if held is not None and held.after is not None:
        return f"compare it with what there was before, on the same examples: {voice.compare}"
    if held is not None or end.score is None:
        return f"score it on examples that it has not seen: {voice.score}"
    return _only_searched(end, voice)


def _keep(end: Ending, voice: Voice) -> str:
    """Return what keeps the program, or what follows where it is kept already."""
    by_hand = end.stopped_by in _BY_HAND
    if end.optimizer == NOT_REGISTRABLE:
        return f"use it as {voice.name}.program: no registry takes a program of {NOT_REGISTRABLE}"
    if voice.ref is None and not (voice.registers and (voice.registers_stopped or not by_hand)):
        what = "what there is" if end.stopped_by is not None and end.verdict != "better" else "it"
        return f"register {what}: {voice.register}"
    when = "" if voice.ref is not None else " once it is registered"
    if end.verdict == "better":
        return f"compare it with what is live, or deploy it{when}: {voice.deploy}"
    return f"score what was kept on examples that it has not seen{when}: {voice.score}"


def _drop(end: Ending, voice: Voice) -> str:
    kept = "" if voice.ref is None else f" and do not deploy {voice.ref}"
    return f"keep the program as it was{kept}; {_another(end, voice)} may do better"


def _another(end: Ending, voice: Voice) -> str:
    """Return another optimizer that fits, in words."""
    name = another_optimizer({end.optimizer, *end.tried}, end.sets)
    return "another optimizer" if name is None else f"another optimizer ({voice.argument('optimizer', name)})"


def _go_on(end: Ending, voice: Voice) -> str:
    """Return how to go on with a run that was stopped, or what would have made that possible."""
    if voice.run_dir is not None:
        return f"{voice.again} goes on from there without paying twice"
    if end.stopped_by in _BY_BUDGET:
        return f"to go further, raise the budget; {voice.argument('run_dir')} would have kept the answers"
    return f"{voice.argument('run_dir')} would have kept the answers, to go on without paying twice"


def _failing(end: Ending, voice: Voice) -> str:
    """Return a look at the errors, where there are many."""
    held = end.held_out
    if held is not None and held.after is not None:
        failed, n, where = held.errors[1], held.n, voice.errors if held.validation else voice.answers
        what = f"{failed:,} of {n:,} {_examples(held)} failed"
    else:
        failed, n, where = end.errors, max(end.calls, end.errors), voice.errors
        what = f"{failed:,} calls failed"
    if not n or failed / n < _MANY_ERRORS:
        return ""
    return f"look at the errors first, for {what} ({failed / n:.0%}): {where}"


def _examples(held: HeldOut) -> str:
    return "validation examples" if held.validation else "held-out examples"


def _undecided(end: Ending, held: HeldOut, voice: Voice) -> str:
    """Return what to do where the scores before and after show no clear difference."""
    difference = held.difference or 0.0
    if held.before == held.after == 1.0:
        return (
            f"there is nothing to gain on these examples, for both programs get all {held.n:,} right: keep the "
            "program as it was, or hold out harder ones"
        )
    if held.before == held.after == 0.0:
        where = voice.score if held.validation else voice.answers
        return f"no answer was right before or after: look at them, and at the metric and the labels: {where}"
    if not end.changed:
        return f"the search found nothing better than the program as it was given: try {_another(end, voice)}"
    if _all_alike(end):
        return f"all candidates scored the same, so there was nothing to choose: try {_another(end, voice)}"
    if held.gained == held.lost == 0:
        return f"the new prompt changes no score: try {_another(end, voice)}"
    if difference < -_NOTHING:
        return f"keep the program as it was, which scored higher so far; {_another(end, voice)} may do better"
    if (more := _more(held)) is not None:
        return f"hold out about {_about(more):,} more examples, to tell whether the gain is more than chance"
    share = max((held.gained + held.lost) / held.n, _WORTH_SEEING)
    more = plan(_WORTH_SEEING, discordance=min(share, 1.0)).n - held.n
    small = f"a difference of {100 * _WORTH_SEEING:g} points"
    rest = f"hold out about {_about(more):,} more examples, which would show {small}" if more > 0 else ""
    return f"try {_another(end, voice)}{f', or {rest}' if rest else ''}"


def _all_alike(end: Ending) -> bool:
    scores = end.candidate_scores
    return len(scores) > 1 and max(scores) - min(scores) < _NOTHING


def _more(held: HeldOut) -> int | None:
    """Return how many more examples would decide, if the rates are those seen; ``None`` if absurdly many."""
    if held.difference is None or held.interval is None or abs(held.difference) < _NOTHING:
        return None
    yes_or_no = abs(held.difference * held.n - (held.gained - held.lost)) < 1e-6
    if yes_or_no:
        more = more_needed_paired(held.n, held.gained, held.lost, 0.0, held.confidence)
    else:
        error = (held.interval[1] - held.interval[0]) / 2 / critical_value(held.confidence)
        more = more_needed(held.n, held.difference, held.n * error**2, 0.0, held.confidence)
    return more if more is not None and more <= _MOST_EXAMPLES else None


def _only_searched(end: Ending, voice: Voice) -> str:
    """Return what to do where there is a score of the search alone, which flatters."""
    assert end.score is not None
    gain = None if end.baseline is None else end.score - end.baseline
    if end.score == end.baseline == 1.0:
        return "there is nothing to gain on these examples, for all were right before: take harder ones"
    if _all_alike(end):
        return f"all candidates scored the same, so there was nothing to choose: try {_another(end, voice)}"
    if not end.changed or (gain is not None and gain <= _NOTHING):
        return f"the search found nothing better than the program as it was given: try {_another(end, voice)}"
    wanted = _FEWEST_EXAMPLES if gain is None else plan(min(gain, 0.99)).n
    many = f"about {_about(min(max(wanted, _FEWEST_EXAMPLES), _MOST_EXAMPLES)):,} labelled examples"
    return f"hold out {many} ({voice.argument('testset')}), for only those tell whether it is really better"


def _about(n: int) -> int:
    """Return a number rounded up to two digits."""
    unit = 10 ** max(0, len(str(n)) - 2)
    return -(-n // unit) * unit


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
