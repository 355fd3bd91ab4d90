"""All comparisons with the alternatives, as one table of ratios from one run.

    python benchmarks/results.py [--write] [--mlflow PYTHON] [--quick]

``--write`` keeps the table in RESULTS.md beside this file, with the date; it is refused where the machine is busy.
MLflow wants older versions of some packages: ``--mlflow`` names the Python of an environment that has the extra
``bench``. Ratios are ours to theirs: below 1 ours takes less.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("DSPY_CACHEDIR", tempfile.mkdtemp(prefix="dspy-nb-bench-"))

import ab
import cluster
import dspy
import evaluate
import population
import psutil
import racing

from dspy_nb.core.statistics.sample_sizes import sample_size_paired

_HERE = Path(__file__).parent
_BUSY = 0.15  # of all processors, while nothing of ours runs
_PACKAGES = ("dspy-nb", "dspy", "distributed", "optuna", "mlflow-skinny")


class Row(NamedTuple):
    """One comparison.

    Attributes:
        what: What was done.
        other: With what it is compared.
        unit: Of both numbers.
        ours: How much ours took.
        theirs: How much the other one took.
    """

    what: str
    other: str
    unit: str
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """Ours to theirs."""
        return self.ours / self.theirs


def loops(rounds: int) -> Iterator[Row]:
    """Compare evaluate() with dspy.Evaluate and a bare thread pool."""
    evaluate.measure([evaluate.ours, evaluate.dspys], 200, 8, 0.0, 1)  # warm up
    for n in (1000, 5000):
        a, b = evaluate.measure([evaluate.ours, evaluate.dspys], n, 8, 0.0, rounds)
        yield Row(f"evaluate {n:,} examples, instant answers, 8 threads", "dspy.Evaluate", "s", a, b)
    a, b, c = evaluate.measure([evaluate.ours, evaluate.dspys, evaluate.pool], 2000, 128, 0.05, rounds)
    yield Row("evaluate 2,000 examples at 50 ms, 128 threads", "dspy.Evaluate", "s", a, b)
    yield Row("the same", "bare thread pool", "s", a, c)


def workers(rounds: int) -> Iterator[Row]:
    """Compare a cluster of this machine with one process, and with the ideal."""
    found = cluster.walls(2000, 2, 32, rounds)
    what = "evaluate 2,000 examples at 50 ms, 2 workers x 32 threads"
    yield Row(what, "one process, 64 threads", "s", found["cluster"], found["one process"])
    yield Row("the same", "bare thread pools in the same workers", "s", found["cluster"], found["bare pools"])
    yield Row("the same", "ideal: examples x 50 ms / 64", "s", found["cluster"], found["ideal"])
    what = "the same, of a program that only waits"
    yield Row(what, "ideal: examples x 50 ms / 64", "s", found["waits only"], found["ideal"])


def verdicts(comparisons: int) -> Iterator[Row]:
    """Compare the LM calls to a verdict with those of a fixed design of 80 % power."""
    for effect in (0.1, 0.2):
        calls = [ab.one_comparison(effect, 0.0, seed)[0] for seed in range(comparisons)]
        fixed = 2 * sample_size_paired(effect, 0.3)
        what = f"compare two programs, true difference {effect:.0%}, median of {comparisons}"
        yield Row(what, "fixed n, 80 % power", "LM calls", statistics.median(calls), fixed)


def races(seeds: int) -> Iterator[Row]:
    """Compare raced searches with the same ones without a race."""
    method = population.RANDOM_SEARCH
    asked = {
        way: [racing.search(method, 1, seed, way) for seed in range(2000, 2000 + seeds)]
        for way in ("race=None", "exact", "paired")
    }
    for way in ("exact", "paired"):
        pairs = zip(asked[way], asked["race=None"], strict=True)
        same = sum(one[1] == other[1] for one, other in pairs)
        what = f"random search, 16 candidates x 200, {way}; same winner in {same} of {seeds}"
        mine, usual = (sum(n for n, _, _ in asked[name]) for name in (way, "race=None"))
        yield Row(what, "no race", "answers", mine, usual)


def registries(python: str) -> Iterator[Row]:
    """Compare the registry with MLflow's, in an environment that has both."""
    command = [python, str(_HERE / "registry.py"), "--sizes", "1000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} cannot compare registries: {done.stderr.strip().splitlines()[-1]}")
    mine, other = json.loads(done.stdout.splitlines()[-1])
    for what in ("register", "promote", "list", "list, opened anew"):
        yield Row(f"registry of 1,000 versions: {what}", "MLflow", "ms", mine[what], other[what])


def busy() -> float:
    """Return the share of all processors that others are using."""
    return psutil.cpu_percent(interval=3.0) / 100


def table(rows: list[Row], load: float, python: str | None) -> str:
    """Return the table as Markdown."""
    versions = [f"{name} {found}" for name in _PACKAGES if (found := version(name, python))]
    processor = platform.processor() or platform.machine()
    lines = [
        "# Results",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} processors ({processor}), Python "
        f"{platform.python_version()}, {', '.join(versions)}; load before: {load:.0%}.",
        "Made by `make results`. Ratios are ours to theirs: below 1 ours takes less.",
        "",
        "| what | compared with | ours | theirs | ratio |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows:
        both = " | ".join(f"{number(one)} {row.unit}" for one in (row.ours, row.theirs))
        lines.append(f"| {row.what} | {row.other} | {both} | {row.ratio:.2f} |")
    return "\n".join([*lines, ""])


def number(value: float) -> str:
    """Return a number with three digits, or all that come before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def version(package: str, python: str | None) -> str | None:
    """Return the version of a package, here or in the other environment."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if python is None:
            return None
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep it in RESULTS.md")
    parser.add_argument("--mlflow", metavar="PYTHON", help="of an environment with the extra bench")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; never written")
    given = parser.parse_args()
    load = busy()
    if given.write and load > _BUSY:
        sys.exit(f"the machine is busy ({load:.0%} of its processors): nothing is measured or written")
    if given.write and given.quick:
        sys.exit("--quick measures too little to be kept")
    dspy.disable_logging()
    few = given.quick
    last = [*registries(given.mlflow)] if given.mlflow else []  # measured first, for it may not be possible
    rows = [*loops(1 if few else 5), *workers(1 if few else 5), *verdicts(5 if few else 31)]
    rows += [*races(2 if few else 20), *last]
    text = table(rows, load, given.mlflow)
    print(text)
    if given.write:
        (_HERE / "RESULTS.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
