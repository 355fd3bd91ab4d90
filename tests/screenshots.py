"""Makes the pictures of the widgets in notebooks/images, from the real thing: ``make screenshots``.

Each scene is a notebook that runs in a real JupyterLab on the embedded model. When it is ready it is pictured in
the light and in the dark theme, narrow and wide. Look at each picture before you commit it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import nbformat
from PIL import Image

from tests import ROOT
from tests.browser import (
    DARK,
    LIGHT,
    Notebook,
    find_browser,
    python_notebook,
    show_in_theme,
    start_lab,
    started_browser,
)

FOLDER = ROOT / "notebooks" / "images"

_THEMES = {"light": LIGHT, "dark": DARK}
_WIDTHS = {"narrow": 640, "wide": 1200}
_COLOURS = 128  # keeps a picture below 150 KB


@dataclass(frozen=True)
class Scene:
    """What is to be seen.

    Attributes:
        cells: of the notebook; all but the last are run to their ends.
        ready: waits until the last one shows what it should.
        output: number of the cell whose output is pictured.
    """

    cells: Sequence[str]
    ready: Callable[[Notebook], object]
    output: int


_SETUP = """%load_ext dspy_nb
from typing import Literal
import dspy
import dspy_nb as nb
from dspy_nb import demo
dspy.configure(lm=nb.local_lm(), adapter=dspy.JSONAdapter())
train, val, test = nb.split(demo.reviews(), (40, 20, 40), seed=0, stratify="sentiment")
program = dspy.Predict("review -> sentiment: Literal['positive', 'negative']")
program.signature = program.signature.with_instructions("Is the review positive or negative?")"""


def _progress_is_ready(notebook: Notebook) -> None:
    def scored() -> int:
        said = re.search(r"^candidates\n(\d+)$", notebook.text(), re.MULTILINE)
        return int(said[1]) if said else 0

    notebook.wait_until(lambda: scored() >= 8, "no candidates", 900)


def _registry_is_ready(notebook: Notebook) -> None:
    notebook.wait_for(".dspy-nb-browser")
    page = notebook.page
    checks = page.locator(".dspy-nb-row input[type=checkbox]:visible")
    notebook.wait_until(lambda: checks.count() == 2, "no versions")
    checks.nth(1).check()
    checks.nth(0).check()
    page.locator(".dspy-nb-ref", has_text="1.0.0").click()
    page.get_by_role("button", name="Promote…").click()
    notebook.wait_until(lambda: "Confirm: promote" in notebook.text(), "the form does not open")


def _interval_is_ready(notebook: Notebook) -> None:
    svg = notebook.page.locator("svg.scores")
    notebook.wait_until(
        lambda: (
            svg.count() and int(re.findall(r"after (\d+)", svg.first.get_attribute("aria-label"))[0]) >= 30
        ),
        "too little is compared",
        240,
    )


SCENES = {
    "progress": Scene(
        [
            _SETUP,
            "%dspy_optimize program --train train --val val --metric exact_match:sentiment --threads 4 "
            "--optimizer BootstrapFewShotWithRandomSearch --option num_candidate_programs=20 "
            "--option max_labeled_demos=2 --option max_bootstrapped_demos=2 --budget-calls 600",
        ],
        _progress_is_ready,
        1,
    ),
    "registry": Scene(
        [
            "%load_ext dspy_nb\nimport shutil\n"
            f"shutil.copytree({str(FOLDER.parents[1] / 'registry')!r}, 'registry', symlinks=True);",
            "%dspy_registry",
        ],
        _registry_is_ready,
        1,
    ),
    "ab": Scene(
        [
            _SETUP,
            "taught = program.deepcopy()\n"
            "taught.demos = [dspy.Example(review='I loved it.', sentiment='positive'), "
            "dspy.Example(review='Awful food.', sentiment='negative')]\nreviews = demo.reviews()",
            "%dspy_ab program taught --data reviews --metric exact_match:sentiment --margin .05 --threads 2",
        ],
        _interval_is_ready,
        2,
    ),
}


def main(names: Sequence[str]) -> int:
    """Make the pictures of the scenes with these names, or of all."""
    browser_path = find_browser()
    if browser_path is None:
        print("no browser: install chromium", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = stack.enter_context(start_lab(home))
        browser = stack.enter_context(started_browser(browser_path))
        for name in names or SCENES:
            scene = SCENES[name]
            file = lab.root / f"{name}.ipynb"
            nbformat.write(python_notebook(*scene.cells), file)
            page = browser.new_page(viewport={"width": 1200, "height": 1400})
            notebook = Notebook(page, lab, file)
            last = len(scene.cells) - 1
            for number in range(last):
                notebook.run(number, 240)
            notebook.start(last)
            scene.ready(notebook)
            for picture in _pictures(notebook, scene.output, name):
                print(
                    picture.relative_to(FOLDER.parents[1]),
                    f"{picture.stat().st_size / 1024:.0f} KB",
                    flush=True,
                )
            lab.shut_down_kernels()
            page.close()
    return 0


def _pictures(notebook: Notebook, output: int, name: str) -> list[Path]:
    made = []
    for theme, title in _THEMES.items():
        show_in_theme(notebook.page, title)
        for size, width in _WIDTHS.items():
            notebook.page.set_viewport_size({"width": width, "height": 2600})
            notebook.page.wait_for_timeout(1500)  # for the theme's style sheet, and JupyterLab's layout
            file = FOLDER / f"{name}-{theme}-{size}.png"
            notebook.screenshot(file, f".jp-CodeCell >> nth={output} >> .jp-Cell-outputArea")
            _shrink(file)
            made.append(file)
    return made


def _shrink(file: Path) -> None:
    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
