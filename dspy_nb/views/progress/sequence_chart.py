"""The interval of a difference as evidence comes in: drawn as SVG, without a library.

It is drawn anew several times a second while a comparison works; for a figure to keep, see
``plots.plot_sequence``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dspy_nb.core.ab.comparison import Step
from dspy_nb.core.ab.duel import thin
from dspy_nb.views.wording import count, points

__all__ = ["sequence_svg", "sequence_text"]

_MOST_STEPS = 200
_WIDTH, _HEIGHT = 640, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 74, 10, 26


def sequence_text(path: Sequence[Step]) -> str:
    """Return in words what :func:`sequence_svg` shows.

    Args:
        path: The interval after each example, of at least one.
    """
    last = path[-1]
    text = f"Difference B − A after {count(last.n, 'example')}: {100 * last.effect:+.1f} points"
    return text if math.isnan(last.low) else f"{text} {points(last.low, last.high)}"


def sequence_svg(path: Sequence[Step], margin: float, planned: int) -> str:
    """Return the chart: the interval as a band that closes in, the difference in it, the margin around 0.

    The axes change in steps, so that the picture does not jitter while evidence comes in.

    Args:
        path: The interval after each example, of at least one.
        margin: Largest difference that makes no practical difference.
        planned: Examples that there are at most.
    """
    steps = thin([step for step in path if not math.isnan(step.low)], _MOST_STEPS) or path[-1:]
    reach = _reach(steps, margin)
    end = _axis_end(path[-1].n, planned)

    def x(n: float) -> str:
        return f"{_LEFT + n / end * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def y(value: float) -> str:
        inside = max(-reach, min(reach, value))
        return f"{_TOP + (reach - inside) / (2 * reach) * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    left, right = _LEFT, _WIDTH - _RIGHT
    parts = []
    for value in (-reach, -reach / 2, 0.0, reach / 2, reach):
        strength = ".6" if value == 0 else ".15"
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y(value)}" y2="{y(value)}" stroke="currentColor" '
            f'stroke-opacity="{strength}"/><text x="{left - 7}" y="{y(value)}" dy=".35em" text-anchor="end">'
            f"{_signed(value)}</text>"
        )
    for n in sorted({0, end // 2, end}):
        parts.append(f'<text x="{x(n)}" y="{_HEIGHT - 8}" text-anchor="middle">{n:,}</text>')
    if margin:
        parts.append(
            f'<path d="M{left} {y(margin)}H{right}M{left} {y(-margin)}H{right}" stroke="currentColor" '
            'stroke-opacity=".7" stroke-dasharray="5 4"/>'
            f'<text x="{right + 6}" y="{y(0)}" dy=".35em">equal</text>'
        )
    for sign, text in ((0.75, "B better"), (-0.75, "A better")):
        parts.append(f'<text x="{right + 6}" y="{y(sign * reach)}" dy=".35em">{text}</text>')
    upper = "L".join(f"{x(step.n)} {y(step.high)}" for step in steps)
    lower = "L".join(f"{x(step.n)} {y(step.low)}" for step in reversed(steps))
    middle = "L".join(f"{x(step.n)} {y(step.effect)}" for step in steps)
    parts += [
        f'<path d="M{upper}L{lower}Z" fill="var(--accent)" fill-opacity=".2" stroke="var(--accent)" '
        'stroke-opacity=".8"/>',
        f'<path d="M{middle}" fill="none" stroke="var(--accent)" stroke-width="2"/>',
        f'<circle cx="{x(steps[-1].n)}" cy="{y(steps[-1].effect)}" r="4" fill="var(--accent)"/>',
    ]
    dashes = ", - - the margin" if margin else ""
    return (
        f'<svg class="scores" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{sequence_text(path)}" '
        f'fill="currentColor" font-size="11">{"".join(parts)}</svg>'
        f'<p class="soft">difference B − A in points by examples compared: ● so far, ▒ its interval{dashes}</p>'
    )


def _reach(steps: Sequence[Step], margin: float) -> float:
    """Return how far the axis goes from 0 in either direction: the interval now, and some of what was."""
    now = steps[-1]
    needed = max(abs(now.low), abs(now.high), 1.5 * margin) if not math.isnan(now.low) else 1.0
    return next(reach for reach in (0.05, 0.1, 0.2, 0.4, 0.6, 1.0) if needed <= 0.95 * reach or reach == 1.0)


def _axis_end(n: int, planned: int) -> int:
    """Return a round number of examples, at least ``n``, or all that there are."""
    sizes = (factor * 10**power for power in range(1, 12) for factor in (2, 5, 10))
    size: int = next(size for size in sizes if size >= n)
    return min(size, max(planned, n, 1))


def _signed(value: float) -> str:
    return f"{100 * value:+.3g}" if value else "0"
