"""From the events of an experiment to its status: read what is new, bring the verdict forward, count."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dspy_nb.core.ab.assignment import Assignments
from dspy_nb.core.ab.definition import Definition
from dspy_nb.core.ab.judging import FAILING, warn_of_counts
from dspy_nb.core.ab.ledger import Ledger
from dspy_nb.core.ab.status import Arm, Conclusion, ExperimentStatus, FixedTest
from dspy_nb.core.errors import Corrupt, DspyNbError
from dspy_nb.core.evaluation.scorecard import Latency
from dspy_nb.core.evaluation.summary import quantile
from dspy_nb.core.statistics.assignment import srm_p_value
from dspy_nb.core.statistics.forecast import more_units
from dspy_nb.core.statistics.proportions import (
    critical_value,
    newcombe_interval,
    score_interval,
    two_proportion_z,
)
from dspy_nb.core.traffic.columns import CACHED, ERROR, FIRST, IS_B, LATE, Columns, count_ready

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SRM: Final = 0.001
_UNITS_PER_CHECKPOINT: Final = 20_000
_UNITS_PER_DIGEST: Final = 65_536
_CHECKPOINT_VERSION: Final = 1
_METHOD: Final = "two-arm betting confidence sequence in the order of assignment, valid at every look"
_ONE_LOOK: Final = (
    "valid for one look, at a size fixed beforehand; who looks repeatedly finds winners that are none"
)


class Watch:
    """The status of one experiment, kept up to date by this process."""

    def __init__(self, definition: Definition, traffic: Assignments) -> None:
        self._definition, self._traffic = definition, traffic
        self._columns = Columns()
        self._ledger: Ledger | None = None
        self._next = 0  # index of the first event that is not in the ledger
        self._saved = 0  # units in the ledger when it was last stored
        self._forecast: tuple[int, float, int | None] | None = None  # at how many units, at which split, what
        self._digests = [""]  # of 0, 1, 2, ... full blocks of units

    def status(self) -> ExperimentStatus:
        """Read what is new and return the status.

        Raises:
            Corrupt: What the file holds makes no sense.
        """
        try:
            return self._look()
        except DspyNbError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise Corrupt(f"{self._traffic.path} holds what no experiment does: {error!r:.200}") from error

    def _look(self) -> ExperimentStatus:
        raw = self._traffic.fact("conclusion")
        conclusion = None if raw is None else Conclusion.from_dict(raw, self._traffic.path)
        if conclusion is None:
            self._traffic.expire()
        self._columns.refresh(self._traffic)
        most = math.inf if conclusion is None else conclusion.n
        ledger = self._ledger or self._restore()
        if ledger.n > most:  # units came in while another process concluded
            ledger, self._next = Ledger(self._definition.confidence, self._definition.margin), 0
        self._ledger = ledger
        held_back = self._count(ledger, most)
        if ledger.n >= self._saved + _UNITS_PER_CHECKPOINT:
            self._save(ledger)
        return self._status(ledger, held_back, conclusion)

    def _restore(self) -> Ledger:
        """Return the ledger as another process last stored it, or a new one."""
        stored = self._traffic.fact("checkpoint")
        if stored is not None and stored["version"] == _CHECKPOINT_VERSION:
            ledger = Ledger.from_state(stored["ledger"])
            self._next, self._saved = stored["next"], ledger.n
            return ledger
        return Ledger(self._definition.confidence, self._definition.margin)

    def _save(self, ledger: Ledger) -> None:
        stored = {"version": _CHECKPOINT_VERSION, "next": self._next, "ledger": ledger.to_state()}
        self._traffic.set_fact("checkpoint", stored, replace=True)
        self._saved = ledger.n

    def _count(self, ledger: Ledger, most: float) -> int:
        """Add to the ledger all units up to the first that is still open; return how many are held back."""
        flags = self._columns.flags[self._next :]
        places = np.flatnonzero(flags & FIRST) + self._next
        is_open = np.isnan(self._columns.outcome[places]) & ((self._columns.flags[places] & LATE) == 0)
        ready = count_ready(is_open)
        taken = places[: int(min(ready, most - ledger.n))]
        if len(taken):
            ledger.add(*self._read_units(taken))
        if ready < len(places):
            self._next = int(places[ready])
        elif len(taken) == len(places):
            self._next = len(self._columns)
        return int((~is_open[ready:]).sum())

    def _read_units(self, places: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return arm, outcome and split of units: an outcome that came late or never counts as missing."""
        flags = self._columns.flags[places]
        outcome = np.where(flags & LATE, self._definition.missing, self._columns.outcome[places])
        return (flags & IS_B) > 0, outcome, self._columns.share[places]

    def _status(self, ledger: Ledger, held_back: int, conclusion: Conclusion | None) -> ExperimentStatus:
        found, columns = self._definition, self._columns
        arms = [self._describe_arm(arm, ledger) for arm in (0, 1)]
        a, b = arms
        first = (columns.flags & FIRST) > 0
        due = float(columns.share[first].sum())
        srm = srm_p_value((a.units, b.units), (a.units + b.units - due, due)) if due else 1.0
        low, high = ledger.sequence.interval
        blocked = _find_blocks(srm, a, b, due, low)
        verdict = "inconclusive" if blocked else ledger.verdict
        open_question = verdict == "inconclusive" and not blocked
        splits = self._traffic.splits()
        path = ledger.path if ledger.path and ledger.path[-1].n == ledger.n else [*ledger.path, ledger.step()]
        return ExperimentStatus(
            name=found.name,
            verdict=verdict,
            blocked=blocked,
            effect=ledger.effect,
            interval=(low, high),
            p_value=ledger.sequence.p_value,
            n=ledger.n,
            n_at_verdict=None if verdict == "inconclusive" else ledger.n_at_verdict,
            more_needed=self._forecast_more(ledger, splits[-1][0]) if open_question else None,
            a=a,
            b=b,
            total=a.requests + b.requests,
            held_back=held_back,
            split=splits[-1][0],
            margin=found.margin,
            confidence=found.confidence,
            fixed=_test_once(found, ledger, a, b),
            srm_p_value=srm,
            warnings=(*self._traffic.file.missing(), *_find_warnings(a, b, held_back)),
            path=tuple(path) if ledger.n else (),
            outcome_within_s=found.outcome_within_s,
            missing=found.missing,
            created_at=found.created_at,
            method=_METHOD,
            data_fingerprint=self._hash_units(ledger.n),
            conclusion=conclusion,
        )

    def _describe_arm(self, arm: int, ledger: Ledger) -> Arm:
        found, flags = self._definition, self._columns.flags
        counts = np.bincount(flags, minlength=32)
        kinds = np.arange(32)
        mine = (kinds & IS_B > 0) == bool(arm)

        def count(of: int) -> int:
            return int(counts[mine & (kinds & of == of)].sum())

        undecided = (flags[self._next :] & (FIRST | LATE | IS_B)) == FIRST | (IS_B * arm)
        waiting = int(np.isnan(self._columns.outcome[self._next :][undecided]).sum())
        counted, successes = ledger.units[arm], ledger.successes[arm]
        rate = successes / counted if counted else math.nan
        z = critical_value(found.confidence)
        return Arm(
            name=(found.a, found.b)[arm],
            requests=count(0),
            units=count(FIRST),
            counted=counted,
            successes=successes,
            success_rate=rate,
            interval=score_interval(rate, counted, z) if counted else (0.0, 1.0),
            waiting=waiting,
            expired=count(FIRST | LATE),
            errors=count(ERROR),
            cached=count(CACHED),
            latency=self._summarize_latency(arm),
        )

    def _summarize_latency(self, arm: int) -> Latency | None:
        ordered: Any = self._columns.latencies[arm]
        if not len(ordered):
            return None
        below = [quantile(ordered, share) / 1000 for share in (0.5, 0.95, 0.99)]
        return Latency(len(ordered), float(ordered.mean()) / 1000, *map(float, below))

    def _forecast_more(self, ledger: Ledger, split: float) -> int | None:
        """Return the figure of these units, which takes longer than the rest: worked out once."""
        if (known := self._forecast) is None or known[:2] != (ledger.n, split):
            seen = ledger.sequence, ledger.units, ledger.successes
            margin, effect = self._definition.margin, ledger.effect
            figure = more_units(*seen, split, margin, effect=effect, graded=ledger.graded)
            known = self._forecast = (ledger.n, split, figure)
        return known[2]

    def _hash_units(self, n: int) -> str:
        """Return a hash of the first ``n`` units; those of full blocks are kept."""
        places = np.flatnonzero(self._columns.flags & FIRST)[:n]
        for end in range(len(self._digests) * _UNITS_PER_DIGEST, n + 1, _UNITS_PER_DIGEST):
            self._digests.append(self._hash_block(self._digests[-1], places[end - _UNITS_PER_DIGEST : end]))
        full = n // _UNITS_PER_DIGEST
        return self._hash_block(self._digests[full], places[full * _UNITS_PER_DIGEST :])

    def _hash_block(self, before: str, places: NDArray[Any]) -> str:
        digest = hashlib.sha256(before.encode())
        for column in self._read_units(places):
            digest.update(column.astype("<f8").tobytes())
        return digest.hexdigest()


