import importlib.util

import dspy
import pytest

from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization.estimates import Sizes
from dspy_nb.core.optimization.optimizers import OPTIMIZERS, get_optimizer, resolve_options

SIZES = Sizes(train=40, val=20, predictors=1)


def test_names_are_found_whatever_their_case_and_by_class():
    assert get_optimizer("miprov2").name == "MIPROv2"
    assert get_optimizer("BootstrapRS").name == "BootstrapFewShotWithRandomSearch"
    assert get_optimizer(dspy.COPRO).name == "COPRO"


def test_an_unknown_name_is_refused_with_a_suggestion_and_the_list():
    with pytest.raises(
        InputError, match=r"unknown optimizer 'MIPRO' \(did you mean MIPROv2\?\); valid: Boot"
    ):
        get_optimizer("MIPRO")


@pytest.mark.parametrize("name", ["InferRules", "AvatarOptimizer", "BootstrapFinetune", "GRPO"])
def test_optimizers_that_cannot_work_are_refused_with_the_reason(name):
    with pytest.raises(InputError, match=f"optimizer {name} is refused: "):
        get_optimizer(name)


def test_the_defaults_are_those_of_the_specification():
    bootstrap = resolve_options(get_optimizer("BootstrapFewShot"), {}, SIZES)
    assert (bootstrap["max_bootstrapped_demos"], bootstrap["max_labeled_demos"], bootstrap["max_rounds"]) == (
        4,
        8,
        1,
    )
    mipro = resolve_options(get_optimizer("MIPROv2"), {}, SIZES)
    assert (mipro["num_candidates"], mipro["init_temperature"]) == (10, 1.0)
    assert {"prompt_model", "task_model"} <= set(mipro)
    copro = resolve_options(get_optimizer("COPRO"), {}, SIZES)
    assert (copro["breadth"], copro["depth"], copro["init_temperature"]) == (10, 3, 1.4)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_tells_its_options_and_refuses_others_by_name(name):
    optimizer = get_optimizer(name)
    assert not {"metric", "trainset", "valset", "student", "seed", "num_threads"} & set(optimizer.options())
    extra = (
        {"vectorizer": dspy.Embedder(lambda texts: [[0.0] for _ in texts])} if name == "KNNFewShot" else {}
    )
    resolve_options(optimizer, extra, SIZES)
    with pytest.raises(InputError, match=f"{name} has no option 'nonsense'; valid: "):
        resolve_options(optimizer, {"nonsense": 1}, SIZES)


