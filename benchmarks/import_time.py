"""What ``import dspy_nb`` adds to ``import dspy``.

    python benchmarks/import_time.py [--repeats 15]

Each repeat is a fresh interpreter that imports dspy, then dspy_nb, then touches every public name, which is what a
whole session pays at most; it reports the CPU time of each step, which a busy machine inflates less than the time
on the clock.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys

_STEPS = {
    "import dspy": "import dspy",
    "import dspy_nb": "import dspy_nb",
    "every public name of dspy_nb": "[getattr(dspy_nb, name) for name in dspy_nb.__all__]",
}
_PROGRAM = "\n".join(
    [
        "import json, time",
        "times = [time.process_time()]",
        *(f"{statement}\ntimes.append(time.process_time())" for statement in _STEPS.values()),
        "print(json.dumps(times))",
    ]
)


def step_times_ms() -> list[float]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    times = json.loads(done.stdout)
    return [1000 * (after - before) for before, after in itertools.pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description="What import dspy_nb adds to import dspy.")
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    columns = zip(*(step_times_ms() for _ in range(repeats)), strict=True)
    print(f"{'CPU ms':<30}{'median':>8}{'fastest':>9}{'slowest':>9}")
    for name, times in zip(_STEPS, columns, strict=True):
        print(f"{name:<30}{statistics.median(times):>8.1f}{min(times):>9.1f}{max(times):>9.1f}")


if __name__ == "__main__":
    main()
