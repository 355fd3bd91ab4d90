"""What a comparison found: the verdict, the numbers behind it, and the examples behind those."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dspy_nb.core.plain import plain
from dspy_nb.core.scorecard import Evaluation
from dspy_nb.core.stats import Ratio, Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Flip", "Step"]

_SCHEMA_VERSION = 1


class Step(NamedTuple):
    """Where a comparison was after ``n`` examples: the mean difference so far and its interval."""

    n: int
    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Flip:
    """An example on which the two differ.

    Attributes:
        index: Its place in the data set, from 0.
        inputs: What both were given.
        expected: The labels.
        a: The fields of A's answer; empty if it failed.
        b: Those of B's.
        difference: Score of B less that of A: positive where B fixed something, negative where it broke it.
    """

    index: int
    inputs: dict[str, Any]
    expected: dict[str, Any]
    a: dict[str, Any]
    b: dict[str, Any]
    difference: float


@dataclass(frozen=True)
class Comparison:
    """Two programs on the same examples. Differences are B − A.

    Attributes:
        verdict: "B better", "A better", "no practical difference" or "inconclusive".
        effect: Mean difference of the scores, in [-1, 1]; NaN if nothing was compared.
        interval: Of the effect, at ``confidence``; ``(nan, nan)`` if the data contradict every difference.
        p_value: Of no difference; with ``sequential`` it holds at whatever time one looks.
        n: Examples that both answered.
        n_at_verdict: Examples that the verdict took; ``None`` without one.
        n_planned: Examples that it could have had.
        b_wins: Examples on which B scored higher.
        a_wins: Examples on which A did.
        more_needed: About how many more examples would settle it, if the true difference is the one seen;
            ``None`` if it is settled or nothing can be said.
        method: The test and the interval, in words.
        margin: Largest difference that makes no practical difference.
        confidence: 1 − α, after the correction for several candidates.
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
    def not_worse(self) -> bool:
        """Whether B is shown to be at most ``margin`` worse, which is enough for a cheaper program."""
        return self.interval[0] > -self.margin

    def to_evidence(self) -> dict[str, Any]:
        """Return what a registry records with a promotion of B."""
        evidence = {
            "kind": "ab",
            "verdict": self.verdict,
            "baseline": self.a_name,
            "effect": self.effect,
            "interval": list(self.interval),
            "p_value": self.p_value,
            "n": self.n,
            "margin": self.margin,
            "confidence": self.confidence,
            "method": self.method,
            "metric": self.metric,
            "score": self.b.score,
            "data_fingerprint": self.data_fingerprint,
        }
        return {**plain(evidence), **({"ref": self.b_name} if "@" in self.b_name else {})}

    def to_dict(self, *, results: bool = True) -> dict[str, Any]:
        """Return everything as JSON data; without ``results``, without single examples."""
        data = {name: value for name, value in vars(self).items() if results or name not in ("flips", "path")}
        arms = {name: getattr(self, name).to_dict(results=results) for name in ("a", "b")}
        latency = None if self.latency_ratio is None else self.latency_ratio._asdict()
        path = {"path": [step._asdict() for step in self.path]} if results else {}
        return {
            "schema_version": _SCHEMA_VERSION,
            **plain({**data, "latency_ratio": latency, "a": None, "b": None, **path}),
            **arms,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each example: inputs, labels, and of each program score, answer and error."""
        import pandas as pd

        rows = []
        for a, b in zip(self.a.results, self.b.results, strict=True):
            row: dict[str, Any] = {"index": a.index, **a.inputs, **a.expected}
            for arm, result in (("a", a), ("b", b)):
                row |= {f"{arm}_{name}": value for name, value in result.predicted.items()}
                row[f"{arm}_score"] = float(result.score or 0)
                row[f"{arm}_error"] = result.error.kind if result.error else None
                row[f"{arm}_latency_ms"] = result.latency_ms
            row["difference"] = row["b_score"] - row["a_score"]
            rows.append(row)
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        """Return the verdict in a line."""
        low, high = self.interval
        points = f"{100 * self.effect:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        if math.isnan(self.effect):
            points = "nothing compared"
        return f"<Comparison {self.a_name} (A) and {self.b_name} (B): {self.verdict}, {points}, n={self.n}>"
