"""What racing saves and loses, beside the same search without it.

    python benchmarks/racing.py [--seeds 40] [--threads 1]

Sixteen candidates on 200 examples, each candidate of known true accuracy (``population.py``), through DSPy's own
BootstrapFewShotWithRandomSearch and MIPROv2. Each seed is searched by bare DSPy, by dspy_nb without a race, with
the exact and the paired rule, and with the rule of Optuna's WilcoxonPruner (a signed-rank test at p 0.1 and 0.05)
in place of the paired one. Prints the answers asked as a ratio to those of the search without a race, how often
the winner is the same, and the points of true accuracy that are lost in the mean.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("DSPY_CACHEDIR", tempfile.mkdtemp(prefix="dspy-nb-bench-"))

import dspy
from population import MIPRO, RANDOM_SEARCH, Population, Proposer, setting
from scipy.stats import wilcoxon

import dspy_nb as nb
from dspy_nb.core.supervision import racing

VAL = 200


@contextlib.contextmanager
def wilcoxon_rule(level: float) -> Iterator[None]:
    """Let the paired rule give up as Optuna's WilcoxonPruner does: at every answer, from the second on."""

    def is_worse(differences: list[float], mean: float, error: float) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few differences, or none
            found = wilcoxon(differences, alternative="less", zero_method="zsplit")
        return bool(found.pvalue < level) and mean < 0

    saved = racing.is_worse
    racing.is_worse = is_worse
    try:
        yield
    finally:
        racing.is_worse = saved


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


def compare(method: dict[str, Any], seeds: int, threads: int) -> None:
    found: dict[str, list[tuple[int, Any, float]]] = defaultdict(list)
    for seed in range(seeds):
        for name, search in WAYS.items():
            task = setting(VAL, seed)
            program: Population = task["program"]
            with dspy.context(lm=dspy.LM("scripted/proposer", engine=Proposer(), cache=False)):
                best = search(task, method, threads, seed)
            found[name].append((program.counter.n, best.identity, best.true_accuracy))
    print(f"\n{method['optimizer']}, {seeds} seeds, 16 candidates, {VAL} examples, {threads} threads")
    print(f"{'':18}{'answers':>9}{'same winner':>13}{'points lost':>13}")
    usual = found["race=None"]
    for name, runs in found.items():
        ratio = sum(n for n, _, _ in runs) / sum(n for n, _, _ in usual)
        same = sum(run[1] == other[1] for run, other in zip(runs, usual, strict=True)) / seeds
        lost = 100 * sum(other[2] - run[2] for run, other in zip(runs, usual, strict=True)) / seeds
        print(f"{name:18}{ratio:9.2f}{same:13.1%}{lost:13.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for method in (RANDOM_SEARCH, MIPRO):
        compare(method, arguments.seeds, arguments.threads)


if __name__ == "__main__":
    main()
