"""Progress of a comparison in a terminal: how far it is, and where the difference lies by now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Self

from dspy_nb.core.duel import Duel, examples_compared
from dspy_nb.wording import points

__all__ = ["TerminalComparisonProgress", "most_answers"]


class TerminalComparisonProgress:
    """A bar on stderr where that is a terminal, nothing elsewhere; a context that closes the bar."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, duels: Sequence[Duel], planned: int) -> None:
        """Show how many examples all that are still asked have answered, and how many verdicts are in."""
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=planned, desc="compare", unit="example", dynamic_ncols=True, file=sys.stderr
            )
        self._bar.n = examples_compared(duels)
        self._bar.set_postfix_str(_standing(duels), refresh=False)
        self._bar.refresh()


def most_answers(planned: int, programs: int) -> str:
    """Return what a comparison takes at most, in words."""
    by = "both" if programs == 2 else "all"
    return f"at most {planned:,} examples, each answered by {by}: {programs * planned:,} answers"


def _standing(duels: Sequence[Duel]) -> str:
    if len(duels) > 1:
        return f"{sum(duel.over for duel in duels)} of {len(duels)} settled"
    if not duels[0].path:
        return ""
    _, effect, low, high = duels[0].path[-1]
    return f"B − A {100 * effect:+.1f} {points(low, high)}"
