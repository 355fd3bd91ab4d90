"""The magics, in a real shell; test_magics_in_a_kernel.py has a real kernel."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import dspy
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import dspy_nb
from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization.presets import get_preset
from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.core.registry.registry import Registry
from tests.moments import HANG_S, interrupting
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

OPTIMIZE = "%dspy_optimize program --train train --metric exact_match:sentiment"
SEARCH = f"{OPTIMIZE} --val val --preset light"


class Notebook:
    """A shell with the extension, and what its cells wrote."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.engine = ScriptedEngine()
        shell.user_ns.update(
            program=classifier(),
            train=reviews(12, "train"),
            val=reviews(12, "val"),
            test=reviews(30, "test"),
            lm=scripted_lm(self.engine),
        )

    def run(self, cell: str):
        """Run a cell that must succeed; return its value and what it printed."""
        with capture_output() as captured, dspy.context(lm=self.shell.user_ns["lm"]):
            result = self.shell.run_cell(cell)
        result.raise_error()
        return result.result, captured.stdout

    def fail(self, cell: str) -> str:
        """Run a cell that must fail before the model is asked, and return the one line that it shows."""
        before = self.engine.calls
        with capture_output() as captured, dspy.context(lm=self.shell.user_ns["lm"]):
            result = self.shell.run_cell(cell)
        assert isinstance(result.error_in_exec, InputError), result.error_in_exec
        assert self.engine.calls == before
        lines = [line for line in captured.stdout.splitlines() if line.strip()]
        assert lines[-1].startswith("InputError: ")
        assert "Traceback" not in captured.stdout
        return lines[-1]

    def __getitem__(self, name: str):
        return self.shell.user_ns[name]


@pytest.fixture
def shell(tmp_path, monkeypatch, magics):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPY_NB_CONFIG_DIR", str(tmp_path / "config"))
    return magics


@pytest.fixture
def notebook(shell):
    return Notebook(shell)


def test_optimize_returns_the_run_which_shows_as_a_report(notebook):
    run, shown = notebook.run(f"{SEARCH} --test test")
    assert isinstance(run, OptimizationRun)
    assert run.score == 1.0
    assert run.test_after.n == 30
    assert shown.count("held out, never seen by the search") == 1
    formats, _ = notebook.shell.display_formatter.format(run)
    assert "held out" in formats["text/plain"]
    assert '<div class="dspy-nb">' in formats["text/html"]


def test_the_estimate_is_printed_before_anything_is_asked(notebook):
    def expect_the_estimate(number: int) -> None:
        if number == 1:
            print("first call")

    notebook.engine.on_call = expect_the_estimate
    _, shown = notebook.run(f"{SEARCH} --budget-calls 300")
    assert re.match(
        r"between \d+ and \d+ LM calls \(.*\); a race saves up to \d+; budget: 300 LM calls\n", shown
    )
    assert shown.index("between") < shown.index("first call")


def test_an_assigned_run_is_not_shown(notebook):
    value, shown = notebook.run(f"run = {OPTIMIZE}")
    assert value is None
    assert "optimized prompt" not in shown
    assert notebook["run"].status == "completed"


def test_a_run_is_stored_under_a_name_and_shown_once(notebook):
    value, shown = notebook.run(f"{OPTIMIZE} -o run")
    assert notebook["run"] is value
    assert shown.count("The optimized prompt") == 1


def test_a_semicolon_hides_the_run_which_is_still_there(notebook):
    value, shown = notebook.run(f"{OPTIMIZE} --log-file '(odd' ;")
    assert value is None
    assert "The optimized prompt" not in shown
    assert notebook["_dspy_run"].status == "completed"
    assert Path("(odd").exists()


def test_a_report_within_a_list_stays_short(notebook):
    _, shown = notebook.run(f"run = {OPTIMIZE} -q\n[run]")
    assert "[<OptimizationRun: BootstrapFewShot on Predict: completed" in shown


