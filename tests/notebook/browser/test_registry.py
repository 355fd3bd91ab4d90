"""The registry browser in a real JupyterLab, on a copy of the example registry."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dspy_nb.core.registry.registry import Registry
from tests import ROOT
from tests.browser import DARK, LIGHT
from tests.registry_samples import GATE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

EXAMPLE = ROOT / "registry"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    shutil.copytree(EXAMPLE, tmp_path / "registry", symlinks=True)
    return Registry(tmp_path / "registry")


def test_versions_are_browsed_compared_promoted_rolled_back_and_there_after_a_reload(
    lab, open_notebook, registry
):
    registry.attach("sentiment@1.0.0", GATE)
    notebook = open_notebook(
        "%load_ext dspy_nb\nimport ipywidgets",
        "print('my own print')\ndisplay(ipywidgets.Label('my own widget'))\n"
        f"%dspy_registry --registry {registry.root}",
    )
    notebook.run(0)
    notebook.run(1)
    notebook.wait_for(".dspy-nb-browser")
    page, output = notebook.page, notebook.output(1)

    def button(name):
        return page.locator(".dspy-nb-browser").get_by_role("button", name=name)

    def says(words):
        notebook.wait_until(lambda: words in output.inner_text(), f"it does not say {words!r}")

    says("1–2 of 2 versions")
    table = page.locator(".dspy-nb-saved")
    assert not table.is_visible()

    page.get_by_placeholder("name, stage, optimizer…").fill("Labeled")
    says("1–1 of 1 versions")
    page.get_by_placeholder("name, stage, optimizer…").fill("")
    says("1–2 of 2 versions")

    for version in ("1.0.0", "1.1.0"):
        page.get_by_role("checkbox", name=f"Compare sentiment@{version}").check()
    says("+ optimizer: BootstrapFewShotWithRandomSearch")
    says("better by 21.7 points")

    button("sentiment@1.0.0").click()
    page.get_by_role("tab", name="Model card").click()
    says("How it was made")
    button("Deploy…").click()
    says("✗ not met: the stage production (it is in deprecated)")  # a refusal explains itself beforehand
    confirm = button("Confirm: deploy sentiment@1.0.0 to production")
    assert confirm.is_disabled()
    name = page.locator(".dspy-nb-form input[list]")
    name.fill("prodution")
    name.blur()
    says("no environment 'prodution': did you mean production?")
    assert button("Confirm: deploy").is_disabled()
    button("Cancel").press("Enter")
    notebook.wait_until(  # who uses the keyboard goes on where the form was opened
        lambda: button("Deploy…").evaluate("button => button === document.activeElement"), "focus is lost"
    )

    button("Promote…").click()
    says("✓ met: a passed gate or A/B verdict")
    button("Confirm: promote sentiment@1.0.0 to production").click()
    says("sentiment@1.0.0 is in production")
    assert registry.get("sentiment@1.0.0").stage == "production"
    button("Promote…").click()
    says("nothing is above that")  # no demotion is offered by itself
    assert button("Confirm: promote").is_disabled()
    button("Cancel").click()
    button("Deploy…").click()
    button("Confirm: deploy").click()
    says("live in production: sentiment@1.0.0")
    button("Roll back…").click()
    button("Confirm: roll back production").click()
    says("live in production: sentiment@1.1.0")
    row = page.get_by_role("row", name="sentiment@1.1.0")
    notebook.wait_until(lambda: "live in production" in row.inner_text(), "no badge after the roll-back")
    assert "deprecated" in row.inner_text()  # its stage, which a roll-back does not change
    assert "live in" not in page.get_by_role("row", name="sentiment@1.0.0").inner_text()
    assert registry.environment("production").current == registry.get("sentiment@1.1.0")

    registry.promote("sentiment@1.1.0", "staging")  # by another process
    says("◐ staging")
    assert "my own print" in output.inner_text()
    assert "my own widget" in output.inner_text()

    notebook.wait_until(lambda: "staging" in table.text_content(), "the hidden table does not follow")
    saved = [shown for shown in notebook.save().cells[1].outputs if "dspy-nb-saved" in str(shown)]
    assert "staging" in saved[0].data["text/plain"]  # the table follows, too
    notebook.restart()
    notebook.wait_until(lambda: table.is_visible(), "the table is hidden after a restart")

    notebook.save()
    lab.shut_down_kernels()
    notebook.open()
    notebook.wait_for(".dspy-nb-saved")
    text = output.inner_text()
    assert "sentiment@1.1.0" in text
    assert "my own print" in text
    assert "Error displaying widget" not in text


@pytest.mark.parametrize(
    ("theme", "width"),
    [(LIGHT, 640), pytest.param(DARK, 1200, marks=pytest.mark.slow)],
)
def test_a_comparison_reads_from_the_older_to_the_newer_and_nothing_is_cut_off(
    open_notebook, registry, tmp_path, theme, width
):
    notebook = open_notebook(
        f"%load_ext dspy_nb\n%dspy_registry --registry {registry.root}",
        width=width,
        height=1400,
        theme=theme,
    )
    notebook.run(0)
    notebook.wait_for(".dspy-nb-browser")
    page, output = notebook.page, notebook.output(0)
    for version in ("1.1.0", "1.0.0"):  # the newer one is ticked first
        page.get_by_role("checkbox", name=f"Compare sentiment@{version}").check()
    notebook.wait_until(lambda: "+++ sentiment@1.1.0" in output.inner_text(), "nothing is compared")
    text = output.inner_text()
    assert "--- sentiment@1.0.0" in text
    assert "sentiment@1.0.0 is the older, made 2026-11-23 13:29" in text
    assert "better by 21.7 points [+7.8, +34.7]" in text
    assert "What the newer fixed (50)" in text
    assert page.get_by_role("cell", name="better by 21.7 points").get_attribute("class") == "added"

    table = page.get_by_role("table", name="Versions")
    assert [cell.inner_text() for cell in table.get_by_role("columnheader").all()][1:4] == [
        "stage", "live", "score",
    ]  # fmt: skip
    places = [
        [shown.bounding_box()["y"] for shown in page.locator(f".dspy-nb-browser {rows}").all()]
        for rows in (".dspy-nb-row", "table.versions tr")
    ]
    assert places[0] == pytest.approx(places[1], abs=1)  # names and rows stand side by side
    page.get_by_role("button", name="Columns…").click()
    page.get_by_role("checkbox", name="made from").check()
    notebook.wait_until(lambda: "made from" in table.inner_text(), "the column is not there")
    page.get_by_role("checkbox", name="made from").uncheck()
    notebook.wait_until(lambda: "made from" not in table.inner_text(), "the column is still there")
    seen = page.locator(".dspy-nb-browser").bounding_box()
    right = seen["x"] + seen["width"]
    last = table.get_by_role("columnheader", name="live" if width == 640 else "created (UTC)").bounding_box()
    assert last["x"] + last["width"] <= right + 1
    for shown in (page.locator(".dspy-nb-browser .added").first, page.get_by_text("Both answered the same")):
        box = shown.bounding_box()
        assert box["x"] + box["width"] <= right
    page.get_by_role("button", name="sentiment@1.1.0").click()
    page.get_by_role("button", name="Deploy…").click()
    notebook.wait_for(".dspy-nb-form .met")
    label = page.locator(".dspy-nb-form .widget-label", has_text="environment").first
    assert label.evaluate("label => label.scrollWidth <= label.clientWidth")
    page.mouse.move(0, 0)
    notebook.screenshot(tmp_path / f"{width}-{theme[11:]}.png", ".dspy-nb-browser")
