"""What the anytime-valid sequences cost: time for an update, for a batch, and to go on from a saved state.

    python benchmarks/ab_statistics.py [--events 1000000]

CPU time of one thread. How often the sequences are wrong and when they decide is simulated by the slow tests:
``pytest tests/test_sequences.py -m slow -s``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from dspy_nb.core.stats import PairedSequence, TwoArmSequence, paired_evalue


def cpu_us(work: Callable[[], object], count: int) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the anytime-valid sequences.")
    parser.add_argument("--events", type=int, default=1_000_000, help="events of the large batch")
    events = parser.parse_args().events
    rng = np.random.default_rng(0)
    few = 2000
    wins = rng.choice([-1, 0, 1], few, p=[0.10, 0.70, 0.20])
    scores = np.clip(rng.normal(0.05, 0.2, few), -1, 1)
    is_b = rng.random(events) < 0.1
    outcomes = rng.random(events) < np.where(is_b, 0.61, 0.60)
    splits = np.full(events, 0.1)
    PairedSequence(), PairedSequence(binary=False)  # computes the bets, once in a process

    def one_by_one(sequence: PairedSequence, values: np.ndarray) -> None:
        for value in values:
            sequence.update(value)

    def arms_one_by_one() -> None:
        sequence = TwoArmSequence()
        for unit in zip(is_b[:few], outcomes[:few], splits[:few], strict=True):
            sequence.update(*unit)

    print(f"{'':<44}{'us each':>9}")
    rows = {
        "paired_evalue": cpu_us(lambda: [paired_evalue(20, 10) for _ in range(few)], few),
        "PairedSequence.update, yes/no, n to 100": cpu_us(
            lambda: one_by_one(PairedSequence(), wins[:100]), 100
        ),
        "PairedSequence.update, yes/no, n to 2000": cpu_us(lambda: one_by_one(PairedSequence(), wins), few),
        "PairedSequence.update, graded, n to 2000": cpu_us(
            lambda: one_by_one(PairedSequence(binary=False), scores), few
        ),
        "TwoArmSequence.update, n to 2000": cpu_us(arms_one_by_one, few),
    }
    for name, value in rows.items():
        print(f"{name:<44}{value:>9.1f}")
    sequence = TwoArmSequence()
    seconds = cpu_us(lambda: sequence.update_many(is_b, outcomes, splits), 1) / 1e6
    print(f"TwoArmSequence.update_many of {events:,} events: {seconds:.2f} s, interval {sequence.interval}")
    state = json.dumps(sequence.to_state())
    restore_ms = cpu_us(lambda: TwoArmSequence.from_state(json.loads(state)), 1) / 1e3
    print(f"its state: {len(state) / 1e3:.1f} kB; from_state {restore_ms:.1f} ms")


if __name__ == "__main__":
    main()
