"""From the answers of two programs to the comparison: the test, the verdict, and what a reader must know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dspy_nb.core.ab.comparison import Comparison
from dspy_nb.core.ab.duel import A, Duel, thin
from dspy_nb.core.evaluation.pairing import Flip
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.statistics.means import Ratio, bca_interval, ratio_interval, sign_flip_p_value
from dspy_nb.core.statistics.proportions import mcnemar, paired_difference_interval, two_proportion_z
from dspy_nb.core.statistics.sample_sizes import more_needed, more_needed_alike, more_needed_paired
from dspy_nb.core.statistics.verdicts import Verdict, decide, holm

_PATH_LENGTH = 500


@dataclass(frozen=True)
class Terms:
    """What is settled before the first answer.

    Attributes:
        confidence: 1 − α, for all candidates together.
        margin: Largest difference that makes no practical difference.
        sequential: Whether it may be looked at, and stopped, at any time.
        declared: Whether the number of examples was given, and not only that of the data set.
        seed: Of the order of the examples, and of resampling.
        planned: Examples there are, at most.
        candidates: Programs compared with the same baseline.
    """

    confidence: float
    margin: float
    sequential: bool
    declared: bool
    seed: int
    planned: int
    candidates: int = 1

    @property
    def level(self) -> float:
        """The confidence that each candidate needs, by Bonferroni: 1 − α/K."""
        return 1 - (1 - self.confidence) / self.candidates

    def among(self, correction: str) -> str:
        """Return the end of a method's name where there are several candidates."""
        return f"; 1 of {self.candidates} candidates, {correction}" if self.candidates > 1 else ""


@dataclass(frozen=True)
class Finding:
    """What the test says of one candidate; see the same attributes of ``Comparison``."""

    verdict: Verdict
    interval: tuple[float, float]
    p_value: float
    confidence: float
    n_at_verdict: int | None
    complete: bool
    method: str


def findings(duels: Sequence[Duel], terms: Terms) -> list[Finding]:
    """Return what the test says of each candidate.

    Sequential: each has a confidence sequence at 1 − α/K, so all intervals hold at once and at every look.

    With one look: p-values are Holm's, and a candidate is better or worse if its adjusted p is at most α and
    its interval, at the confidence of its step of Holm's procedure, says so too. No practical difference
    takes an interval at 1 − α/K within the margin, whatever the step: the candidates that Holm tests last
    are those picked for being most alike.
    """
    if terms.sequential:
        return [_at_any_time(duel, terms) for duel in duels]
    p_values = [_p_value(duel, terms.seed) for duel in duels]
    adjusted = holm(p_values)
    order = sorted(range(len(duels)), key=p_values.__getitem__)
    left = {index: len(duels) - rank for rank, index in enumerate(order)}  # candidates at this step of Holm's
    return [_at_one_look(duel, terms, adjusted[index], left[index]) for index, duel in enumerate(duels)]


def _at_any_time(duel: Duel, terms: Terms) -> Finding:
    return Finding(
        verdict=duel.verdict,
        interval=duel.sequence.interval,
        p_value=min(1.0, terms.candidates * duel.sequence.p_value),
        confidence=terms.level,
        n_at_verdict=duel.n_at_verdict,
        complete=duel.n == terms.planned or duel.verdict != "inconclusive",
        method="paired betting confidence sequence, valid at every look"
        + terms.among(f"each at α/{terms.candidates}"),
    )


def _at_one_look(duel: Duel, terms: Terms, adjusted: float, left: int) -> Finding:
    complete = duel.n == terms.planned and duel.n > 0
    alpha = 1 - terms.confidence
    confidence, interval = terms.level, _interval(duel, terms.level, terms.seed)
    verdict: Verdict = decide(*interval, terms.margin) if complete else "inconclusive"
    if verdict != "no practical difference":
        if complete and adjusted <= alpha:
            confidence = 1 - alpha / left
            interval = _interval(duel, confidence, terms.seed)
            verdict = decide(*interval, 0.0)
        else:
            verdict = "inconclusive"  # also where the exact test does not agree with the interval
    method = "exact McNemar test and Tango's interval" if duel.binary else "sign-flip test and BCa interval"
    holms = terms.among("p adjusted by Holm")
    return Finding(
        verdict=verdict,
        interval=interval,
        p_value=adjusted,
        confidence=confidence,
        n_at_verdict=None if verdict == "inconclusive" else duel.n,
        complete=complete,
        method=f"{method}, one look{holms}" if duel.n else "no example was answered by both",
    )


def _p_value(duel: Duel, seed: int) -> float:
    if duel.binary:
        return mcnemar(*_table(duel)).exact_p
    return sign_flip_p_value(duel.differences, seed=seed)


