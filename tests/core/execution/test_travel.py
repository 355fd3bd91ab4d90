"""What gets to the workers and back, and what an interrupt does to those who have it in hand."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.errors import InputError
from dspy_nb.core.execution import travel
from dspy_nb.core.execution.attempts import Failure, Job, Outcome
from dspy_nb.core.programs.lm_call import LMCall
from dspy_nb.core.programs.usage import Usage
from tests.clusters import dask_client
from tests.travelling import numbers, same_number

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")

TEXTS = """
import dataclasses

@dataclasses.dataclass
class Marked:
    text: str

def shout(number):
    return Marked(f"{number}!")
"""
PROGRAM = '''
import dspy
import own_texts
from own_texts import shout

class Shouting(dspy.Module):
    """Answers with an object of a class of another module."""

    def forward(self, number):
        return dspy.Prediction(text=shout(number))

def right(gold, pred, trace=None):
    return isinstance(pred.text, own_texts.Marked) and pred.text.text == f"{gold.number}!"
'''


@pytest.fixture(params=["pool", "dask"])
def workers(request: pytest.FixtureRequest, forkserver: Any, tmp_path: Path) -> Iterator[Any]:
    """Two other processes."""
    if request.param == "pool":
        with ProcessPoolExecutor(2, mp_context=forkserver) as pool:
            yield pool
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Dask's own: ports, closed loops
            with dask_client(tmp_path, workers=2, processes=True) as client:
                yield client


@pytest.fixture(autouse=True)
def nothing_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(travel, "_CARRIED", {})


def load(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load a module from a file that no other process would find."""
    file = folder / f"{name}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.heavy
def test_modules_of_the_user_that_the_workers_lack_travel_along(workers, tmp_path, monkeypatch) -> None:
    texts = load("own_texts", TEXTS, tmp_path, monkeypatch)
    own = load("own_program", PROGRAM, tmp_path, monkeypatch)
    ev = nb.evaluate(own.Shouting(), numbers(12), own.right, executor=workers, num_threads=2)
    assert (ev.correct, ev.errors.count) == (12, 0)
    assert ev.results[3].predicted == {"text": texts.Marked("3!")}
    assert list(travel._CARRIED) == ["own_program", "own_texts"]
    assert not cloudpickle.list_registry_pickle_by_value()


@pytest.mark.heavy
def test_a_package_that_the_workers_lack_is_named(workers, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(travel, "_INSTALLED", [str(tmp_path)])
    own = load(
        "own_package", PROGRAM.replace("own_texts", "json").replace("shout", "dumps"), tmp_path, monkeypatch
    )
    with pytest.raises(
        InputError, match=r"cannot load the work: .*No module named 'own_package'; install it"
    ):
        nb.evaluate(own.Shouting(), numbers(4), same_number, executor=workers, num_threads=1)


class Interrupted(dspy.Module):
    """Is interrupted at every third number, as by Ctrl-C, which reaches each process of a terminal."""

    def forward(self, number: int) -> dspy.Prediction:
        if number % 3 == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return dspy.Prediction(number=number)


@pytest.mark.heavy
def test_an_interrupt_does_not_end_a_worker_that_is_at_a_task(workers) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of a lost worker
        ev = nb.evaluate(Interrupted(), numbers(40), same_number, executor=workers, num_threads=2)
    assert (ev.n, ev.correct, ev.complete) == (40, 40, True)


def test_outcomes_and_jobs_come_back_as_they_were() -> None:
    sent = {"role": "system", "content": "Answer."}
    calls = tuple(
        LMCall((sent, {"role": "user", "content": str(i)}), "yes", 3, None, 0.5, False, True, "m")
        for i in "ab"
    )
    outcome = Outcome(
        {"a": [1]}, (True, None), Failure("E", "no"), 1.5, False, Usage(2, 1, None, 3, 0.1, 4.0), calls=calls
    )
    job = Job(dspy.Example(number=1).with_inputs("number"), 2, keep_text=False)
    back = cloudpickle.loads(travel._dumps([outcome, job]))
    assert back == [outcome, job]
    assert back[0].usage.waited_s == 4.0
    assert back[0].calls[0].messages[0] is back[0].calls[1].messages[0]  # what is one object stays one
