"""A result of a sweep, made of numbers alone."""

from __future__ import annotations

from dspy_nb.core.evidence import SweepEvidence
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.sweep.result import Final, SweepCell, SweepResult

_ROWS = [
    # name, settings, score, interval, verdict, gap, its interval, price, latency
    ("as given", {"optimizer": None}, 0.60, (0.50, 0.69), "worse", -0.25, (-0.36, -0.14), 2e-3, 800.0),
    ("MIPROv2 · big", {"optimizer": "MIPROv2"}, 0.85, (0.77, 0.91), "leader", 0.0, (0.0, 0.0), 5e-3, 900.0),
    ("MIPROv2 · small", {}, 0.845, (0.76, 0.90), "not told apart", -0.005, (-0.018, 0.008), 1e-3, 300.0),
    ("COPRO <b>· small", {}, None, None, "", 0.0, (0.0, 0.0), None, None),
]


def result(*, usd: bool = True, tokens: bool = True, finals: bool = True, **changes: object) -> SweepResult:
    cells = []
    for number, (name, settings, score, interval, verdict, gap, ends, price, ms) in enumerate(_ROWS):
        final = None
        if score is not None and interval is not None and finals:
            final = Final(
                score, interval, 100, 0, verdict, gap, ends, 0.975, price if usd else None,
                100.0 * number + 50 if tokens else None, ms, 400.0,
            )  # fmt: skip
        status = "failed" if score is None else "finalist" if finals else "done"
        reason = "the model <is> down" if score is None else "completed"
        cells.append(
            SweepCell(
                number, name, settings, status, reason, 2, score, Usage(50 * number, 10, 500, 50), final
            )
        )
    facts = {
        "axes": ("optimizer", "lm"), "given": "as given", "best_name": "MIPROv2 · big",
        "usage": Usage(500, 30, 5000, 600), "replayed": 0, "confidence": 0.95, "metric": "exact_match",
        "n_validation": 50, "n_test": 100 if finals else 0, "rungs": (4, 3),
        "stopped_by": None if finals else "stop",
        "warnings": () if finals else ("the scores of the finalists are not known",), "duration_s": 12.0,
        "evidence": SweepEvidence(
            verdict="B better", effect=0.25, interval=(0.14, 0.36), confidence=0.975, baseline="as given · big"
        ) if finals else None,
    }  # fmt: skip
    return SweepResult(tuple(cells), **{**facts, **changes})
