"""The recipes of CONTRIBUTING, walked: a new optimizer and a new command touch one place besides their own file.

The third one, a new kind of evidence, is walked in tests/core/models/test_new_evidence.py.
"""

from pathlib import Path

import dspy
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import dspy_nb as nb
from dspy_nb.cli import main as shell
from dspy_nb.commands import common
from dspy_nb.commands.declaration import Verb, argument, command, option
from dspy_nb.commands.surface import Outcome, Surface
from dspy_nb.core.optimization.estimates import Estimate
from dspy_nb.core.optimization.optimizers import OPTIMIZERS, Optimizer
from dspy_nb.notebook import magics
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

METRIC = nb.exact_match("sentiment")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- an optimizer ---------------------------------------------------------------------------------------------


class Shout(dspy.teleprompt.Teleprompter):
    """Scores the program with its instruction in capitals, and takes that."""

    def __init__(self, metric, loud: bool = True):
        super().__init__()
        self.metric, self.loud = metric, loud

    def compile(self, student, trainset, valset):
        for predictor in student.predictors():
            text = predictor.signature.instructions
            predictor.signature = predictor.signature.with_instructions(text.upper() if self.loud else text)
        dspy.Evaluate(devset=valset, metric=self.metric)(student)
        return student


ROW = Optimizer(
    "Shout",
    "the instruction in capitals",
    compares_on="valset",
    writes_demos=False,
    estimate_search=lambda sizes, options: Estimate(evaluation=sizes.val * sizes.calls),
    teleprompter=Shout,
)


@pytest.fixture
def optimizer(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    monkeypatch.setitem(OPTIMIZERS, ROW.name, ROW)
    return ScriptedEngine()


def test_a_new_optimizer_is_a_row_of_the_table(optimizer: ScriptedEngine) -> None:
    sets = {"trainset": reviews(4), "valset": reviews(6, "v"), "testset": reviews(5, "t")}
    task = nb.Task(classifier(), **sets, metric=METRIC, optimizer="shout", options={"loud": True})
    with dspy.context(lm=scripted_lm(optimizer)):
        expected = nb.estimate(task)
        run = nb.optimize(task, budget=nb.Budget(lm_calls=100))
    assert expected.evaluation == 6
    assert (
        expected.lm_calls == 6 + 6 + 2 * 5
    )  # and the program as it was on the valset, and both on the testset
    assert run.usage.lm_calls == optimizer.calls == expected.lm_calls
    assert run.program.predictors()[0].signature.instructions.isupper()
    assert [candidate.full for candidate in run.candidates] == [True]
    version = nb.Registry("registry").register(run, "loud")
    assert version.metadata["optimizer"] == "Shout"
    assert version.metadata["hyperparameters"] == {"loud": True}


def test_a_new_optimizer_is_checked_like_the_others(optimizer: ScriptedEngine) -> None:
    with pytest.raises(nb.InputError, match=r"Shout has no option 'lout'.*did you mean loud"):
        nb.Task(classifier(), trainset=reviews(4), valset=reviews(4), metric=METRIC, optimizer="Shout",
                options={"lout": 1})  # fmt: skip
    with pytest.raises(nb.InputError, match="Shout option loud=3: expected True or False"):
        nb.Task(classifier(), trainset=reviews(4), valset=reviews(4), metric=METRIC, optimizer="Shout",
                options={"loud": 3})  # fmt: skip
    with pytest.raises(nb.InputError, match="Shout needs a valset"):
        nb.Task(classifier(), trainset=reviews(4), metric=METRIC, optimizer="Shout")
    with pytest.raises(nb.InputError, match=r"valid: .*Shout"):
        nb.Task(classifier(), trainset=reviews(4), metric=METRIC, optimizer="Shut")


# -- a command ------------------------------------------------------------------------------------------------


@command("count", magic="dspy_count", kept_as="_dspy_count")
@argument("names", common.MODELS, "[MODEL]...", nargs=-1)
@option("--at-most --limit limit", "Count no further.", int, default=100)
@common.registry
def count(here: Surface, names: tuple[str, ...], limit: int, root: str) -> Outcome:
    """Count the versions of models."""
    registry = common.open_registry(root)
    if limit < 1:
        raise nb.InputError(f"limit must be 1 or more, got {limit}")
    found = {name: min(limit, len(registry.list(name))) for name in names or registry.models()}
    return Outcome(found, found, lambda: "\n".join(f"{name}: {n}" for name, n in found.items()))


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Declare the command as COMMANDS does."""
    monkeypatch.setattr(shell.cli, "commands", dict(shell.cli.commands))
    shell.add_command(count)
    monkeypatch.setitem(magics._VERBS, "dspy_count", count.on("notebook"))
    for _ in range(2):
        nb.Registry("registry").register(dspy.Predict("review -> sentiment"), "sentiment")
    return count


def test_a_new_command_is_one_of_the_shell(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.main(["count"]) == 0
    assert capsys.readouterr().out == "sentiment: 2\n"
    assert shell.main(["count", "sentiment", "--limit", "1", "--json"]) == 0
    assert capsys.readouterr().out == '{\n  "sentiment": 1\n}\n'
    assert shell.main(["count", "--limit", "0"]) == 2
    assert capsys.readouterr().err == "Error: --limit must be 1 or more, got 0\n"
    assert shell.main(["count", "--help"]) == 0
    assert "--at-most, --limit N" in capsys.readouterr().out


def test_a_new_command_is_one_of_the_notebook(verb: Verb, shell_of_ipython: InteractiveShell) -> None:
    def run(line: str) -> tuple[object, str]:
        with capture_output() as captured:
            result = shell_of_ipython.run_cell(line)
        return result.error_in_exec or result.result, captured.stdout

    assert run("%dspy_count -o counted")[0] == {"sentiment": 2}
    assert shell_of_ipython.user_ns["counted"] == shell_of_ipython.user_ns["_dspy_count"] == {"sentiment": 2}
    assert str(run("%dspy_count --limit 0")[0]) == "--limit must be 1 or more, got 0"
    assert str(run("%dspy_count --at-most 0")[0]) == "--at-most must be 1 or more, got 0"
    assert "--at-most, --limit N" in run("%dspy_count --help")[1]
    magic = shell_of_ipython.magics_manager.registry["DspyNbMagics"]
    assert magic.complete("%dspy_count sent", "sent") == ["sentiment"]


@pytest.fixture
def shell_of_ipython() -> InteractiveShell:
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance()
    magics.install(made)
    yield made
    magics.uninstall(made)
    InteractiveShell.clear_instance()
