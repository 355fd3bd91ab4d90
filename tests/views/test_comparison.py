"""What a person reads of a comparison."""

from __future__ import annotations

import dataclasses
import math
import random

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.ab.comparison import Comparison
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text
from dspy_nb.views.wording import points


def compared(share_a: float, share_b: float, n: int, **options) -> Comparison:
    def program(share: float):
        def answer(x: str) -> dspy.Prediction:
            return dspy.Prediction(y="yes" if random.Random(f"{share}{x}").random() < share else "<no>")

        return answer

    examples = [dspy.Example(x=f"<b>{i}</b>", y="yes").with_inputs("x") for i in range(n)]
    return nb.compare(program(share_a), program(share_b), examples, nb.exact_match("y"), **options)


def test_the_verdict_comes_first() -> None:
    found = compared(0.4, 0.9, 300)
    text = to_text(found)
    assert text.splitlines()[3].startswith("B better: B − A is +")
    assert f"after {found.n_at_verdict} examples." in text
    assert "What B fixed" in text
    assert "the same on" in text


def test_an_open_comparison_says_how_many_more_it_takes() -> None:
    found = compared(0.6, 0.7, 50)
    assert f"about {found.more_needed:,} more examples would settle it" in " ".join(to_text(found).split())


def test_an_interrupted_comparison_says_so() -> None:
    found = dataclasses.replace(compared(0.6, 0.7, 50), complete=False)
    assert "Interrupted after 50 of 50 examples" in " ".join(to_text(found).split())


def test_an_empty_interval_is_not_shown_as_numbers() -> None:
    found = dataclasses.replace(compared(0.6, 0.7, 50), interval=(math.nan, math.nan), more_needed=None)
    assert "nan" not in to_text(found)


def test_an_end_that_rounds_to_0_says_on_which_side_it_lies() -> None:
    found = dataclasses.replace(compared(0.6, 0.7, 50), interval=(math.nextafter(0, 1), 0.3))
    assert "[>0, +30.0]" in to_text(found)
    assert points(-0.2, -1e-9) == "[-20.0, <0]"
    assert points(0.0, 0.0004) == "[+0.0, >0]"


def test_answers_are_escaped() -> None:
    html = to_html(compared(0.4, 0.9, 100, sequential=False))
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "<no>" not in html


@pytest.mark.parametrize("write", [to_text, to_markdown, to_html])
def test_warnings_are_marked(write) -> None:
    found = dataclasses.replace(compared(0.6, 0.7, 50), warnings=("the disk is on fire",))
    assert "Warning" in write(found)
    assert "The disk is on fire." in write(found)
