"""The magic %dspy_evaluate, in a real shell, in a kernel, and as nbmake sees it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import nbformat
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_notebook
from nbmake.nb_run import NotebookRun

import dspy_nb as nb
from dspy_nb import demo
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

ROOT = Path(nb.__file__).parents[1]
EVALUATE = "%dspy_evaluate program --data test --metric exact_match:sentiment"


class Notebook:
    """A shell with the extension, and what its cells wrote."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.engine = ScriptedEngine()
        program = classifier()
        program.demos = [{"review": "good", "sentiment": "positive"}]  # with demos it is always right
        shell.user_ns.update(
            program=program, weak=classifier(), test=reviews(30, "test"), lm=scripted_lm(self.engine)
        )

    def cell(self, source: str):
        """Run a cell; return how it ended, what it printed, and what it displayed."""
        with capture_output() as captured, dspy.context(lm=self.shell.user_ns["lm"]):
            result = self.shell.run_cell(source)
        return result, captured.stdout, captured.outputs

    def run(self, source: str):
        result, printed, _ = self.cell(source)
        result.raise_error()
        return result.result, printed

    def fail(self, source: str, spent: bool = False) -> str:
        before = self.engine.calls
        result, printed, _ = self.cell(source)
        assert isinstance(result.error_in_exec, nb.DspyNbError), result.error_in_exec
        assert spent or self.engine.calls == before
        assert "Traceback" not in printed
        return [line for line in printed.splitlines() if line.strip()][-1]

    def __getitem__(self, name: str):
        return self.shell.user_ns[name]


@pytest.fixture
def notebook(tmp_path, monkeypatch, magics):
    monkeypatch.chdir(tmp_path)
    return Notebook(magics)


def test_it_returns_the_evaluation_and_keeps_it(notebook):
    value, printed = notebook.run(f"{EVALUATE} -o ev --threads 4 --by sentiment --confidence 0.9")
    assert value is notebook["ev"] is notebook["_dspy_evaluation"]
    assert value.score == 1.0
    assert value.confidence == 0.9
    assert set(value.slices) == {"positive", "negative"}
    assert set(value.per_class) == {"positive", "negative"}
    assert printed.count(value.report()) == 1


def test_an_executor_of_the_notebook_does_the_asking(notebook):
    asked = []

    class Noting(ThreadPoolExecutor):
        def submit(self, *work):
            asked.append(len(work))
            return super().submit(*work)

    with Noting(2) as pool:
        notebook.shell.user_ns["pool"] = pool
        evaluation, _ = notebook.run(f"{EVALUATE} --scheduler pool")
    assert evaluation.n == 30
    assert asked
    wanted = r"--scheduler must be a concurrent.futures.Executor, .*'tcp://host:port'; got 'nobody'"
    assert re.search(wanted, notebook.fail(f"{EVALUATE} --scheduler nobody"))


def test_a_trailing_semicolon_silences_it(notebook):
    value, printed = notebook.run(f"{EVALUATE} -o ev;")
    assert (value, printed) == (None, "")
    assert notebook["ev"].n == 30


def test_several_metrics_repeats_and_a_function_as_slices(notebook):
    notebook.shell.user_ns.update(
        first_letter=lambda example: example.review[0],
        lm=scripted_lm(notebook.engine, temperature=0.7),
        graded=nb.token_f1("sentiment"),
    )
    value, _ = notebook.run(f"{EVALUATE} --metric graded --repeats 2 --by first_letter --label sentiment")
    assert list(value.metrics) == ["exact_match('sentiment')", "token_f1('sentiment')"]
    assert (value.n, value.by) == (60, "<lambda>")


def test_defaults_come_from_the_configuration(notebook):
    value, _ = notebook.run(f"%config DspyNb.confidence = 0.8\n{EVALUATE}")
    assert value.confidence == 0.8


def test_a_gate_that_passes_says_so(notebook):
    value, printed = notebook.run(f"{EVALUATE} --gate min_score=0.8 --gate per_class.positive.recall=0.7")
    assert value.score == 1.0
    assert "Gate passed" in printed


def test_a_gate_that_fails_shows_the_report_and_then_fails_the_cell(notebook):
    line = EVALUATE.replace("program", "weak")
    result, printed, outputs = notebook.cell(f"{line} --gate min_score=0.95 --gate min_n=100 -o ev")
    assert isinstance(result.error_in_exec, nb.GateFailed)
    assert len(result.error_in_exec.reasons) == 2
    assert notebook["ev"].n == 30
    assert "exact_match" in outputs[0].data["text/html"]
    assert printed.index("Gate said no") < printed.index("GateFailed: score")


def test_evidence_is_recorded_with_the_version_and_opens_the_way_to_production(notebook):
    registry = nb.Registry("registry")
    registry.register(notebook["program"], "sentiment")
    registry.promote("sentiment@1.0.0", "staging")
    said = notebook.fail(f"{EVALUATE} --gate min_score=0.99 --register-with sentiment@1.0.0;", spent=True)
    assert said.startswith("GateFailed: ")
    with pytest.raises(nb.Refused):
        registry.promote("sentiment@1.0.0", "production")
    _, printed = notebook.run(f"{EVALUATE} --gate min_score=0.8 --register-with sentiment@1.0.0")
    assert "recorded the gate that passed with sentiment@1.0.0" in printed
    assert registry.promote("sentiment@1.0.0", "production").stage == "production"


