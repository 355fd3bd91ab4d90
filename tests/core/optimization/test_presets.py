import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization.estimates import Sizes
from dspy_nb.core.optimization.optimizers import get_optimizer, resolve_options
from dspy_nb.core.optimization.presets import (
    Preset,
    get_preset,
    list_presets,
    save_preset,
    user_presets_file,
)


def test_the_presets_of_the_specification_are_there():
    quick = get_preset("quick-bootstrap")
    assert quick.optimizer == "BootstrapFewShot"
    assert quick.options == {"max_bootstrapped_demos": 2, "max_labeled_demos": 4, "max_rounds": 1}
    assert quick.recommended_for == ("development", "prototyping")
    mipro = get_preset("production-mipro")
    assert mipro.optimizer == "MIPROv2"
    assert mipro.options == {"num_candidates": 20, "init_temperature": 1.0}
    assert mipro.recommended_for == ("production", "high-stakes")


@pytest.mark.parametrize("preset", list_presets(), ids=lambda preset: preset.name)
def test_every_packaged_preset_has_valid_options_and_says_what_it_is_for(preset):
    resolve_options(get_optimizer(preset.optimizer), preset.options, Sizes(50, 50, 1))
    assert preset.description
    assert preset.recommended_for


def test_an_unknown_preset_is_an_error_that_lists_the_names():
    with pytest.raises(InputError, match=r"unknown preset 'fast'; valid: .*quick-bootstrap"):
        get_preset("fast")


def test_a_saved_preset_is_found_and_wins_over_a_packaged_one(tmp_path):
    file = tmp_path / "sub" / "presets.toml"
    mine = Preset("light", "COPRO", {"breadth": 3}, "Mine", ("me",))
    assert save_preset(mine, file) == file
    save_preset(Preset("other", "labeledfewshot", {"k": 2}), file)
    found = get_preset("light", file)
    assert (found.optimizer, found.options, found.description, found.source) == (
        "COPRO",
        {"breadth": 3},
        "Mine",
        str(file),
    )
    names = [preset.name for preset in list_presets(file)]
    assert names[:2] == ["light", "other"]
    assert names.count("light") == 1


def test_the_users_file_is_where_the_environment_says():
    save_preset(Preset("saved-here", "COPRO"))
    assert get_preset("saved-here").source == str(user_presets_file())
    user_presets_file().unlink()


@given(
    st.dictionaries(
        st.sampled_from(["k", "max_rounds", "teacher_settings"]),
        st.one_of(st.integers(0, 99), st.booleans(), st.text(max_size=20), st.floats(allow_nan=False)),
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40),
)
def test_what_is_saved_is_what_is_loaded(tmp_path_factory, options, description):
    file = tmp_path_factory.mktemp("presets") / "presets.toml"
    options = {name: value for name, value in options.items() if name == "max_rounds"}
    save_preset(Preset("mine", "BootstrapFewShot", options, description), file)
    found = get_preset("mine", file)
    assert (found.options, found.description) == (options, description)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (Preset("x", "Nope"), "unknown optimizer 'Nope'"),
        (Preset("x", "COPRO", {"depht": 1}), "COPRO has no option 'depht'"),
        (Preset("a b", "COPRO"), "preset name 'a b'"),
        (Preset("", "COPRO"), "preset name ''"),
        (Preset("x", "MIPROv2", {"prompt_model": object()}), "cannot be written to TOML"),
    ],
)
def test_an_invalid_preset_is_not_saved(tmp_path, preset, message):
    file = tmp_path / "presets.toml"
    with pytest.raises(InputError, match=message):
        save_preset(preset, file)
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "preset 'x' must be a table of optimizer"),
        ("[x]\noptimizer = 'COPRO'\nmodel = 1", "'model' is none of optimizer, options"),
        ("[x]\noptimizer = 'COPRO'\noptions = 3", "options must be a table"),
        ("[x", "is not valid TOML"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, text, message):
    file = tmp_path / "presets.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        list_presets(file)
    with pytest.raises(InputError, match="no such file"):
        list_presets(tmp_path / "missing.toml")
