"""What is silenced: a magic by a trailing semicolon or --quiet, all progress by the configuration."""

from __future__ import annotations

import io
import sys

import dspy
import pytest
from IPython.utils.capture import capture_output

import dspy_nb as nb
from dspy_nb.notebook.magics import _VERBS
from tests.notebook.test_optimize import SEARCH
from tests.scripted import classifier, reviews, scripted_lm

EVALUATE = "%dspy_evaluate program --data test --metric exact_match:sentiment"
LINES = {
    "dspy_optimize": SEARCH,
    "dspy_evaluate": EVALUATE,
    "dspy_ab": "%dspy_ab program other --data test --metric exact_match:sentiment",
    "dspy_promote": "%dspy_promote m@1.0.0 --to staging",
    "dspy_deploy": "%dspy_deploy m@1.0.0 --to development",
    "dspy_rollback": "%dspy_rollback staging",
    "dspy_monitor": "%dspy_monitor staging --no-plot",
    "dspy_presets": "%dspy_presets",
    "dspy_registry": "%dspy_registry",
    "dspy_runs": "%dspy_runs",
    "dspy_sweep": "%dspy_sweep program --train train --val val --test test --metric exact_match:sentiment "
    "--optimizer LabeledFewShot --over seed=0,1",
}
DECIDING = ("dspy_promote", "dspy_deploy", "dspy_rollback")  # not twice
WATCHED = [name for name, verb in _VERBS.items() if any(param.name == "quiet" for param in verb.params)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def cell(magics, workplace, monkeypatch):
    """Runs a cell on a terminal; returns what it returned, printed, displayed, and wrote on stderr."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("DSPY_NB_PROGRESS", raising=False)
    registry = nb.Registry("registry")
    for _ in range(2):
        registry.environment("staging").deploy(registry.register(classifier(), "m"))
    with (workplace / "registry" / "config.toml").open("a") as settings:
        settings.write("[monitor.staging]\nlevel = 0.5\n")
    sets = {"train": reviews(6, "train"), "val": reviews(6, "val"), "test": reviews(20)}
    magics.user_ns.update(program=classifier(), other=classifier(), nb=nb, **sets)

    def run(source: str):
        terminal = Terminal()
        with capture_output(stderr=False) as captured, dspy.context(lm=scripted_lm()):
            monkeypatch.setattr(sys, "stderr", terminal)
            result = magics.run_cell(source)
        return result, captured.stdout, captured.outputs, terminal.getvalue()

    return run


def texts(displayed):
    return [output.data["text/plain"] for output in displayed]


def test_the_lines_are_those_of_all_magics():
    assert set(LINES) == set(_VERBS)
    assert set(WATCHED) == {"dspy_optimize", "dspy_evaluate", "dspy_ab", "dspy_sweep"}


@pytest.mark.parametrize("name", LINES)
def test_a_trailing_semicolon_shows_no_result(cell, name):
    result, printed, displayed, _ = cell(f"{LINES[name]} ;")
    result.raise_error()
    assert result.result is None
    assert displayed == []
    if name not in DECIDING:
        loud, shown, _, _ = cell(LINES[name])
        assert loud.result is not None
        assert len(printed) < len(shown)


@pytest.mark.parametrize("name", WATCHED)
def test_quiet_shows_the_result_alone(cell, name):
    _, printed, _, written = cell(LINES[name])
    assert "LM calls" in printed or name == "dspy_evaluate"
    assert "█" in written
    result, printed, _, written = cell(f"{LINES[name]} --quiet")
    assert result.result is not None
    assert not written
    assert printed
    assert not printed.startswith(("at most", "between"))


@pytest.mark.parametrize("setting", ["%config DspyNb.quiet = True", "%env DSPY_NB_PROGRESS=no"])
def test_the_configuration_and_the_environment_silence_magics_and_python(cell, setting, monkeypatch):
    monkeypatch.setenv("DSPY_NB_PROGRESS", "auto")
    python = "nb.evaluate(program, test, nb.exact_match('sentiment'){})"
    assert "█" in cell(python.format(""))[3]
    cell(setting)
    assert not cell(EVALUATE)[3]
    assert not cell(python.format(""))[3]
    assert "█" in cell(python.format(", progress=True"))[3]


@pytest.mark.parametrize("progress", [None, True, False])
@pytest.mark.parametrize("quiet", [False, True])
def test_in_a_kernel_python_shows_the_panel_unless_told_otherwise(cell, magics, progress, quiet):
    magics.kernel = object()
    cell(f"%config DspyNb.quiet = {quiet}")
    call = f"found = nb.evaluate(program, test, nb.exact_match('sentiment'), progress={progress})"
    result, _, displayed, written = cell(call)
    result.raise_error()
    assert not written
    if progress or (progress is None and not quiet):
        assert any(text.startswith("Evaluated 20 of 20 examples") for text in texts(displayed))
    else:
        assert displayed == []


def test_a_background_call_in_a_kernel_has_its_panel_in_the_cell_that_began_it(cell, magics):
    magics.kernel = object()
    metric = "nb.exact_match('sentiment')"
    call = (
        f"nb.optimize(program, trainset=train, valset=val, metric={metric}, preset='light', background=True)"
    )
    result, _, displayed, _ = cell(f"run = {call}\nrun.wait()")
    result.raise_error()
    assert any(text.startswith("waiting to start") for text in texts(displayed))
    assert any("BootstrapFewShotWithRandomSearch completed" in text for text in texts(displayed))


def test_a_display_says_in_one_line_what_it_shows(ipython):
    assert repr(nb.ProgressPanel()) == "<ProgressPanel: waiting to start>"