def test_without_a_gate_the_evaluation_is_the_evidence(notebook):
    registry = nb.Registry("elsewhere")
    registry.register(notebook["program"], "sentiment")
    line = EVALUATE.replace(" program", " sentiment@1.0.0")
    notebook.run(f"{line} --register-with sentiment@1.0.0 --registry elsewhere;")
    evidence = registry.history("sentiment")[-1].evidence
    assert (evidence.kind, evidence.n, evidence.score) == ("evaluation", 30, 1.0)


def test_evidence_about_another_program_is_refused_before_anything_is_spent(notebook):
    nb.Registry("registry").register(notebook["program"], "sentiment")
    said = notebook.fail(f"{EVALUATE.replace('program', 'weak')} --register-with sentiment@1.0.0")
    assert "the program is not sentiment@1.0.0: it differs in self" in said


def test_a_gate_compares_with_the_version_in_production(notebook):
    registry = nb.Registry("registry")
    evaluation, _ = notebook.run(EVALUATE)
    registry.register(notebook["program"], "sentiment", evaluation=evaluation.to_dict())
    line = EVALUATE.replace("program", "weak")
    said = notebook.fail(f"{line} --gate not_worse_than=sentiment@1.0.0 --gate margin=0.05;", spent=True)
    assert "from the reference" in said
    said = notebook.fail(f"{line} --gate not_worse_than=sentiment@production")
    assert said.startswith("NotFound: ")


def test_a_plan_is_one_line_and_evaluates_nothing(notebook):
    value, printed = notebook.run("%dspy_evaluate --plan 0.05 -o needed")
    assert value == nb.plan(0.05) == notebook["needed"]
    assert printed.strip().endswith(str(value))
    assert notebook.engine.calls == 0
    assert "_dspy_evaluation" not in notebook.shell.user_ns


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%dspy_evaluate", "give a program, --model REF, or both"),
        ("%dspy_evaluate program --metric exact_match:sentiment", "Missing option '--test-data'"),
        ("%dspy_evaluate program --data test", "give --metric, such as exact_match:label"),
        ("%dspy_evaluate programm --data test --metric exact_match:sentiment", "did you mean program?"),
        (f"{EVALUATE} --gate accuracy=0.5", "gate 'accuracy=0.5' must be like min_score=0.85"),
        (f"{EVALUATE} --gaet min_score=0.5", "Did you mean one of: '--data', '--gate'"),
        (f"{EVALUATE} --by colour", "example 1 has no such field"),
        (f"{EVALUATE} --confidence 95", "confidence must be"),
        (f"{EVALUATE} --register-with sentiment@1.0.0", "sentiment"),
        (f"{EVALUATE} --plan 0.05", "--plan evaluates nothing; PROGRAM does not go with it"),
        ("%dspy_evaluate --plan 5", "--plan must be"),
        ("%dspy_evaluate sentiment@1.0.0 --data test --metric exact_match:sentiment", "sentiment"),
        (f"{EVALUATE} -o 1st", "not a name that Python allows"),
    ],
)
def test_mistakes_are_one_line_and_cost_nothing(notebook, line, message):
    assert message in notebook.fail(line)


def test_help_lists_the_arguments(notebook):
    value, printed = notebook.run("%dspy_evaluate --help")
    assert value is None
    assert "--register-with" in printed


def test_completion_offers_conditions_and_data(notebook):
    def offered(text):
        with provisionalcompleter():
            return {found.text for found in notebook.shell.Completer.completions(text, len(text))}

    assert {"min_score=", "not_worse_than="} <= offered("%dspy_evaluate program --gate ")
    assert "test" in offered("%dspy_evaluate program --data ")
    assert "program" in offered("%dspy_evaluate ")


def test_unloading_takes_the_magic_away(notebook):
    notebook.shell.extension_manager.unload_extension("dspy_nb")
    assert notebook.shell.find_line_magic("dspy_evaluate") is None
    notebook.shell.extension_manager.load_extension("dspy_nb")
    assert notebook.shell.find_line_magic("dspy_evaluate") is not None


_SETUP = """
import dspy
from tests.scripted import classifier, reviews, scripted_lm
dspy.configure(lm=scripted_lm())
program, test = classifier(), reviews(30)
%load_ext dspy_nb
"""


@pytest.mark.heavy
def test_nbmake_fails_a_notebook_where_the_gate_says_no(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "")
    file = tmp_path / "gated.ipynb"
    cells = [_SETUP, *(f"{EVALUATE} --gate min_score={least}" for least in (0.1, 0.99))]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, file)
    result = NotebookRun(file, 120).execute()
    passed, failed = (
        [
            output
            for output in cell.outputs
            if output.output_type != "display_data" or output.data["text/plain"]
        ]
        for cell in result.nb.cells[1:]  # not where Stop was
    )
    for outputs in (passed, failed):
        assert "Evaluated 30 of 30 examples" in outputs[0].data["text/plain"]
    assert passed[1].text.startswith("Gate passed")
    assert result.error is not None
    assert "GateFailed: score" in result.error.summary
    report, gate, error = failed[1:]
    assert "precision" in report.data["text/html"]
    assert gate.text.startswith("Gate said no")
    assert len(error.traceback) == 1


@pytest.mark.local_model
def test_the_embedded_model_is_evaluated_and_gated(notebook):
    lm = nb.local_lm()
    notebook.shell.user_ns.update(lm=lm, test=demo.reviews()[:8])
    with dspy.context(adapter=dspy.JSONAdapter()):
        value, printed = notebook.run(f"{EVALUATE.replace('program', 'weak')} --threads 4 --gate min_n=8")
    assert "Gate passed" in printed
    assert value.errors.count == 0
    assert value.usage.lm_calls + value.usage.cache_hits == 8
    assert value.base_model == lm.model