def test_names_are_found_in_the_local_scope_and_by_attribute(notebook):
    cell = f"""
class sets: train = train
def optimize(student):
    found = {OPTIMIZE.replace("program", "student").replace("--train train", "--train sets.train")}
    return found
run = optimize(program)
"""
    notebook.run(cell)
    assert notebook["run"].plan.datasets["train"]["n"] == 12


def test_option_values_are_literals_then_names_then_text(notebook):
    notebook.shell.user_ns["helper"] = scripted_lm(name="scripted/helper")
    notebook.shell.user_ns["rounds"] = 1
    run, _ = notebook.run(
        f"{OPTIMIZE} --val val --optimizer MIPROv2 --option auto=light --option prompt_model=helper "
        "--option \"teacher_settings={'rollout_id': 3}\" --option init_temperature=0.7 --budget-calls 60"
    )
    options = run.plan.options
    assert options["auto"] == "light"
    assert options["prompt_model"].model == "scripted/helper"
    assert options["teacher_settings"] == {"rollout_id": 3}
    assert options["init_temperature"] == 0.7


def test_braces_are_expanded_as_in_every_magic(notebook):
    run, _ = notebook.run(
        f"for n in (1, 2):\n    run = {OPTIMIZE} --option max_bootstrapped_demos={{n}} -q\nrun"
    )
    assert run.plan.options["max_bootstrapped_demos"] == 2


def test_a_metric_can_be_a_function_in_the_notebook(notebook):
    notebook.run("def same(gold, pred): return gold.sentiment == pred.sentiment")
    run, _ = notebook.run("%dspy_optimize program --train train --metric same")
    assert "same" in run.plan.metric


def test_every_argument_reaches_the_run(notebook, tmp_path):
    run, _ = notebook.run(
        f"{SEARCH} --budget-calls 400 --budget-seconds 60 --budget-tokens 90000 --seed 7 --threads 3 "
        "--run-dir kept --log-file events.jsonl --recompile --option max_rounds=2"
    )
    assert str(run.plan.budget) == "400 LM calls, 60 s, 90,000 tokens"
    assert (run.plan.seed, run.plan.num_threads, run.plan.preset) == (7, 3, "light")
    assert run.plan.options["max_rounds"] == 2
    assert (tmp_path / "kept").is_dir()
    assert (tmp_path / "events.jsonl").exists()