def test_every_parameter_of_dspys_that_is_not_managed_is_an_option():
    options = {name: set(OPTIMIZERS[name].options()) for name in OPTIMIZERS}
    assert {"max_demos", "prompt_model", "teacher_settings", "temperature_for_sampling"} <= options["SIMBA"]
    assert {"teacher", "restrict", "stop_at_score"} <= options["BootstrapFewShotWithRandomSearch"]
    assert {"prompt_model", "task_model", "minibatch_size", "view_data_batch_size"} <= options["MIPROv2"]
    assert {"reflection_lm", "component_selector", "gepa_kwargs"} <= options["GEPA"]
    assert "max_demos" not in options["BootstrapFewShotWithOptuna"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("MIPROv2", {"num_candidate": 3}, r"no option 'num_candidate' \(did you mean num_candidates\?\)"),
        ("MIPROv2", {"seed": 3}, "'seed' is an argument of optimize"),
        ("MIPROv2", {"num_candidates": 1}, "num_candidates=1: expected a whole number, 2 or more"),
        ("MIPROv2", {"num_candidates": "6"}, "num_candidates='6': expected a whole number"),
        ("MIPROv2", {"auto": "tiny"}, "auto='tiny': valid: light, medium, heavy"),
        ("MIPROv2", {"auto": "light", "num_candidates": 3}, "give either auto or num_candidates, not both"),
        ("MIPROv2", {"max_bootstrapped_demos": 0}, "fails with labeled demos only"),
        ("MIPROv2", {"minibatch_size": 30}, "minibatch_size=30 exceeds the 20 validation examples"),
        ("MIPROv2", {"prompt_model": 5}, "prompt_model must be a dspy.LM or a model name"),
        ("MIPROv2", {"data_aware_proposer": "yes"}, "data_aware_proposer='yes': expected True or False"),
        ("BootstrapFewShot", {"max_rounds": 0}, "max_rounds=0: expected a whole number, 1 or more"),
        ("BootstrapFewShot", {"max_labeled_demos": -1}, "max_labeled_demos=-1: expected a whole number"),
        ("BootstrapFewShotWithOptuna", {"max_labeled_demos": 0}, "max_labeled_demos=0"),
        ("COPRO", {"breadth": 1}, "breadth=1: expected a whole number, 2 or more"),
        ("COPRO", {"init_temperature": "hot"}, "init_temperature='hot': expected a number"),
        ("SIMBA", {"bsize": 41}, "bsize=41 exceeds the 40 training examples"),
        (
            "GEPA",
            {"auto": "light", "max_metric_calls": 9},
            "give one of auto, max_full_evals, max_metric_calls",
        ),
        (
            "MIPROv2",
            {"view_data_batch_size": 0},
            "view_data_batch_size=0: expected a whole number, 1 or more",
        ),
        ("MIPROv2", {"init_temperature": -1}, "init_temperature=-1: expected a number, 0 or more"),
        ("MIPROv2", {"verbose": True}, "'verbose' is set by optimize"),
        ("BootstrapFewShot", {"teacher_settings": "gpt"}, "teacher_settings='gpt': expected a dict"),
        ("BootstrapFewShot", {"teacher": [dspy.Predict("a -> b")]}, "expected a dspy.Module$"),
        ("BootstrapFewShot", {"metric_threshold": 2}, "metric_threshold=2: expected a number above 0 and at"),
        ("BootstrapFewShot", {"metric_threshold": 0}, "metric_threshold=0: expected a number above 0 and at"),
        (
            "BootstrapFewShotWithRandomSearch",
            {"stop_at_score": 0.9},
            "stop_at_score=0.9: expected a number in percent",
        ),
        ("BootstrapFewShotWithRandomSearch", {"restrict": 3}, "restrict=3: expected a list"),
        ("GEPA", {"max_metric_calls": "x"}, "max_metric_calls='x': expected a whole number, 1 or more"),
        ("GEPA", {"max_metric_calls": 0}, "max_metric_calls=0: expected a whole number, 1 or more"),
        ("GEPA", {"max_full_evals": 1.5}, "max_full_evals=1.5: expected a whole number, 1 or more"),
        ("GEPA", {"candidate_selection_strategy": "best"}, "expected one of pareto, current_best"),
        ("GEPA", {"component_selector": "some"}, "expected round_robin, all, or a function"),
        ("GEPA", {"gepa_kwargs": 3}, "gepa_kwargs=3: expected a dict"),
        ("GEPA", {"reflection_minibatch_size": 0}, "reflection_minibatch_size=0: expected a whole number"),
        ("GEPA", {"reflection_minibatch_size": 41}, "exceeds the 40 training examples"),
        ("GEPA", {"teacher": dspy.Predict("a -> b")}, "GEPA takes no teacher"),
        ("KNNFewShot", {}, "KNNFewShot needs options={'vectorizer': dspy.Embedder"),
        ("BetterTogether", {"steps": {"p": "Ensemble"}}, "Ensemble cannot be a step"),
        ("BetterTogether", {"steps": {"p": "MIPROv2"}, "strategy": "p -> w"}, "strategy names w; steps: p"),
        ("BetterTogether", {"steps": {"p": {"optimizer": "COPRO", "options": {"breadth": 1}}}}, "breadth=1"),
        ("BetterTogether", {"steps": {}}, "expected e.g. {'p': 'MIPROv2'}"),
        ("BetterTogether", {"steps": {"p": 3}}, "optimizer must be a name, got an object of type int"),
        ("BetterTogether", {"steps": {"p": {"options": {}}}}, "step 'p' has options; valid: 'optimizer' and"),
        (
            "BetterTogether",
            {"steps": {"p": {"optimizer": "COPRO", "opts": {}}}},
            "step 'p' has optimizer, opts",
        ),
        (
            "BetterTogether",
            {"steps": {"p": {"optimizer": "COPRO", "options": [1]}}},
            "options must be a dict",
        ),
        ("BetterTogether", {"steps": {1: "COPRO"}}, "1 cannot name a step"),
        ("BetterTogether", {"strategy": 3}, "strategy=3: expected text such as 'p -> w -> p'"),
    ],
)
def test_options_that_would_fail_later_are_refused_before(name, options, message):
    with pytest.raises(InputError, match=message) as refusal:
        resolve_options(get_optimizer(name), options, SIZES)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["MIPROv2", "BootstrapFewShotWithOptuna"])
def test_missing_optuna_is_found_before_anything_is_spent(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"{name} needs optuna: pip install optuna"):
        resolve_options(get_optimizer(name), {}, SIZES)


def test_minibatches_are_used_only_where_the_validation_set_is_large_enough():
    mipro = get_optimizer("MIPROv2")
    assert resolve_options(mipro, {}, SIZES)["minibatch"] is False
    assert resolve_options(mipro, {}, Sizes(40, 100, 1))["minibatch"] is True


def test_a_missing_threshold_becomes_full_marks():
    """DSPy would take any score but 0 for a success, so that half-right answers became demos."""
    for name in (
        "BootstrapFewShot",
        "BootstrapFewShotWithRandomSearch",
        "BootstrapFewShotWithOptuna",
        "MIPROv2",
    ):
        assert resolve_options(get_optimizer(name), {}, SIZES)["metric_threshold"] == 1.0
        assert (
            resolve_options(get_optimizer(name), {"metric_threshold": 0.5}, SIZES)["metric_threshold"] == 0.5
        )


def test_models_can_be_given_by_name():
    options = resolve_options(get_optimizer("MIPROv2"), {"prompt_model": "openai/gpt-4o"}, SIZES)
    assert options["prompt_model"].model == "openai/gpt-4o"
    options = resolve_options(
        get_optimizer("BootstrapFewShot"), {"teacher_settings": {"lm": "openai/gpt-4o"}}, SIZES
    )
    assert options["teacher_settings"]["lm"].model == "openai/gpt-4o"


def test_a_suggestion_does_not_depend_on_case():
    with pytest.raises(InputError, match=r"unknown optimizer 'mipro' \(did you mean MIPROv2\?\)"):
        get_optimizer("mipro")


def test_a_step_that_better_together_repeats_is_estimated_as_often_as_it_runs():
    together = get_optimizer("BetterTogether")
    once, thrice = (
        together.estimate(resolve_options(together, {"steps": {"c": "COPRO"}, "strategy": how}, SIZES), SIZES)
        for how in ("c", "c->c -> c")
    )
    assert thrice.proposals == 3 * once.proposals
    assert thrice.evaluation - once.evaluation == 2 * (once.evaluation - SIZES.val)
