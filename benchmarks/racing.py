"""What racing saves and loses, beside the same search without it.

    python benchmarks/racing.py [--seeds 40] [--threads 1] [--optimizer MIPROv2] [--way exact] [--out FILE]

Sixteen candidates on 200 examples, each candidate of known true accuracy (``population.py``), through DSPy's own
BootstrapFewShotWithRandomSearch or MIPROv2. Each seed is searched by bare DSPy, by dspy_nb without a race, with
the exact and the paired rule, and with the rule of Optuna's WilcoxonPruner in place of the paired one (a
signed-rank test at p 0.1 or 0.05, at every answer from the second on). Prints the answers asked as a ratio to those
of the search without a race, how often the winner is the same, and the points of true accuracy that are lost in
the mean, with its standard error: every 25 seeds, of those so far.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

os.environ.setdefault("DSPY_CACHEDIR", tempfile.mkdtemp(prefix="dspy-nb-bench-"))

import dspy
from population import MIPRO, RANDOM_SEARCH, Population, Proposer, setting

import dspy_nb as nb
from dspy_nb.core.supervision import racing

VAL = 200
Row: TypeAlias = tuple[int, str, float]
METHODS = {str(method["optimizer"]): method for method in (RANDOM_SEARCH, MIPRO)}


def p_value(worse: int, same: int, better: int) -> float:
    """Return what ``scipy.stats.wilcoxon(differences, alternative="less", zero_method="zsplit")`` does, faster.

    Args:
        worse: how many differences are -1.
        same: how many are 0.
        better: how many are 1.
    """
    n, unequal = worse + same + better, worse + better
    if n <= 13:  # of the signs, all are tried
        return sum(math.comb(unequal, k) for k in range(better + 1)) / 2**unequal
    ranks = same * (same + 1) / 4 + better * (same + (unequal + 1) / 2)
    ties = same * (same**2 - 1) + unequal * (unequal**2 - 1)
    deviation = math.sqrt((n * (n + 1) * (2 * n + 1) - ties / 2) / 24)
    return statistics.NormalDist().cdf((ranks - n * (n + 1) / 4) / deviation)


@contextlib.contextmanager
def wilcoxon_rule(level: float) -> Iterator[None]:
    """Let the paired rule give up as Optuna's WilcoxonPruner does."""

    def is_worse(differences: list[float], mean: float, error: float) -> bool:
        return mean < 0 and p_value(*map(differences.count, (-1, 0, 1))) < level

    with (
        patch.object(racing, "is_worse", is_worse),
        patch.object(racing, "_FIRST_LOOK", 2),
        patch.object(racing, "_LOOK_EVERY", 1),
    ):
        yield


def bare(task: dict[str, Any], method: dict[str, Any], threads: int, seed: int) -> Any:
    """Search with DSPy alone."""
    metric = task["metric"]
    options = method["options"]
    data = {"trainset": task["trainset"], "valset": task["valset"]}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if method is RANDOM_SEARCH:
            optimizer = dspy.BootstrapFewShotWithRandomSearch(metric=metric, num_threads=threads, **options)
            return optimizer.compile(task["program"], **data)
        made = {
            "auto": None,
            "num_candidates": options["num_candidates"],
            "num_threads": threads,
            "seed": seed,
        }
        rest = {name: value for name, value in options.items() if name != "num_candidates"}
        return dspy.MIPROv2(metric=metric, **made).compile(task["program"], **data, **rest, seed=seed)


def ours(race: str | None) -> Callable[..., Any]:
    def search(task: dict[str, Any], method: dict[str, Any], threads: int, seed: int) -> Any:
        return nb.optimize(**task, **method, race=race, num_threads=threads, seed=seed).program

    return search


def by_wilcoxon(level: float) -> Callable[..., Any]:
    def search(*arguments: Any) -> Any:
        with wilcoxon_rule(level):
            return ours("paired")(*arguments)

    return search


WAYS: dict[str, Callable[..., Any]] = {
    "bare DSPy": bare,
    "race=None": ours(None),
    "exact": ours("exact"),
    "paired": ours("paired"),
    "Wilcoxon, p 0.1": by_wilcoxon(0.1),
    "Wilcoxon, p 0.05": by_wilcoxon(0.05),
}


def compare(method: dict[str, Any], ways: list[str], seeds: range, threads: int, out: Path | None) -> None:
    found: dict[str, list[Row]] = defaultdict(list)
    for done, seed in enumerate(seeds, 1):
        known = read(out)
        for name in ways:
            # What nothing gives up is the same in any number of threads.
            its_threads = 1 if name in ("bare DSPy", "race=None") else threads
            key = method["optimizer"], its_threads, seed, name
            row = known.get(key) or search(method, its_threads, seed, name)
            found[name].append(row)
            if out is not None and key not in known:
                with out.open("a") as file:
                    file.write(json.dumps([*key, *row]) + "\n")
        if done % 25 == 0 or done == len(seeds):
            print(f"\n{method['optimizer']}, {done} seeds, 16 candidates, {VAL} examples, {threads} threads")
            summarize(found)


def search(method: dict[str, Any], threads: int, seed: int, name: str) -> Row:
    """Return how many answers a search took, its winner, and the winner's true accuracy."""
    task = setting(VAL, seed)
    program: Population = task["program"]
    with dspy.context(lm=dspy.LM("scripted/proposer", engine=Proposer(), cache=False)):
        best = WAYS[name](task, method, threads, seed)
    return program.counter.n, repr(best.identity), best.true_accuracy


def read(out: Path | None) -> dict[tuple[str, int, int, str], Row]:
    """Return what was found before."""
    if out is None or not out.exists():
        return {}
    rows = map(json.loads, out.read_text().splitlines())
    return {tuple(row[:4]): tuple(row[4:]) for row in rows}


def summarize(found: dict[str, list[Row]]) -> None:
    print(f"{'':18}{'answers':>9}{'same winner':>13}{'points lost':>13}")
    usual = found["race=None"]
    for name, runs in found.items():
        ratio = sum(n for n, _, _ in runs) / sum(n for n, _, _ in usual)
        same = statistics.fmean(run[1] == other[1] for run, other in zip(runs, usual, strict=True))
        lost = [100 * (other[2] - run[2]) for run, other in zip(runs, usual, strict=True)]
        error = statistics.stdev(lost) / math.sqrt(len(lost)) if len(lost) > 1 else math.nan
        print(f"{name:18}{ratio:9.3f}{same:13.1%}{statistics.fmean(lost):13.3f} ± {error:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--optimizer", action="append", choices=[*METHODS])
    parser.add_argument("--way", action="append", choices=[*WAYS], help="besides race=None; all by default")
    parser.add_argument(
        "--out",
        type=Path,
        help="a line of JSON for each search is added; what is there is not searched again",
    )
    arguments = parser.parse_args()
    ways = [name for name in WAYS if not arguments.way or name in ("race=None", *arguments.way)]
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for name in arguments.optimizer or METHODS:
        compare(METHODS[name], ways, seeds, arguments.threads, arguments.out)


if __name__ == "__main__":
    main()
