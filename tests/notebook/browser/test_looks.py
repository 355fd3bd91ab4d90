"""Everything that the package shows, light and narrow, dark and wide: axe-core finds nothing serious in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dspy_nb.core.registry.registry import Registry
from dspy_nb.plots.registry import plot_history
from dspy_nb.views.documents import Bar, Code, Details, Document, Facts, Note
from dspy_nb.views.listings import Listing
from dspy_nb.views.rendering.html import to_html
from tests import ROOT
from tests.accessibility import OF_LOOKS, OUTPUTS, violations
from tests.browser import DARK, LIGHT, Notebook, show_in_theme
from tests.notebook.browser.paced import Pace

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

_LOOKS = ((LIGHT, 640), (DARK, 1200))
_PICTURES = os.environ.get("DSPY_NB_PICTURES")  # a folder, for who wants to look as well

_SETUP = """
%load_ext dspy_nb
import dspy, dspy_nb as nb, random
from tests.notebook.browser.paced import paced_lm
from tests.scripted import classifier, reviews
dspy.configure(lm=paced_lm({calls!r}))
program, train, val, data = classifier(), reviews(30, "train"), reviews(4, "val"), reviews(400)
for example in data[::4] + data[1::4]:
    example.sentiment = "negative" if example.sentiment == "positive" else "positive"
taught = classifier()
taught.demos = reviews(2, "demo")
registry = nb.Registry({registry!r})
production = registry.environment("production")
"""
_OPTIMIZE = (
    "%dspy_optimize program --train train --val val --metric exact_match:sentiment --threads 2 "
    "--optimizer BootstrapFewShotWithRandomSearch --option num_candidate_programs=1000 -o run"
)
_COMPARE = "%dspy_ab program taught --data data --metric exact_match:sentiment --margin .05 --threads 2"
_REST = (
    "%dspy_evaluate taught --data val --metric exact_match:sentiment --label sentiment",
    "%dspy_registry --history sentiment",
    "%dspy_registry --environment production",
    "%dspy_registry --diff sentiment@1.0.0 sentiment@1.1.0",
    "for n in range(300):\n    production.observe(n % 9 < 6, latency_ms=n, unit=str(n))\n"
    "display(production.check_health())",
    "display(nb.plots.plot_evaluation(_dspy_evaluation), nb.plots.plot_comparison(_dspy_comparison))",
)
_BROWSE = "%dspy_registry --registry {registry}"


@pytest.mark.parametrize("all_twice", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_axe_finds_nothing_serious_in_what_is_shown(open_notebook, tmp_path: Path, all_twice: bool) -> None:
    registry, calls = tmp_path / "registry", tmp_path / "calls"
    shutil.copytree(ROOT / "registry", registry, symlinks=True)
    setup = _SETUP.format(registry=str(registry), calls=str(calls))
    rest = [line.replace("%dspy_registry", f"%dspy_registry --registry {registry}") for line in _REST]
    notebook = open_notebook(setup, _OPTIMIZE, _COMPARE, *rest, _BROWSE.format(registry=registry))
    page, pace = notebook.page, Pace(notebook, calls)
    found: list[str] = []

    def look(name: str, *cells: int, twice: bool = True) -> None:
        found.extend(_look(notebook, name, cells, twice=twice or all_twice))

    notebook.run(0)
    notebook.start(1)
    rows = page.locator("details.candidate")
    pace.answer_until(lambda: rows.count() >= 5, "no candidates")
    rows.first.locator("summary").click()
    look("progress", 1)
    page.get_by_role("button", name="Stop").click()
    pace.answer_until_done(1)

    notebook.start(2)
    pace.answer_until(lambda: "A said" in notebook.output(2).inner_text(), "no flips are shown")
    look("ab", 2)
    page.get_by_role("button", name="Stop").click()
    calls.write_bytes(b"." * 10**6)
    for number in range(2, 3 + len(rest)):
        notebook.start(number) if number > 2 else None
    notebook.wait_until_done(2 + len(rest))
    look("finished", *range(1, 3 + len(rest)))

    browser = 3 + len(rest)
    notebook.run(browser)
    notebook.wait_for(".dspy-nb-browser")
    checks = page.get_by_role("checkbox", name="Compare sentiment@")
    for number in range(2):
        checks.nth(number).check()
    notebook.wait_until(lambda: "+ optimizer: Boot" in notebook.text(), "nothing is compared")
    page.get_by_role("button", name="sentiment@1.0.0").click()
    page.get_by_role("button", name="Promote…").click()
    for tab in ("Model card", "Evaluation", "History", "Compare"):
        page.get_by_role("tab", name=tab).click()
        look(f"registry-{tab[:5].strip().lower()}", browser, twice=tab == "Compare")
    assert not found, "\n".join(found)


def test_axe_finds_nothing_serious_in_a_page_without_jupyter(_browser) -> None:  # noqa: PT019 - the fixture
    registry = Registry(ROOT / "registry")
    blocks = [
        Note("It is so.", warning=True),
        Bar(0.4, "40 of 100", "warn"),
        Facts([("cost", "–")], tiles=True),
    ]
    shown = (
        Listing(registry.list("sentiment")),
        Listing(registry.history("sentiment")),
        registry.diff("sentiment@1.0.0", "sentiment@1.1.0"),
        Document("All kinds", [*blocks, Details("More", [Code("x = 1")])], "soft"),
    )
    page = _browser.new_page(viewport={"width": 640, "height": 900})
    body = "".join(map(to_html, shown)) + plot_history(registry, "sentiment")._repr_html_()
    page.set_content(f'<!doctype html><html lang="en"><title>t</title><body>{body}</body>')
    for folded in page.locator("summary").all():
        folded.click()
    for rules, colours in ((None, "background:#fff;color:#000"), (OF_LOOKS, "background:#111;color:#eee")):
        page.evaluate("colours => document.body.style = colours", colours)
        assert violations(page, rules=rules) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.close()


def _look(notebook: Notebook, name: str, cells: tuple[int, ...], *, twice: bool) -> list[str]:
    """Return what axe finds, each with the name of the scene; twice is in the other theme too, what may differ."""
    page = notebook.page
    found = []
    now = page.evaluate("() => document.body.dataset.jpThemeName")
    looks = sorted(_LOOKS, key=lambda look: look[0] != now)
    for rules, (theme, width) in list(zip((None, OF_LOOKS), looks, strict=True))[: 1 + twice]:
        show_in(page, theme, width)
        scene = f"{name}-{theme[11:].lower()}-{width}"
        where = ", ".join(
            f".jp-Notebook .jp-CodeCell:nth-child({cell + 1} of .jp-CodeCell) {part.strip()}"
            for cell in cells
            for part in OUTPUTS.split(",")
        )
        found += [f"{scene}: {line}" for line in violations(page, where, rules)]
        for cell in cells if _PICTURES else ():
            notebook.output(cell).screenshot(path=Path(_PICTURES or "") / f"{scene}-{cell}.png")
    return found


def show_in(page, theme: str, width: int) -> None:
    """Show a page that is open in another theme and width."""
    page.set_viewport_size({"width": width, "height": 1600})
    show_in_theme(page, theme)
    page.wait_for_timeout(300)  # for the layout, which follows the width a moment later
