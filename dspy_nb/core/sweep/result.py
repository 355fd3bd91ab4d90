"""What a sweep found: a row for each cell, the best one, and the cheapest that is not worse."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_nb.core.ab.comparison import Comparisons
from dspy_nb.core.arguments import number_between, user_path
from dspy_nb.core.doors import Shown, through
from dspy_nb.core.errors import InputError, NotFound
from dspy_nb.core.evaluation.examples import ExampleTable, HasExamples
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.evidence import SweepEvidence
from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.storage.files import replace_file
from dspy_nb.core.storage.plain import plain
from dspy_nb.core.text import error_text, repaired, value_text

if TYPE_CHECKING:
    import pandas as pd

_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Final:
    """A cell on the test examples, which no cell has seen. Figures of a call are means over them.

    Attributes:
        score: Mean of the metric; failures count as wrong.
        interval: Of the score.
        n: Examples.
        errors: On how many of them the program failed.
        verdict: "leader" of the validation examples, or how it compares with that one: "better", "worse", "not told
            apart".
        difference: Its score less that of the best cell.
        difference_interval: Of that, paired; those of all cells hold together.
        difference_confidence: Of this interval alone.
        usd_per_call: Price of a call of the program, as if nothing came from a cache; ``None`` if it is not known.
        tokens_per_call: Tokens sent and received in a call; ``None`` if they are not known.
        latency_ms: Time that its language model takes for a call; ``None`` if it is not known.
        prompt_characters: Characters of all prompts of a call.
    """

    score: float
    interval: tuple[float, float]
    n: int
    errors: int
    verdict: str
    difference: float
    difference_interval: tuple[float, float]
    difference_confidence: float
    usd_per_call: float | None
    tokens_per_call: float | None
    latency_ms: float | None
    prompt_characters: float


@dataclass(frozen=True)
class SweepCell:
    """One setting of a sweep, and what came of it; ``Registry.register`` takes it.

    Attributes:
        number: From 1, in the order of the grid; 0 is the program as it was given, where no cell is that.
        name: Unlike that of any other cell.
        settings: What it has of each axis.
        status: "finalist", "done", "dropped", "failed", or "waiting" if its turn never came.
        reason: How it ended.
        rung: How many rungs of the race it has had.
        validation_score: Of its best program on the examples that cells are compared on; too good on average, for
            the program was chosen by it. ``None`` if it is not known.
        usage: What it used. An answer that an earlier cell had paid for is a cache hit.
        final: On the test examples; ``None`` if it was no finalist.
        like: The cell that ended with the same program on the same language model, and is compared for both.
        program_sha256: Hash of the prompts and demos of the program.
        base_model: Its language model.
        run: Its optimization, with the scores on the test examples if it was a finalist; ``None`` where nothing was
            optimized, and in a result that was loaded.
        program: Its program; ``None`` in a result that was loaded.
        evaluation: On the test examples; ``None`` as for ``final``, and in a result that was loaded.
    """

    number: int
    name: str
    settings: Mapping[str, Any]
    status: str
    reason: str
    rung: int = 0
    validation_score: float | None = None
    usage: Usage = field(default_factory=Usage)
    final: Final | None = None
    like: str | None = None
    program_sha256: str | None = None
    base_model: str | None = None
    run: OptimizationRun | None = field(default=None, repr=False, compare=False)
    program: Any = field(default=None, repr=False, compare=False)
    evaluation: Evaluation | None = field(default=None, repr=False, compare=False)

    def registration(self) -> dict[str, Any]:
        """Return what a registry stores of this cell: its optimization, and its score on the test examples.

        Raises:
            InputError: It has no program: it failed, or was loaded from a file.
        """
        if self.program is None:
            raise InputError(f"the cell {self.name} has no program to register: {self.reason or self.status}")
        stored = {"program": self.program} if self.run is None else self.run.registration()
        facts = {
            **(stored.get("metadata") or {}),
            "sweep": {"cell": self.name, "settings": dict(self.settings)},
        }
        facts["base_model"] = facts.get("base_model") or self.base_model
        if (test := self.evaluation) is not None:
            facts["test"] = {"score": test.score, "interval": list(test.interval), "n": test.n}
            stored["evaluation"] = test.to_dict()
        return {**stored, "metadata": facts}


@dataclass(frozen=True, repr=False)
class SweepResult(Shown, HasExamples):
    """What a sweep found; iterates over its cells. ``examples()`` are those of the test of the best cell.

    Attributes:
        cells: In the order of the grid; before them the program as it was given, where no cell is that.
        axes: What varied.
        given: Name of the cell that is the program as it was given, on its first language model.
        best_name: Name of the best cell, ``None`` if none has a program.
        usage: What all cells and the comparison used. An answer that an earlier call of the same sweep had paid for
            counts as if it had been paid for now.
        replayed: How many such answers there were.
        confidence: 1 − α of all that is said of the finalists together.
        metric: Its name.
        n_validation: Examples that cells were compared on.
        n_test: Examples that the finalists were compared on.
        rungs: How many cells each rung of the race was to have.
        stopped_by: What ended it early; ``None`` if nothing did.
        warnings: What a reader must know.
        duration_s: Time it took.
        comparisons: The finalists against the leader, on the test examples; ``None`` where there are none, and in a
            result that was loaded.
        evidence: Of the best cell against the program as it was given, if they were compared.
    """

    cells: tuple[SweepCell, ...]
    axes: tuple[str, ...]
    given: str
    best_name: str | None
    usage: Usage
    replayed: int
    confidence: float
    metric: str
    n_validation: int
    n_test: int
    rungs: tuple[int, ...]
    stopped_by: str | None
    warnings: tuple[str, ...]
    duration_s: float
    comparisons: Comparisons | None = field(default=None, repr=False, compare=False)
    evidence: SweepEvidence | None = None

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.cells)

    def __iter__(self) -> Iterator[SweepCell]:
        """Go through the cells in the order of the grid."""
        return iter(self.cells)

    def __getitem__(self, cell: str | int) -> SweepCell:
        """Return a cell, by its name or its number.

        Raises:
            NotFound: There is none.
        """
        found = next((one for one in self.cells if cell in (one.name, one.number)), None)
        if found is None:
            raise NotFound(
                f"no cell {value_text(cell, 80)}: there are {', '.join(c.name for c in self.cells)}"
            )
        return found

    @property
    def finalists(self) -> tuple[SweepCell, ...]:
        """The cells that were compared on the test examples, the highest score first."""
        found = [cell for cell in self.cells if cell.final is not None]
        return tuple(sorted(found, key=lambda cell: (-_final(cell).score, cell.number)))

    @property
    def best(self) -> SweepCell:
        """The leader on the validation examples, unless another finalist is shown to be better on the testset.

        Where nothing is optimized, and so nothing was compared before, the first language model is the leader. If
        the finalists were not compared, it is the leader.

        Raises:
            NotFound: No cell has a program.
        """
        if self.best_name is None:
            raise NotFound(
                "no cell has a program: " + "; ".join(f"{c.name}: {c.reason}" for c in self.cells[:3])
            )
        return self[self.best_name]

    @property
    def cost(self) -> str | None:
        """What calls are priced in: "usd" if known of all finalists, else "tokens", ``None`` if neither is."""
        finals = [_final(cell) for cell in self.finalists]
        for name in ("usd", "tokens"):
            if finals and all(getattr(final, f"{name}_per_call") is not None for final in finals):
                return name
        return None

    def cost_of(self, cell: SweepCell) -> float | None:
        """Return what a call of a finalist costs, in ``cost``; ``None`` if it is not known."""
        return (
            None if self.cost is None or cell.final is None else getattr(cell.final, f"{self.cost}_per_call")
        )

    def cheapest(self, not_worse_than: float = 0.02) -> SweepCell:
        """Return the cheapest finalist that is shown to be worse than the best by less than a margin.

        That is, the paired interval of its difference to the best lies above −``not_worse_than``. The intervals of
        all finalists hold together, so with a chance of at least ``confidence`` it really is, whatever the margin.
        Cheapest is by the price of a call, by its tokens where a price is not known, never by latency.

        Args:
            not_worse_than: The margin, a difference of scores in [0, 1].

        Raises:
            InputError: The margin is no such number, or neither prices nor tokens are known.
            NotFound: The finalists were not compared.
        """
        margin = number_between("not_worse_than", not_worse_than, 0, 1)
        if not self.finalists:
            raise NotFound(f"the finalists were not compared: {'; '.join(self.warnings) or 'there are none'}")
        if self.cost is None:
            raise InputError(
                "what a call costs is not known: give prices={'model': (usd per million in, out)}"
            )
        best = self.best.name
        fine = [c for c in self.finalists if c.name == best or _final(c).difference_interval[0] > -margin]
        return min(fine, key=lambda cell: (self.cost_of(cell) or 0.0, cell.name != best, -_final(cell).score))

    def pareto(self) -> tuple[SweepCell, ...]:
        """Return the finalists of which no other one is as good in score, cost and latency, and better in one.

        What is not known of all of them is left out; cells that ended alike count once. These are the figures as
        measured; which differences of the scores are more than chance, the intervals say. The cheapest comes first.
        """
        finalists = [cell for cell in self.finalists if cell.like is None]
        timed = all(_final(cell).latency_ms is not None for cell in finalists)

        def losses(cell: SweepCell) -> tuple[float, ...]:
            final = _final(cell)
            cost = () if self.cost is None else (self.cost_of(cell) or 0.0,)
            return (-final.score, *cost, *((final.latency_ms or 0.0,) if timed else ()))

        def beaten(cell: SweepCell) -> bool:
            own = losses(cell)
            return any(
                other != own and all(a <= b for a, b in zip(other, own, strict=True))
                for other in map(losses, finalists)
            )

        return tuple(sorted((c for c in finalists if not beaten(c)), key=lambda c: losses(c)[1:]))

    def to_evidence(self) -> SweepEvidence:
        """Return what a registry records with a promotion of the best cell: that it is better than what was given.

        Raises:
            NotFound: The two were not compared.
        """
        if self.evidence is None:
            raise NotFound("there is no evidence: the best cell and the program as given were not compared")
        return self.evidence

    def example_table(self) -> ExampleTable:
        """Return the test examples with what the program as given (A) and the best cell (B) answered.

        Where the best cell is the program as given, there is its answer alone. Other pairs are behind
        ``comparisons``, single cells behind ``cell.evaluation``.

        Raises:
            InputError: The finalists were not compared, or the result was loaded from a file.
        """
        cells = {"A": self[self.given], "B": self.best} if self.best_name else {}
        results = {arm: cell.evaluation.results for arm, cell in cells.items() if cell.evaluation is not None}
        if len(results) < 2:
            raise InputError(
                "there are no examples: the finalists were not compared, or the result was loaded"
            )
        if self.given == self.best_name:
            return ExampleTable.of(f"{self.given}, {self.metric}", {"answer": results["B"]})
        return ExampleTable.of(f"{self.given} (A) and {self.best_name} (B), {self.metric}", results)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each cell: settings, score with interval, calls, tokens, dollars, latency, length."""
        import pandas as pd

        return pd.DataFrame([_row(cell) for cell in self.cells])

    def plot(self) -> Any:
        """Return a matplotlib figure: the score of each finalist against what a call of it costs.

        Raises:
            InputError: The finalists were not compared.
        """
        return through("plot_sweep", self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but programs and single answers as JSON data."""
        kept = ("cells", "comparisons", "evidence", "usage")
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in kept}
        evidence = None if self.evidence is None else self.evidence.to_dict()
        cells = [
            {f.name: plain(getattr(cell, f.name)) for f in fields(cell) if f.compare} for cell in self.cells
        ]
        return {
            "schema_version": _SCHEMA_VERSION,
            **plain(own),
            "usage": asdict(self.usage),
            "evidence": evidence,
            "cells": cells,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``to_dict`` to a JSON file, which is replaced if it exists; its folder is made if there is none.

        Raises:
            InputError: The file cannot be written.
        """
        target = user_path("the result", path)
        text = json.dumps(repaired(self.to_dict()), ensure_ascii=False, allow_nan=False)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, text.encode())
        except OSError as error:
            raise InputError(f"{target} cannot be written: {error.strerror or error}") from None
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SweepResult:
        """Read what ``save`` wrote; its cells have no programs.

        Raises:
            InputError: There is no such file, it holds no sweep, or a newer version wrote it.
        """
        import msgspec

        source = os.fspath(path)
        try:
            data = json.loads(user_path("the result", path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{source}: no sweep can be read ({error_text(error)})") from error
        version = data.pop("schema_version", None) if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise InputError(f"{source}: no sweep (it has no schema_version)")
        if version > _SCHEMA_VERSION:
            raise InputError(
                f"{source}: schema version {version} is newer than {_SCHEMA_VERSION}; upgrade dspy-nb"
            )
        evidence = data.pop("evidence", None)
        try:
            cells = [
                SweepCell(**{
                    **cell,
                    "usage": msgspec.convert(cell["usage"], Usage),
                    "final": None if cell["final"] is None else msgspec.convert(cell["final"], Final),
                })
                for cell in data.pop("cells")
            ]  # fmt: skip
            usage = msgspec.convert(data.pop("usage"), Usage)
            data |= {name: tuple(data[name]) for name in ("axes", "rungs", "warnings")}
            found = None if evidence is None else read_sweep_evidence(evidence)
            return cls(**data, cells=tuple(cells), usage=usage, evidence=found)
        except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
            raise InputError(f"{source}: no complete sweep ({error_text(error, 200)})") from error


def read_sweep_evidence(stored: Mapping[str, Any]) -> SweepEvidence | None:
    """Return the evidence that a file holds, ``None`` if it is of another kind."""
    from dspy_nb.core.evidence import read_evidence

    found = read_evidence(stored)
    return found if isinstance(found, SweepEvidence) else None


def _final(cell: SweepCell) -> Final:
    assert cell.final is not None
    return cell.final


def _row(cell: SweepCell) -> dict[str, Any]:
    final = cell.final
    low, high = (math.nan, math.nan) if final is None else final.interval
    names = ("usd_per_call", "tokens_per_call", "latency_ms", "prompt_characters")
    return {
        "cell": cell.name,
        **{name: value for name, value in cell.settings.items() if name != "options"},
        "status": cell.status,
        "reason": cell.reason,
        "validation_score": cell.validation_score,
        "score": None if final is None else final.score,
        "low": low,
        "high": high,
        "verdict": None if final is None else final.verdict,
        "lm_calls": cell.usage.lm_calls,
        "cache_hits": cell.usage.cache_hits,
        "tokens": cell.usage.tokens,
        "usd": cell.usage.usd,
        **{name: None if final is None else getattr(final, name) for name in names},
    }
