"""Colours that the package chooses itself: text is read at 4.5 : 1, in JupyterLab's light and dark theme."""

from __future__ import annotations

import re

import pytest

from dspy_nb.notebook.widgets.live import CONTROLS_STYLE
from dspy_nb.notebook.widgets.registry_views import BROWSER_STYLE
from dspy_nb.plots.figures import ink_on
from dspy_nb.views.rendering.style import STYLE

# Of JupyterLab 4: the colour of text, and the backgrounds that it stands on.
THEMES = {
    "light": ("#212121", ("#ffffff", "#eeeeee")),
    "dark": ("#ffffff", ("#111111", "#212121", "#424242")),
}


def rgb(colour: str) -> list[float]:
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def luminance(colour: list[float]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: list[float], b: list[float]) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(
    "style", [STYLE, CONTROLS_STYLE, BROWSER_STYLE], ids=["results", "controls", "browser"]
)
def test_soft_text_is_read_on_every_background(theme: str, style: str) -> None:
    text, backgrounds = THEMES[theme]
    (share,) = {
        int(found) / 100
        for found in re.findall(r"--(?:soft|quiet):color-mix\(in srgb,[^;]*? (\d+)%,transparent\)", style)
    }
    for background in map(rgb, backgrounds):
        mixed = [share * a + (1 - share) * b for a, b in zip(rgb(text), background, strict=True)]
        assert contrast(mixed, background) >= 4.5


def test_the_button_that_confirms_is_read() -> None:
    back, text = re.findall(r"--confirm-(?:back|text):(#\w+)", CONTROLS_STYLE)
    assert contrast(rgb(back), rgb(text)) >= 4.5


@pytest.mark.parametrize("grey", range(0, 256, 5))
def test_numbers_in_a_shaded_cell_are_read(grey: int) -> None:
    shade = [grey / 255, min(1.0, grey / 200), 1.0]
    assert contrast(rgb(ink_on(shade)), shade) >= 4.5