def test_a_dry_run_returns_the_estimate_and_asks_nothing(notebook):
    estimate, shown = notebook.run(f"{SEARCH} --dry-run")
    assert notebook.engine.calls == 0
    assert estimate.lm_calls > 0
    assert shown.count("LM calls") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%dspy_optimize", "Missing option '--program'"),
        ("%dspy_optimize progam --train train", "no name 'progam'; did you mean program?"),
        (
            "%dspy_optimize program --train tain",
            "--train: the notebook has no name 'tain'; did you mean train",
        ),
        ("%dspy_optimize program --train train.x", "--train: train has no attribute 'x'"),
        (
            f"{OPTIMIZE} --budget-cals 3",
            "No such option '--budget-cals'. (Did you mean",
        ),
        (f"{OPTIMIZE} --budget 3", "No such option '--budget'"),
        (
            f"{OPTIMIZE} --budget-calls many",
            "Invalid value for '--budget-calls': 'many' is not a valid integer",
        ),
        (f"{OPTIMIZE} --budget-calls -3", "--budget-calls=-3 is not a positive whole number"),
        (f"{OPTIMIZE} --optimizer MIPROv3", "did you mean MIPROv2"),
        (f"{OPTIMIZE} --preset ligth", "unknown preset 'ligth'"),
        (f"{OPTIMIZE} --option num_candidates", "is not name=value"),
        (f"{OPTIMIZE} --option max_rounds=1 --option max_rounds=2", "option 'max_rounds' is given twice"),
        (f"{OPTIMIZE} --option rounds=1", "has no option 'rounds'"),
        (f"{OPTIMIZE} --threads none", "Invalid value for '--threads': 'none' is not a valid integer"),
        (f"{OPTIMIZE} --threads 0", "--threads must be a whole number, 1 or more"),
        (f"{OPTIMIZE} --bump huge --save-as m", "'huge' is not one of 'major', 'minor'"),
        (f"{OPTIMIZE} --bump major", "--bump goes with --save-as"),
        (f"{OPTIMIZE} --registry r", "--registry goes with --save-as"),
        (f"{OPTIMIZE} --save-as ../m", "is not valid"),
        (f"{OPTIMIZE} --save-as m --background", "--save-as does not go with --background"),
        (f"{OPTIMIZE} -o 3x", "not a name that Python allows"),
        (f"{OPTIMIZE} --log-file 'x", "a quotation mark is not closed"),
        ("%dspy_optimize program --train train --metric exact_macht:sentiment", "no metric 'exact_macht'"),
        (
            "%dspy_optimize program --train train.jsonl",
            "no attribute 'jsonl'; there is no such file either",
        ),
        ("%dspy_optimize program --train reviews.csv", "no name 'reviews'; there is no such file either"),
        (
            "%dspy_optimize program --train train --metric exact_match",
            "metric 'exact_match' needs the name of at least one field: exact_match:field",
        ),
        ("%dspy_optimize program --train train --metric trian", "--metric: the notebook has no name 'trian'"),
        ("%dspy_optimize program --train train --metric exact_match:topic", "no field 'topic'"),
        (
            "%dspy_optimize train --train train --metric exact_match:sentiment",
            "PROGRAM must be a dspy.Module",
        ),
        ("%dspy_presets nothing", "unknown preset 'nothing'"),
        ("%dspy_presets light --optimizer COPRO", "--optimizer goes with --save"),
        ("%dspy_presets --save mine", "--save needs --optimizer"),
        ("%dspy_presets light --save mine --optimizer COPRO", "not both"),
        ("%dspy_registry no/model", "is not valid"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_spent(notebook, line, words):
    assert words in notebook.fail(line)


def test_a_mistake_in_our_own_code_keeps_its_traceback(notebook, monkeypatch):
    monkeypatch.setattr("dspy_nb.estimate", lambda *what: 1 / 0)
    with capture_output() as captured:
        result = notebook.shell.run_cell(OPTIMIZE)
    assert isinstance(result.error_in_exec, ZeroDivisionError)
    assert "Traceback" in captured.stdout


def test_an_unreadable_registry_is_found_before_anything_is_spent(notebook, tmp_path):
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "models").write_text("not a folder")
    with capture_output() as captured, dspy.context(lm=notebook["lm"]):
        result = notebook.shell.run_cell(f"{OPTIMIZE} --save-as sentiment")
    assert isinstance(result.error_in_exec, dspy_nb.RegistryError)
    assert "Traceback" not in captured.stdout
    assert notebook.engine.calls == 0


def test_save_as_registers_and_says_where(notebook, tmp_path):
    run, first = notebook.run(f"{SEARCH} --test test --save-as sentiment")
    _, second = notebook.run(f"{OPTIMIZE} --save-as sentiment --bump major")
    changed = "held-out 60.0% -> 100.0%, better"
    assert f"Registered sentiment@1.0.0: {changed}; in registry/models/sentiment/1.0.0\n" in first
    assert "Registered sentiment@2.0.0 in registry/models/sentiment/2.0.0\n" in second
    version = Registry(tmp_path / "registry").get("sentiment@1.0.0")
    assert (version.score, version.interval) == (run.test_after.score, run.test_after.interval)