def _interval(duel: Duel, confidence: float, seed: int) -> tuple[float, float]:
    if duel.binary:
        low, high = paired_difference_interval(*_table(duel), confidence)  # of A − B
        return -high, -low
    return bca_interval(duel.differences, confidence, bounds=(-1.0, 1.0), seed=seed)


def _table(duel: Duel) -> tuple[int, int, int, int]:
    """Return on how many examples both are right, A alone, B alone, and neither."""
    b_wins, a_wins = duel.wins
    both = sum(bool(outcome.scores[0]) for outcome in duel.outcomes(A)) - a_wins
    return both, a_wins, b_wins, duel.n - both - a_wins - b_wins


def comparison_of(
    duel: Duel,
    finding: Finding,
    arms: tuple[Evaluation, Evaluation],
    names: tuple[str, str],
    terms: Terms,
    warnings: Sequence[str],
    duration_s: float,
) -> Comparison:
    """Return the comparison of a candidate with the baseline: ``arms`` and ``names`` are theirs."""
    a, b = arms
    differences = duel.differences
    b_wins, a_wins = duel.wins
    effect = math.fsum(differences) / len(differences) if differences else math.nan
    return Comparison(
        **vars(finding),
        effect=effect,
        n=duel.n,
        n_planned=terms.planned,
        b_wins=b_wins,
        a_wins=a_wins,
        more_needed=_more_needed(duel, effect, finding, terms),
        margin=terms.margin,
        overall_confidence=terms.confidence,
        candidates=terms.candidates,
        sequential=terms.sequential,
        a=a,
        b=b,
        a_name=names[0],
        b_name=names[1],
        latency_ratio=_latency_ratio(a, b, terms.confidence),
        usd_ratio=_ratio(a.usage.usd, b.usage.usd),
        tokens_ratio=_ratio(_tokens(a), _tokens(b)),
        warnings=(*warnings, *_warnings(a, b, finding, b_wins + a_wins, terms)),
        path=thin(duel.path, _PATH_LENGTH),
        flips=_flips(a, b),
        seed=terms.seed,
        data_fingerprint=a.data_fingerprint,
        metric=a.metric,
        duration_s=duration_s,
    )


def _warnings(a: Evaluation, b: Evaluation, finding: Finding, discordant: int, terms: Terms) -> list[str]:
    warnings = []
    if math.isnan(finding.interval[0]):
        warnings.append(
            "every difference is contradicted by the data: the programs drifted while they were compared, or "
            "the examples are not in random order; there is no verdict"
        )
    text = "A failed on {:,} examples and B on {:,}; failures count as wrong"
    warnings += warn_of_counts((a.errors.count, b.errors.count), (a.n, b.n), text, FAILING)
    if finding.verdict == "inconclusive" and discordant < 10:
        warnings.append(f"they differ on {discordant} examples; no test can tell much from fewer than 10")
    if not terms.sequential and not finding.complete:
        warnings.append(
            "one look was to be taken at the end, and this is an earlier one: no verdict can be given; a "
            "comparison that may be interrupted is a sequential one"
        )
    elif not terms.sequential and not terms.declared:
        warnings.append(
            "one look is valid only where the number of examples was fixed beforehand, as max_examples does, "
            "and only once: looking again with more examples takes a sequential comparison"
        )
    return warnings


FAILING: Final = "the two fail so differently often that this"


def warn_of_counts(counts: tuple[int, int], sizes: tuple[int, int], text: str, ground: str) -> list[str]:
    """Return a warning if something happened in A or B; where one has more of it, that is ground for doubt.

    Args:
        counts: How often it happened in A and in B.
        sizes: How often it could have.
        text: Says so, with a place for each of the counts.
        ground: What "alone may explain the verdict" where the two differ.
    """
    if not any(counts):
        return []
    differ = two_proportion_z(counts[0], sizes[0], counts[1], sizes[1]).p_value < 0.05
    return [text.format(*counts) + (f", and {ground} alone may explain the verdict" if differ else "")]


def _more_needed(duel: Duel, effect: float, finding: Finding, terms: Terms) -> int | None:
    """Return what the test that decides takes beyond what was counted, at the confidence of one candidate."""
    n, differences = duel.n, duel.differences
    if n == 0 or finding.verdict != "inconclusive" or math.isnan(finding.interval[0]):
        return None
    if terms.sequential:
        from dspy_nb.core.statistics.forecast import more_examples  # imports numpy

        return more_examples(duel.sequence, differences, terms.margin)
    if duel.binary:
        return more_needed_paired(n, *duel.wins, terms.margin, terms.level)
    if max(differences) - min(differences) < 1e-12:
        return more_needed_alike(n, effect, terms.margin, terms.level)
    variance = max(math.fsum((d - effect) ** 2 for d in differences) / n, 1 / (n + 2))
    return more_needed(n, effect, variance, terms.margin, terms.level)


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
