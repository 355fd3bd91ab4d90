"""The registry browser in a real JupyterLab, on a copy of the example registry."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dspy_nb.core.registry.registry import Registry
from tests import ROOT
from tests.registry_samples import GATE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

EXAMPLE = ROOT / "registry"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    shutil.copytree(EXAMPLE, tmp_path / "registry", symlinks=True)
    return Registry(tmp_path / "registry")


def test_versions_are_browsed_compared_promoted_and_rolled_back(open_notebook, registry):
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

    button("sentiment@1.0.0").click()
    page.get_by_role("tab", name="Model card").click()
    says("How it was made")
    button("Deploy…").click()
    button("Confirm: deploy sentiment@1.0.0 to production").click()
    says("production accepts versions in production")  # a refusal explains itself
    button("Cancel").press("Enter")
    notebook.wait_until(  # who uses the keyboard goes on where the form was opened
        lambda: button("Deploy…").evaluate("button => button === document.activeElement"), "focus is lost"
    )

    button("Promote…").click()
    button("Confirm: promote sentiment@1.0.0 to production").click()
    says("sentiment@1.0.0 is in production")
    assert registry.get("sentiment@1.0.0").stage == "production"
    button("Deploy…").click()
    button("Confirm: deploy").click()
    says("live in production: sentiment@1.0.0")
    button("Roll back…").click()
    button("Confirm: roll back production").click()
    says("live in production: sentiment@1.1.0")
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


def test_after_a_restart_and_a_reload_the_table_is_there_and_no_error(lab, open_notebook, registry):
    notebook = open_notebook(
        "%load_ext dspy_nb", f"print('my own print')\n%dspy_registry --registry {registry.root}"
    )
    notebook.run(0)
    notebook.run(1)
    notebook.wait_for(".dspy-nb-browser")
    notebook.save()
    lab.shut_down_kernels()
    notebook.open()
    notebook.wait_for(".dspy-nb-saved")
    text = notebook.output(1).inner_text()
    assert "sentiment@1.1.0" in text
    assert "my own print" in text
    assert "Error displaying widget" not in text
