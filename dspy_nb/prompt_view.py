"""A program's prompt as blocks of a document: each predictor's instructions and demos."""

from __future__ import annotations

from typing import Any

from dspy_nb.core.candidates import Prompt
from dspy_nb.documents import Block, Code, Note
from dspy_nb.wording import count, excerpt

__all__ = ["prompt_blocks", "prompt_title"]

_DEMOS_SHOWN = 8
_FIELD_EXCERPT = 400


def prompt_blocks(prompt: Prompt) -> list[Block]:
    """Return instructions in full, and the first demos with long fields cut."""
    blocks: list[Block] = []
    for name, instructions in prompt.instructions.items():
        whose = f" of {name}" if len(prompt.signatures) > 1 else ""
        demos = prompt.demos[name]
        blocks += [Note(f"Instructions{whose}"), Code(instructions)]
        if demos:
            shown_of = f", the first {_DEMOS_SHOWN}" if len(demos) > _DEMOS_SHOWN else ""
            blocks.append(Note(f"{count(len(demos), 'demo')}{whose}{shown_of}"))
            blocks += [Code(_demo(demo)) for demo in demos[:_DEMOS_SHOWN]]
    return blocks


def prompt_title(prompt: Prompt) -> str:
    """Return ``2 predictors, 4 demos``."""
    demos = sum(map(len, prompt.demos.values()))
    return f"{count(len(prompt.signatures), 'predictor')}, {count(demos, 'demo')}"


def _demo(demo: Any) -> str:
    return "\n".join(f"{k}: {excerpt(v, _FIELD_EXCERPT)}" for k, v in dict(demo).items() if k != "augmented")
