"""The registry browser, driven without a browser."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from IPython.utils.capture import capture_output

from dspy_nb.core.errors import InputError
from dspy_nb.core.registry.registry import Registry
from dspy_nb.notebook.widgets.registry import RegistryBrowser
from dspy_nb.notebook.widgets.version_list import ROWS_A_PAGE
from dspy_nb.views.rendering.style import STYLE
from tests import ROOT
from tests.browser import python_notebook
from tests.children import Children
from tests.registry_samples import GATE, Run, program

EXAMPLE = ROOT / "registry"
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    made = Registry(tmp_path / "registry")
    for instructions in ("Say it.", "Say it well."):
        made.register(program(instructions), "m")
    made.register(Run(), "other")
    return made


def shown(browser: RegistryBrowser) -> list[str]:
    return [row.ref for row in browser.list.rows if row.view.layout.display != "none"]


def do(browser: RegistryBrowser, action: str) -> None:
    browser.actions.buttons[action].click()
    browser.actions.confirm.click()


def test_versions_are_listed_filtered_and_sorted(registry: Registry) -> None:
    browser = RegistryBrowser(registry)
    assert shown(browser) == ["m@1.1.0", "m@1.0.0", "other@1.0.0"]
    browser.list.filter.value = "MIPRO other"
    assert shown(browser) == ["other@1.0.0"]
    browser.list.filter.value = ""
    browser.list.order.value = "score"
    assert shown(browser)[0] == "other@1.0.0"
    browser.list.ascending.value = True
    assert shown(browser)[-1] == "other@1.0.0"
    assert browser.list.ascending.description == "⇅ Reversed"  # not by colour alone


def test_a_version_shows_its_card_evaluation_and_history(registry: Registry) -> None:
    browser = RegistryBrowser(registry)
    browser.list.rows[2].button.click()
    card, evaluation, history, _ = (page.value for page in browser.tabs.children)
    assert "MIPROv2" in card
    assert "84.0%" in evaluation
    assert "register" in history


def test_an_evaluation_is_shown_as_its_report() -> None:
    browser = RegistryBrowser(Registry(EXAMPLE))
    browser.open("sentiment@1.1.0")
    evaluation = browser.tabs.children[1].value
    assert "Predict on 120 examples" in evaluation
    assert "<td>negative</td>" in evaluation
    assert "{" not in evaluation.replace(STYLE, "")  # no dictionary is shown as it is


def test_the_rows_are_a_table_and_what_can_be_clicked_has_a_name(registry: Registry) -> None:
    listed = RegistryBrowser(registry).list
    assert listed.rows[2].check.description == "Compare other@1.0.0"
    assert listed.rows[2].button.tooltip == "Open other@1.0.0"
    table = listed.table.value
    assert '<table class="versions" aria-label="Versions">' in table
    assert table.count("<tr") == 4
    assert '<th scope="row"><span class="said">other@1.0.0</span></th>' in table
    assert '<span title="MIPROv2">MIPROv2</span>' in table


def test_the_columns_are_chosen_one_by_one(registry: Registry) -> None:
    browser = RegistryBrowser(registry, columns=["stage", "score"])
    assert "MIPROv2" not in browser.list.table.value
    assert "measured on" not in browser._saved_table()["text/plain"]
    browser.list.choices["optimizer"].value = True
    browser.list.choices["score"].value = False
    assert "MIPROv2" in browser.list.table.value
    assert "84.0%" not in browser.list.table.value
    with pytest.raises(InputError, match=r"column 'stge' is not known: did you mean stage\?"):
        RegistryBrowser(registry, columns=["stge"])


def test_two_versions_that_are_ticked_in_either_order_are_compared_from_the_older_on(
    registry: Registry,
) -> None:
    for first, second in ((0, 1), (1, 0)):
        browser = RegistryBrowser(registry)
        browser.list.rows[first].check.value = True
        browser.list.rows[second].check.value = True
        page = browser.tabs.children[3].value
        assert "--- m@1.0.0" in page
        assert "+++ m@1.1.0" in page


def test_what_is_live_has_a_badge_apart_from_its_stage(registry: Registry) -> None:
    staging = registry.environment("staging")
    for version in ("1.0.0", "1.1.0"):
        registry.promote(f"m@{version}", "staging")
        staging.deploy(f"m@{version}")
    staging.rollback()
    registry.environment("beta", create=True).deploy("m@1.0.0")
    browser = RegistryBrowser(registry)
    row = browser.list.table.value.split("<tr")[3]
    assert "m@1.0.0" in row
    assert '<span class="badge">live in beta</span><span class="badge">live in staging</span>' in row
    assert browser.list.table.value.count("live in staging") == 1
    browser.open("m@1.0.0")
    assert "live in staging" in browser._chosen.value
    assert "live in beta, live in staging" in browser._saved_table()["text/plain"]
    staging.canary("m@1.1.0", share=0.05)
    browser.refresh()
    assert '<span class="badge">canary 5% in staging</span>' in browser.list.table.value
    assert "canary 5% in staging" in browser._saved_table()["text/plain"]


def test_promote_on_what_is_in_production_offers_no_stage_until_one_is_chosen(registry: Registry) -> None:
    registry.promote("m@1.0.0", "production", force=True, reason="a test")
    browser = RegistryBrowser(registry)
    browser.open("m@1.0.0")
    browser.actions.buttons["promote"].click()
    assert browser.actions.stage.value == ""
    assert browser.actions.confirm.disabled
    assert "nothing is above that" in browser.actions._evidence.value
    browser.actions.stage.value = "deprecated"
    assert not browser.actions.confirm.disabled


def test_the_form_ticks_off_what_is_required_and_confirm_is_off_until_it_may_work(registry: Registry) -> None:
    registry.promote("m@1.1.0", "staging")
    browser = RegistryBrowser(registry)
    browser.open("m@1.1.0")
    form = browser.actions
    form.buttons["promote"].click()
    assert form.stage.value == "production"
    assert form.confirm.disabled
    assert "✗ not met: <strong>an evaluation</strong> (there is none)" in form._evidence.value
    form.force.value = True
    assert form.confirm.disabled
    assert "give a reason" in form._evidence.value
    form.reason.value = "an outage"
    assert not form.confirm.disabled
    form.force.value = False
    assert form.confirm.disabled
    registry.attach("m@1.1.0", GATE)
    browser.refresh()
    assert not form.confirm.disabled
    assert "✓ met: <strong>a passed gate or A/B verdict</strong> (gate, passed" in form._evidence.value
    form.buttons["deploy"].click()
    form.environment.value = "prodution"
    assert form.confirm.disabled
    assert "did you mean production" in form._evidence.value
    form.create.value = True
    assert not form.confirm.disabled
    form.buttons["rollback"].click()
    assert form.confirm.disabled
    assert "prodution" not in registry.environments()


def test_two_checked_versions_are_compared_and_a_third_replaces_the_first(registry: Registry) -> None:
    browser = RegistryBrowser(registry)
    browser.list.rows[1].check.value = True
    browser.list.rows[0].check.value = True
    assert "- Say it.<" in browser.tabs.children[3].value
    assert "+ Say it well.<" in browser.tabs.children[3].value
    browser.list.rows[2].check.value = True
    assert [row.check.value for row in browser.list.rows[:3]] == [True, False, True]
    browser.list.filter.value = "other"
    browser.list.filter.value = ""
    assert [row.check.value for row in browser.list.rows[:3]] == [True, False, True]


def test_nothing_is_done_before_it_is_confirmed(registry: Registry) -> None:
    browser = RegistryBrowser(registry)
    browser.open("m@1.1.0")
    browser.actions.buttons["promote"].click()
    assert browser.actions.form.layout.display is None
    assert browser.actions.confirm.description == "Confirm: promote m@1.1.0 to staging"
    assert registry.get("m@1.1.0").stage == "development"
    browser.actions.cancel.click()
    browser.actions.confirm.click()
    assert registry.get("m@1.1.0").stage == "development"


def test_promote_deploy_roll_back_and_archive_go_into_the_history(registry: Registry) -> None:
    browser = RegistryBrowser(registry)
    for ref in ("m@1.0.0", "m@1.1.0"):
        registry.promote(ref, "staging")
        registry.attach(ref, GATE)
        browser.refresh()
        browser.open(ref)
        browser.actions.buttons["promote"].click()
        browser.actions.stage.value = "production"
        browser.actions.by.value, browser.actions.reason.value = "ann", "it is better"
        browser.actions.confirm.click()
        assert f"{ref} is in production" in browser.message.value
        do(browser, "deploy")
        assert f"{ref} is live in production" in browser.message.value
    promoted = registry.history("m")[-1]
    assert (promoted.by, promoted.reason) == ("ann", "it is better")
    do(browser, "rollback")
    assert "m@1.0.0 is live in production" in browser.message.value
    assert registry.environment("production").current == registry.get("m@1.0.0")
    do(browser, "archive")
    assert "Refused: " in browser.message.value  # it is in production
    browser.open("other@1.0.0")
    do(browser, "archive")
    assert registry.get("other@1.0.0").stage == "archived"


def test_a_refusal_is_one_line_in_the_browser_and_changes_nothing(registry: Registry) -> None:
    browser = RegistryBrowser(registry)
    registry.promote("m@1.1.0", "staging")
    browser.refresh()
    browser.open("m@1.1.0")
    browser.actions.buttons["promote"].click()
    browser.actions.stage.value = "production"
    browser.actions.confirm.click()
    assert "Refused: production needs an evaluation of m@1.1.0" in browser.message.value
    assert 'role="alert"' in browser.message.value
    assert registry.get("m@1.1.0").stage == "staging"
    browser.actions.force.value = True
    browser.actions.confirm.click()
    assert "needs a reason" in browser.message.value
    browser.actions.cancel.click()
    browser.actions.buttons["deploy"].click()
    browser.actions.environment.value = "a/b"
    assert browser.actions.confirm.disabled
    browser.actions.environment.value = "production"
    browser.actions.confirm.click()
    assert "accepts versions in production" in browser.message.value


def test_a_confirmation_of_what_is_no_longer_so_is_refused(registry: Registry) -> None:
    browser = RegistryBrowser(registry)
    browser.open("m@1.1.0")
    browser.actions.buttons["promote"].click()
    Registry(registry.root).attach("m@1.1.0", {**GATE, "passed": False})
    browser.actions.confirm.click()
    assert "Conflict: the registry changed" in browser.message.value
    assert registry.get("m@1.1.0").stage == "development"
    browser.actions.confirm.click()
    assert registry.get("m@1.1.0").stage == "staging"


def test_what_is_hostile_is_shown_as_text(registry: Registry) -> None:
    made = registry.register(
        program(HOSTILE), "m", notes=HOSTILE, metadata={"optimizer": HOSTILE, "base_model": HOSTILE},
        evaluation={"score": 0.5, "n": 2, HOSTILE: HOSTILE}, by=HOSTILE,
    )  # fmt: skip
    registry.promote(made, "staging", reason=HOSTILE, evidence={"kind": "gate", "verdict": HOSTILE})
    browser = RegistryBrowser(registry)
    browser.open(made.ref)
    browser.list.rows[0].check.value = browser.list.rows[1].check.value = True
    browser.actions.buttons["promote"].click()
    browser._tell(HOSTILE, True)
    pages = [widget.value for widget in _html_widgets(browser.view)]
    pages.append(browser._saved_table()["text/html"])
    assert any("&lt;script&gt;" in page for page in pages)
    assert not [page for page in pages if "<script" in page or "<img" in page]


def _html_widgets(widget):
    import ipywidgets

    if isinstance(widget, ipywidgets.HTML):
        yield widget
    for child in getattr(widget, "children", ()):
        yield from _html_widgets(child)


def promote(root: Path) -> None:
    Registry(root).promote("m", "staging")


def test_what_another_process_writes_shows_by_itself_until_it_is_closed(
    registry: Registry, children: Children
) -> None:
    async def look() -> None:
        browser = RegistryBrowser(registry)
        browser.follow()
        children(promote, registry.root).rest()
        for _ in range(600):  # it looks once a second; a minute bounds a hang
            if "staging" in browser.list.table.value:
                break
            await asyncio.sleep(0.1)
        assert "◐ staging" in browser.list.table.value
        browser.close()
        assert browser._timer is None

    asyncio.run(look())


def test_only_the_newest_browsers_look_for_changes(registry: Registry) -> None:
    async def open_many() -> None:
        browsers = [RegistryBrowser(registry) for _ in range(6)]
        for browser in browsers:
            browser.follow()
        assert [browser._timer is not None for browser in browsers] == [False] * 2 + [True] * 4
        for browser in browsers:
            browser.close()

    asyncio.run(open_many())


def test_a_browser_that_does_not_follow_shows_what_is_new_when_a_version_is_opened(
    registry: Registry,
) -> None:
    browser = RegistryBrowser(registry)
    Registry(registry.root).promote("m@1.1.0", "staging")
    browser.open("m@1.1.0")
    assert "staging" in browser.list.table.value


def test_damage_to_one_model_is_told_and_the_others_go_on(registry: Registry) -> None:
    browser = RegistryBrowser(registry)
    browser.open("m@1.1.0")
    entry = registry.root / "models" / "m" / "log" / "000002.json"
    content = entry.read_bytes()
    entry.write_bytes(content[: len(content) // 2])
    registry.promote("other@1.0.0", "staging")
    browser.refresh()
    warning = browser._warning.value
    assert f"model m: {entry} is torn or was edited" in warning
    assert 'role="alert"' in warning
    assert shown(browser) == ["other@1.0.0"]
    assert "staging" in browser.list.table.value
    assert browser.actions.buttons["promote"].disabled
    assert f"Warning: model m: {entry}" in " ".join(browser._saved_table()["text/plain"].split())
    assert "model m: " in browser._saved_table()["text/html"]
    entry.write_bytes(content)
    browser.refresh()
    assert browser._warning.value == ""
    assert shown(browser) == ["m@1.1.0", "m@1.0.0", "other@1.0.0"]


def test_an_empty_registry_says_so(tmp_path: Path) -> None:
    browser = RegistryBrowser(Registry(tmp_path / "none"))
    assert shown(browser) == []
    assert "no versions yet" in browser.list.where.value
    assert not (tmp_path / "none").exists()


def test_the_saved_table_is_an_output_of_its_own(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = RegistryBrowser(registry)._saved_table()
    assert "m@1.1.0" in bundle["text/html"]
    assert "m@1.1.0" in bundle["text/plain"]


@pytest.mark.usefixtures("ipython")
def test_the_saved_table_follows_the_registry(registry: Registry) -> None:
    with capture_output():
        browser = RegistryBrowser(registry)
        browser._ipython_display_()
        (handle,) = browser._saved
        bundles: list[dict[str, str]] = []
        handle.update = lambda bundle, raw: bundles.append(bundle)
        registry.promote("m@1.0.0", "staging")
        browser.refresh()
        browser.refresh()
    (bundle,) = bundles
    assert "staging" in bundle["text/plain"]
    assert "dspy-nb-saved" in bundle["text/html"]


def test_there_are_no_more_rows_than_were_needed(registry: Registry) -> None:
    browser = RegistryBrowser(registry, filter="other")
    assert len(browser.list.rows) == 1
    first = browser.list.rows[0]
    browser.list.filter.value = ""
    assert len(browser.list.rows) == 3
    browser.list.filter.value = "other"
    assert shown(browser) == ["other@1.0.0"]
    assert browser.list.rows[0] is first


@pytest.mark.heavy
@pytest.mark.parametrize("versions", [130, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_versions_take_one_page_of_rows(registry: Registry, versions: int) -> None:
    for number in range(versions - 3):
        registry.register(program(f"Say {number}."), "many", bump="patch")
    browser = RegistryBrowser(registry)
    assert len(shown(browser)) == len(browser.list.rows) == ROWS_A_PAGE
    assert f"1–{ROWS_A_PAGE} of {versions:,}" in browser.list.where.value
    for _ in range(100):
        browser.list.next.click()
    assert browser.list.next.disabled
    assert len(shown(browser)) == (versions - 1) % ROWS_A_PAGE + 1


@pytest.mark.heavy
def test_a_notebook_that_is_run_headless_has_the_table(registry: Registry) -> None:
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    source = f"%load_ext dspy_nb\n%dspy_registry m --registry {registry.root}"
    notebook = python_notebook(source)
    NotebookClient(notebook, timeout=120).execute()
    live, saved = notebook.cells[0].outputs
    assert live.data["text/plain"] == ""
    assert "RegistryBrowser" not in HTMLExporter().from_notebook_node(notebook)[0].replace(source, "")
    assert "application/vnd.jupyter.widget-view+json" in live.data
    assert "m@1.1.0" in saved.data["text/html"]
    assert "m@1.1.0" in saved.data["text/plain"]
