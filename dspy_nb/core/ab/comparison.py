"""What a comparison found: the verdict, the numbers behind it, and the examples behind those."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import NotFound
from dspy_nb.core.evaluation.diagnosis import Finding, under
from dspy_nb.core.evaluation.examples import ExampleTable, HasExamples
from dspy_nb.core.evaluation.pairing import Flip
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.evidence import ComparisonEvidence
from dspy_nb.core.statistics.means import Ratio
from dspy_nb.core.statistics.verdicts import Verdict
from dspy_nb.core.storage.plain import plain
from dspy_nb.core.text import value_text

if TYPE_CHECKING:
    import pandas as pd

_SCHEMA_VERSION = 1


class Step(NamedTuple):
    """Where a comparison was after ``n`` examples: the mean difference so far and its interval."""

    n: int
    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison(Shown, HasExamples):
    """Two programs on the same examples. Differences are B − A.

    Attributes:
        verdict: "B better", "A better", "no practical difference" or "inconclusive".
        effect: Mean difference of the scores, in [-1, 1]; NaN if nothing was compared.
        interval: Of the effect, at ``confidence``; ``(nan, nan)`` if the data contradict every difference.
        p_value: Of no difference, adjusted for the number of candidates (Holm's with one look, Bonferroni's
            else), so it is held against ``overall_confidence``; with ``sequential`` it holds at whatever
            time one looks.
        n: Examples that both answered.
        n_at_verdict: Examples that the verdict took; ``None`` without one.
        n_planned: Examples that it could have had.
        b_wins: Examples on which B scored higher.
        a_wins: Examples on which A did.
        more_needed: About how many more examples would settle it: the sequence that decides is played on from where
            it stands, with differences like those seen, and half of the time it takes at most so many; with one
            look, how many it takes in all, less those there are, with a power of 80 %.
            ``None`` if it is settled, no number up to a million is enough, or nothing can be said: there is
            no difference, and no margin for it to lie within.
        method: The test and the interval, in words.
        margin: Largest difference that makes no practical difference.
        confidence: 1 − α of the interval, after the correction for several candidates.
        overall_confidence: 1 − α of all candidates together; with one, the same.
        candidates: How many were compared with the same A.
        sequential: Whether it may be looked at, and stopped, at any time.
        a: The score of A and everything behind it, on the same examples as B.
        b: The same of B.
        a_name: Reference or name of A.
        b_name: Reference or name of B; evidence is about this one.
        latency_ratio: Median of B's latency over A's, example by example, cache hits left out.
        usd_ratio: B's price over A's; ``None`` if one is not known or nothing.
        tokens_ratio: B's tokens over A's; ``None`` likewise.
        complete: False if it was interrupted.
        warnings: What a reader must know.
        path: The interval after each example, at most 500 of them.
        flips: The examples on which the two differ, in the order of the data set.
        seed: Of the order of the examples.
        data_fingerprint: Of the whole data set.
        metric: Its name.
        duration_s: Time it took.
    """

    verdict: Verdict
    effect: float
    interval: tuple[float, float]
    p_value: float
    n: int
    n_at_verdict: int | None
    n_planned: int
    b_wins: int
    a_wins: int
    more_needed: int | None
    method: str
    margin: float
    confidence: float
    overall_confidence: float
    candidates: int
    sequential: bool
    a: Evaluation
    b: Evaluation
    a_name: str
    b_name: str
    latency_ratio: Ratio | None
    usd_ratio: float | None
    tokens_ratio: float | None
    complete: bool
    warnings: tuple[str, ...]
    path: tuple[Step, ...]
    flips: tuple[Flip, ...]
    seed: int
    data_fingerprint: str
    metric: str
    duration_s: float

    @property
    def fixed(self) -> tuple[Flip, ...]:
        """The examples that B does better, the largest difference first."""
        return tuple(sorted((f for f in self.flips if f.difference > 0), key=lambda f: -f.difference))

    @property
    def broken(self) -> tuple[Flip, ...]:
        """The examples that B does worse, the largest difference first."""
        return tuple(sorted((f for f in self.flips if f.difference < 0), key=lambda f: f.difference))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What stands out in the answers of each arm, which its text names; ``where`` is "A" or "B"."""
        arms = (("A", self.a_name, self.a), ("B", self.b_name, self.b))
        return tuple(
            under(one, arm, f"{arm} ({name})") for arm, name, found in arms for one in found.findings
        )

    @property
    def not_worse(self) -> bool:
        """Whether B is shown to be at most ``margin`` worse, which is enough for a cheaper program."""
        return self.interval[0] > -self.margin and (self.sequential or self.complete)

    def to_evidence(self, *, passed: bool | None = None, rule: str | None = None) -> ComparisonEvidence:
        """Return what a registry records with a promotion of B.

        Its ``confidence`` is that of the interval. Where B was one of several candidates, it also says of how
        many, and the overall confidence that the p-value is held against.

        Args:
            passed: Whether it is a yes; by default it is if B is better.
            rule: The rule that says so, in words.
        """
        several = self.candidates > 1
        return ComparisonEvidence.of(
            self,
            ref=self.b_name if "@" in self.b_name else None,
            baseline=self.a_name,
            score=self.b.score,
            program_sha256=self.b.program_sha256,
            base_model=self.b.base_model,
            candidates=self.candidates if several else None,
            overall_confidence=self.overall_confidence if several else None,
            passed=passed,
            rule=rule,
        )

    def to_dict(self, *, results: bool = True) -> dict[str, Any]:
        """Return everything as JSON data; without ``results``, without single examples."""
        data = {name: value for name, value in vars(self).items() if results or name not in ("flips", "path")}
        arms = {name: getattr(self, name).to_dict(results=results) for name in ("a", "b")}
        latency = None if self.latency_ratio is None else self.latency_ratio._asdict()
        path = {"path": [step._asdict() for step in self.path]} if results else {}
        own = plain(
            {**data, "latency_ratio": latency, "a": None, "b": None, **path, "findings": self.findings}
        )
        return {"schema_version": _SCHEMA_VERSION, **own, **arms}

    def example_table(self) -> ExampleTable:
        """Return the examples with what came of them for A and for B."""
        title = f"{self.a_name} (A) and {self.b_name} (B), {self.metric}"
        return ExampleTable.of(title, {"A": self.a.results, "B": self.b.results})

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each example: inputs, labels, and of each program score, answer and error."""
        return self.example_table().to_frame()


@dataclass(frozen=True)
class Comparisons(Shown):
    """Several candidates, each compared with the same baseline; iterates over the comparisons.

    A candidate is B of its comparison, found by its name or its place; any of them is evidence by itself.

    Attributes:
        comparisons: One for each candidate, in the order given.
        baseline: Name of the baseline, which is A of every comparison.
        confidence: 1 − α of all comparisons together.
        margin: Largest difference that makes no practical difference.
        sequential: Whether it may be looked at, and stopped, at any time.
        metric: Its name.
        n_planned: Examples that there were for each.
        seed: Of the order of the examples.
        warnings: What holds for all; each comparison has them too.
        duration_s: Time it took.
    """

    comparisons: tuple[Comparison, ...]
    baseline: str
    confidence: float
    margin: float
    sequential: bool
    metric: str
    n_planned: int
    seed: int
    warnings: tuple[str, ...]
    duration_s: float

    @property
    def ranking(self) -> tuple[Comparison, ...]:
        """The comparisons, those shown to be better first, then by what the candidate scored more than A."""

        def place(one: Comparison) -> tuple[bool, float]:
            return one.verdict != "B better", -one.effect if one.n else math.inf

        return tuple(sorted(self.comparisons, key=place))

    @property
    def winner(self) -> Comparison | None:
        """The comparison of the candidate that is better than the baseline, ``None`` if none is.

        If several are better, it is the one with the largest difference; that it is better than the others of
        them was not tested.
        """
        first = self.ranking[0]
        return first if first.verdict == "B better" else None

    @property
    def complete(self) -> bool:
        """False if it was interrupted."""
        return all(one.complete for one in self.comparisons)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What stands out in the answers of the baseline ("A"), and in those of each candidate ("B")."""
        return tuple(dict.fromkeys(finding for one in self.comparisons for finding in one.findings))

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.comparisons)

    def __iter__(self) -> Iterator[Comparison]:
        """Go through the comparisons in the order given."""
        return iter(self.comparisons)

    def __getitem__(self, candidate: str | int) -> Comparison:
        """Return the comparison of a candidate, by its name or its place.

        Raises:
            NotFound: There is none.
        """
        names = [one.b_name for one in self.comparisons]
        if isinstance(candidate, str) and candidate in names:
            return self.comparisons[names.index(candidate)]
        if isinstance(candidate, int) and -len(names) <= candidate < len(names):
            return self.comparisons[candidate]
        raise NotFound(f"no candidate {value_text(candidate)}: there are {', '.join(names)}")

    def to_dict(self, *, results: bool = True) -> dict[str, Any]:
        """Return everything as JSON data; without ``results``, without single examples."""
        winner = self.winner
        return {
            "schema_version": _SCHEMA_VERSION,
            **plain({**vars(self), "comparisons": None}),
            "complete": self.complete,
            "winner": None if winner is None else winner.b_name,
            "comparisons": [one.to_dict(results=results) for one in self.comparisons],
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each candidate, as in ``ranking``."""
        import pandas as pd

        rows = [
            {
                "candidate": one.b_name,
                "verdict": one.verdict,
                "effect": one.effect,
                "low": one.interval[0],
                "high": one.interval[1],
                "confidence": one.confidence,
                "p_value": one.p_value,
                "n": one.n,
                "score": one.b.score,
                "baseline_score": one.a.score,
                "errors": one.b.errors.count,
            }
            for one in self.ranking
        ]
        return pd.DataFrame(rows)
