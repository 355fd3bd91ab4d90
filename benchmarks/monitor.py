"""The quality monitor: how soon it finds a loss of ten points, and how often it is wrong in a year.

    python benchmarks/monitor.py [--runs 300] [--years 200]

Beside it what dashboards do: every day a z-test of that day's outcomes, or of all outcomes since the deployment,
against what is tolerated, at 5 %. Outcomes are yes or no. For the loss they are right in .90 of cases and then in
.80, with .88 tolerated; in the year without a change they are right exactly as often as is tolerated.
"""

from __future__ import annotations

import argparse
import math
from statistics import NormalDist

import numpy as np

from dspy_nb.core.statistics.degradation import DegradationTest

_TOLERATED, _DAYS, _A_DAY = 0.88, 365, 600
_CRITICAL = NormalDist().inv_cdf(0.95)


def requests_to_alarm(good: int, seed: int) -> float:
    """Return after how many bad requests the alarm comes; NaN if it came before the first of them."""
    rng = np.random.default_rng(seed)
    test = DegradationTest(_TOLERATED)
    test.update_many(rng.random(good) < 0.9)
    if test.degraded:
        return math.nan
    test.update_many(rng.random(6000) < 0.8)
    return (test.alarm_at or math.inf) - good


def false_alarms(seed: int) -> tuple[bool, bool, bool]:
    """Return who raises an alarm in a year without a change: the monitor, a test a day, a test of all so far."""
    right = np.random.default_rng(seed).random((_DAYS, _A_DAY)) < _TOLERATED
    test = DegradationTest(_TOLERATED)
    test.update_many(right.ravel())
    spread = math.sqrt(_TOLERATED * (1 - _TOLERATED))
    days = (right.mean(axis=1) - _TOLERATED) / spread * math.sqrt(_A_DAY)
    n = _A_DAY * np.arange(1, _DAYS + 1)
    so_far = (right.sum(axis=1).cumsum() / n - _TOLERATED) / spread * np.sqrt(n)
    return test.degraded, bool((days < -_CRITICAL).any()), bool((so_far < -_CRITICAL).any())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--years", type=int, default=200)
    given = parser.parse_args()
    print(f"requests until the alarm, {given.runs} runs")
    print("good requests before    half  9 of 10  99 of 100  false alarms before")
    for good in (0, 1_000, 10_000):
        found = np.array([requests_to_alarm(good, seed) for seed in range(given.runs)])
        late = found[~np.isnan(found)]
        # "higher": so many are enough in at least that share of the cases
        half, most, nearly = np.quantile(late, [0.5, 0.9, 0.99], method="higher")
        print(f"{good:20,}  {half:6,.0f}  {most:7,.0f}  {nearly:9,.0f}  {np.isnan(found).mean():19.1%}")
    alarms = np.mean([false_alarms(seed) for seed in range(given.years)], axis=0)
    print(f"\nyears without a change that raise an alarm, of {given.years}")
    for name, rate in zip(("monitor", "a z-test of each day", "a z-test of all so far"), alarms, strict=True):
        ratio = f"  {rate / alarms[0]:.0f} times as many" if rate != alarms[0] and alarms[0] else ""
        print(f"{name:22}  {rate:6.1%}{ratio}")


if __name__ == "__main__":
    main()
