"""What ``import dspy_nb`` adds to ``import dspy``, measured side by side in fresh interpreters.

    python benchmarks/import_time.py [--repeats 15]

The variants take turns, so that a change of the machine's speed hits all of them. Each interpreter reports
the CPU time of its imports alone: a busy machine does not inflate it, and imports wait for nothing else. The
last variant touches every public name, which is what a whole session pays at most.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

_VARIANTS = {
    "import dspy": "import dspy",
    "import dspy, dspy_nb": "import dspy, dspy_nb",
    "... and every public name": "import dspy, dspy_nb; [getattr(dspy_nb, n) for n in dspy_nb.__all__]",
}
_PROGRAM = "import time; t = time.process_time(); {}; print(time.process_time() - t)"


def import_time_ms(statement: str) -> float:
    command = [sys.executable, "-c", _PROGRAM.format(statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="What import dspy_nb adds to import dspy.")
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in _VARIANTS}
    for _ in range(repeats):
        for name, statement in _VARIANTS.items():
            times[name].append(import_time_ms(statement))
    base = times["import dspy"]
    print(f"{'median of ' + str(repeats):<28}{'ms':>8}{'added ms':>10}")
    for name, measured in times.items():
        added = statistics.median(after - before for before, after in zip(base, measured, strict=True))
        print(f"{name:<28}{statistics.median(measured):>8.0f}{added:>10.1f}")


if __name__ == "__main__":
    main()