def test_a_run_that_is_not_shown_says_what_it_came_to_and_what_to_do_next(notebook):
    notebook.run("import dspy_nb as nb")
    _, shown = notebook.run(f"runs = {{}}\nruns['a'] = {SEARCH} --test test -q")
    assert shown.count("Better on held-out examples: 60.0% -> 100.0%.\nNext: Register it: nb.") == 1
    line = shown.split("Register it: ")[1].strip()
    assert notebook.run(line)[0].ref == "my-model@1.0.0"
    _, shown = notebook.run(f"run = {SEARCH} --test test --save-as my-model")
    line = shown.split("deploy it: ")[1].strip()
    assert line == 'nb.Registry("registry").environment("staging").deploy("my-model@1.1.0")'
    notebook.run(line)
    _, shown = notebook.run(f"{SEARCH} --test test -o kept")
    assert shown.count("Next:") == 1  # in the report
    assert 'nb.Registry("registry").register(kept, "my-model")' in " ".join(shown.split())
    _, shown = notebook.run(f"{OPTIMIZE} -q;")
    assert "Nothing was held out, and nothing was scored.\nNext: Score it on examples" in shown
    assert "evaluate(_dspy_run.program" in shown


def test_an_assigned_call_of_python_has_its_name_and_a_background_run_too(notebook):
    cell = "import dspy_nb\nmine = dspy_nb.optimize(program, trainset=train, testset=test, metric=same)"
    notebook.run("def same(gold, pred): return gold.sentiment == pred.sentiment")
    notebook.run(cell)
    assert (
        notebook["mine"].next_step == 'Register it: dspy_nb.Registry("registry").register(mine, "my-model")'
    )
    notebook.run(f"later = {OPTIMIZE} --test test --background")
    assert "register(later, " in notebook["later"].wait(HANG_S).next_step


def test_a_run_that_ended_with_the_program_as_it_was_is_not_registered(notebook, tmp_path):
    run, shown = notebook.run(f"{OPTIMIZE} --budget-seconds 0.000001 --save-as sentiment")
    assert run.origin == "given"
    assert "stopped by seconds before any candidate was scored: nothing is registered" in shown
    assert not (tmp_path / "registry").exists()


def test_a_run_that_cannot_be_registered_is_not_lost(notebook, tmp_path):
    def spoil(number: int) -> None:
        (tmp_path / "registry").write_text("in the way")

    notebook.engine.on_call = spoil
    with capture_output() as captured, dspy.context(lm=notebook["lm"]):
        result = notebook.shell.run_cell(f"{OPTIMIZE} --save-as sentiment")
    assert isinstance(result.error_in_exec, dspy_nb.DspyNbError)
    assert "is kept as _dspy_run" in captured.stdout
    assert notebook["_dspy_run"].status == "completed"


def test_an_interrupt_keeps_the_best_so_far_and_registers_nothing(notebook):
    with interrupting(at=40) as notebook.engine.on_call:
        run, shown = notebook.run(f"{SEARCH} --threads 2 --save-as sentiment")
    assert run.stopped_by == "interrupt"
    assert "The run was interrupted; this is the best candidate until then" in " ".join(shown.split())
    assert "not registered, because the run was interrupted; it is kept as _dspy_run" in shown
    assert 'register(_dspy_run, "sentiment"); --run-dir would have kept' in " ".join(shown.split())
    assert Registry("registry").models() == []


def test_a_background_run_comes_back_at_once(notebook):
    over = threading.Event()
    notebook.engine.on_call = lambda number: over.wait(HANG_S)
    run, shown = notebook.run(f"{SEARCH} --background -o run")
    assert "running" in shown
    run.stop()
    over.set()
    assert run.wait(HANG_S).stopped_by == "stop"


def test_defaults_are_set_with_config_and_checked(notebook, tmp_path, caplog):
    _, listed = notebook.run("%config DspyNb")
    assert "DspyNb.registry" in listed
    notebook.run(
        "%config DspyNb.num_threads = 2\n%config DspyNb.registry = 'elsewhere'\n%config DspyNb.quiet = True"
    )
    run, _ = notebook.run(f"{OPTIMIZE} --save-as sentiment")
    assert run.plan.num_threads == 2
    assert Registry(tmp_path / "elsewhere").models() == ["sentiment"]
    notebook.run("%config DspyNb.confidence = 95")
    assert "between 0 and 1" in caplog.text  # IPython logs what a trait refuses
    assert "0.95" in notebook.run("%config DspyNb.confidence")[1]


