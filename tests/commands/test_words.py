"""Text that becomes options, programs, metrics and fields."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.commands.words import input_fields, load_metric, load_object, load_program, parse_options
from dspy_nb.core.errors import InputError

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(_JSON)
def test_an_option_value_written_as_json_comes_back_as_it_was(value: object) -> None:
    assert parse_options([f"name={json.dumps(value)}"]) == {"name": value}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("None", None),
        ("'a b'", "a b"),
        ("(1, 2)", (1, 2)),
        ("light", "light"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_an_option_value_may_be_a_python_literal_or_plain_text(text: str, value: object) -> None:
    assert parse_options([f"name={text}"]) == {"name": value}


@pytest.mark.parametrize("texts", [["=1"], ["name"], ["two words=1"], ["name=1", "name=2"]])
def test_options_without_a_name_or_value_or_given_twice_are_refused(texts: list[str]) -> None:
    with pytest.raises(InputError):
        parse_options(texts)


def test_names_are_found_inside_what_a_module_holds() -> None:
    assert load_object("pathlib:Path.home") == Path.home
    with pytest.raises(InputError, match=r"pathlib has no 'Path\.house'"):
        load_object("pathlib:Path.house")


def test_a_file_is_imported_under_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "dspy_nb_test_file.py"
    file.write_text("from dataclasses import dataclass\n\n@dataclass\nclass Thing:\n    name: str = 'x'\n")
    assert load_object(f"{file}:Thing").__module__ == "dspy_nb_test_file"


def test_a_file_can_import_its_neighbours(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "dspy_nb_neighbour.py").write_text("VALUE = 7\n")
    file = tmp_path / "dspy_nb_test_importing.py"
    file.write_text("from dspy_nb_neighbour import VALUE\n")
    assert load_object(f"{file}:VALUE") == 7


@pytest.mark.parametrize("name", ["json", "colorsys", "dspy", "sys", "__main__", "yaml"])
def test_a_file_with_the_name_of_a_library_takes_nothing_from_it(workplace: Path, name: str) -> None:
    before = sys.modules.get(name)
    Path(f"{name}.py").write_text("class Thing: pass\nx = 7\n")
    thing = load_object(f"{name}.py:Thing")
    assert load_object(f"{name}.py:x") == 7
    assert sys.modules[thing.__module__].Thing is not None  # where pickle and dataclasses look for it
    assert sys.modules.get(name) is before
    if name == "colorsys":
        assert importlib.import_module(name).rgb_to_hsv


@pytest.mark.parametrize("name", ["json", "colorsys", "yaml"])
def test_a_library_is_not_taken_for_a_module_of_the_working_directory(workplace: Path, name: str) -> None:
    Path(f"{name}.py").write_text("x = 7\n")
    with pytest.raises(InputError, match=rf"name the file, {name}\.py:name"):
        load_object(f"{name}:x")
    load_object("tests.scripted:classifier")  # the working directory can be imported from now on
    assert importlib.util.find_spec(name).origin != str(Path(f"{name}.py").absolute())


def test_a_module_of_the_working_directory_is_found(workplace: Path) -> None:
    Path("dspy_nb_test_here.py").write_text("x = 7\n")
    assert load_object("dspy_nb_test_here:x") == load_object("dspy_nb_test_here.py:x") == 7


def test_two_files_of_one_name_are_two_modules(workplace: Path) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "dspy_nb_test_two.py").write_text(f"class Thing: where = {folder!r}\n")
    a, b = (load_object(f"{folder}/dspy_nb_test_two.py:Thing") for folder in ("a", "b"))
    assert [sys.modules[thing.__module__].Thing for thing in (a, b)] == [a, b]


def test_a_file_that_fails_leaves_no_module_behind(workplace: Path) -> None:
    Path("dspy_nb_test_fails.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match="ZeroDivisionError"):
        load_object("dspy_nb_test_fails.py:x")
    assert "dspy_nb_test_fails" not in sys.modules


def test_a_syntax_error_is_one_input_error(tmp_path: Path) -> None:
    file = tmp_path / "dspy_nb_test_syntax.py"
    file.write_text("def\n")
    with pytest.raises(InputError, match="SyntaxError"):
        load_object(f"{file}:x")


def test_a_program_is_a_module_or_what_makes_one() -> None:
    assert isinstance(load_program("tests.scripted:classifier"), dspy.Predict)
    with pytest.raises(InputError, match=r"neither a dspy\.Module nor makes one, but a float"):
        load_program("time:time")


def test_a_metric_is_one_of_ours_or_a_function_of_a_module() -> None:
    assert repr(load_metric("token_f1:answer")) == "token_f1('answer')"
    assert load_metric("operator:eq").name == "eq"
    with pytest.raises(InputError, match="no metric 'f1'"):
        load_metric("f1:answer")


class _Pipeline(dspy.Module):
    def forward(self, question: str, context: str, k: int = 3) -> None: ...


@pytest.mark.parametrize(
    ("program", "fields"),
    [
        (dspy.Predict("a, b -> c"), ["a", "b"]),
        (dspy.ChainOfThought("a, b -> c"), ["a", "b"]),
        (dspy.ReAct("question -> answer", tools=[]), ["question"]),
        (_Pipeline(), ["question", "context"]),
        ([dspy.Predict("a -> c"), dspy.Predict("a -> c")], ["a"]),
    ],
)
def test_the_input_fields_are_those_that_the_program_is_called_with(
    program: object, fields: list[str]
) -> None:
    assert input_fields(program) == fields


@pytest.mark.heavy
def test_reading_options_does_not_wait_for_dspy() -> None:
    script = (
        "import sys; from dspy_nb.commands.words import *;"
        "parse_options(['k=3']); assert 'dspy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