def _test_once(found: Definition, ledger: Ledger, a: Arm, b: Arm) -> FixedTest:
    refused = None
    if len(ledger.splits) > 1:
        refused = "the split changed, so the arms hold different shares of early and late units"
    elif ledger.graded:
        refused = "outcomes are graded, and this is a test of success rates"
    z = p_value = low = high = math.nan
    if refused is None:
        successes_a, successes_b = round(a.successes), round(b.successes)
        z, p_value = two_proportion_z(successes_a, a.counted, successes_b, b.counted)
        low, high = newcombe_interval(successes_b, b.counted, successes_a, a.counted, found.confidence)
    enough = min(a.counted, b.counted) >= found.min_samples
    significant = refused is None and enough and abs(z) > critical_value(found.confidence)
    return FixedTest(
        significant=significant,
        winner=(b.name if z > 0 else a.name) if significant else None,
        z=z,
        p_value=p_value,
        interval=(low, high),
        min_samples=found.min_samples,
        confidence=found.confidence,
        refused=refused,
        warning=_ONE_LOOK,
    )


def _find_blocks(srm: float, a: Arm, b: Arm, due: float, low: float) -> tuple[str, ...]:
    blocked = []
    if srm < _SRM:
        blocked.append(
            f"sample-ratio mismatch: {b.units:,} of {a.units + b.units:,} units are in B where the split makes "
            f"{due:,.0f} of them likely (p {srm:.1g}): assignment or logging is broken"
        )
    if math.isnan(low):
        blocked.append(
            "drift: the data contradict every constant difference, so it changed while the experiment ran, or "
            "units are not in the order in which they were assigned"
        )
    return tuple(blocked)


def _find_warnings(a: Arm, b: Arm, held_back: int) -> tuple[str, ...]:
    waiting = (
        f"{held_back:,} units with an outcome wait for one before them that has none yet; counting them now would "
        "favour the program whose outcomes come sooner"
    )
    failed = "A failed on {:,} requests and B on {:,}; failures count as outcome 0"
    expired = "the outcome did not come in time for {:,} units of A and {:,} of B"
    return (
        *[waiting] * (held_back > 0),
        *warn_of_counts((a.errors, b.errors), (a.requests, b.requests), failed, FAILING),
        *warn_of_counts((a.expired, b.expired), (a.units, b.units), expired, "that differs so much that it"),
    )