def test_presets_are_listed_shown_and_saved(notebook):
    presets, shown = notebook.run("%dspy_presets")
    assert [preset.name for preset in presets][:2] == ["quick-bootstrap", "production-mipro"]
    assert "production-mipro" in shown
    preset, _ = notebook.run("%dspy_presets light")
    assert preset == get_preset("light")
    notebook.run(
        "%dspy_presets --save mine --optimizer miprov2 --option num_candidates=3 "
        "--description 'My own one' --recommended-for 'short reviews' --recommended-for demos"
    )
    mine = get_preset("mine")
    assert mine.options == {"num_candidates": 3}
    assert (mine.optimizer, mine.description) == ("MIPROv2", "My own one")
    assert mine.recommended_for == ("short reviews", "demos")


def test_the_registry_is_listed_as_a_table(notebook):
    empty, shown = notebook.run("%dspy_registry")
    assert empty == []
    assert "No versions yet" in shown
    notebook.run(f"{OPTIMIZE} --save-as sentiment")
    versions, shown = notebook.run("%dspy_registry sentiment")
    assert [version.ref for version in versions] == ["sentiment@1.0.0"]
    assert "development" in shown
    one, _ = notebook.run("%dspy_registry sentiment@latest")
    assert one == versions


def test_help_prints_the_arguments_and_does_nothing(notebook):
    for line in ("%dspy_optimize --help", "%dspy_optimize -h"):
        value, shown = notebook.run(line)
        assert value is None
        assert "--budget-calls N" in shown
    assert "--budget-calls N" in notebook.shell.find_line_magic("dspy_optimize").__doc__


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%dspy_optimize prog", "program"),
        ("%dspy_optimize program --budget-c", "--budget-calls"),
        ("%dspy_optimize program --train tr", "train"),
        ("%dspy_optimize program --optimizer MIP", "MIPROv2"),
        ("%dspy_optimize program --optimizer COPRO --option bre", "breadth="),
        ("%dspy_optimize program --preset light --option num_c", "num_candidate_programs="),
        ("%dspy_optimize program --preset qui", "quick-bootstrap"),
        ("%dspy_optimize program --metric exact", "exact_match:"),
        ("%dspy_optimize program --bump pa", "patch"),
        ("run = %dspy_optimize program --optimizer GE", "GEPA"),
        ("%dspy_presets li", "light"),
        ("%dspy_registry sent", "sentiment"),
        ("%dspy_optimize program --save-as sent", "sentiment"),
    ],
)
def test_tab_completes(notebook, line, expected):
    Registry("registry").register(classifier(), "sentiment")
    with provisionalcompleter():
        found = [c.text for c in notebook.shell.Completer.completions(line, len(line))]
    assert expected in found


def test_completion_survives_a_broken_presets_file(notebook, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "presets.toml").write_text("not = [toml")
    with provisionalcompleter():
        line = "%dspy_optimize program --preset li"
        list(notebook.shell.Completer.completions(line, len(line)))


def test_loading_twice_is_harmless_and_unloading_takes_everything_away(shell):
    dspy_nb.load_ipython_extension(shell)
    assert sum(type(c).__name__ == "DspyNb" for c in shell.configurables) == 1
    dspy_nb.unload_ipython_extension(shell)
    assert shell.find_line_magic("dspy_optimize") is None
    assert not any(type(c).__module__.startswith("dspy_nb") for c in shell.configurables)
    assert OptimizationRun not in shell.display_formatter.formatters["text/html"].type_printers
    assert not [p for p in shell.strdispatchers["complete_command"].regexs if "dspy" in p.pattern]
    dspy_nb.unload_ipython_extension(shell)
    dspy_nb.load_ipython_extension(shell)
    assert shell.find_line_magic("dspy_optimize") is not None
