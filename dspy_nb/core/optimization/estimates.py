"""How many LM calls an optimizer will make, said before anything is spent.

The formulas were read from the source of DSPy 3.4.1 and checked against counted runs. They count program
calls; one program call makes one LM call per predictor. Bootstrapping ends as soon as it has enough demos,
so its figure is the most it can take. An answer that fails its format costs DSPy one further call, and a
program of one's own may ask a predictor in a loop, which no formula can foresee.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import dspy

from dspy_nb.core.doors import Shown
from dspy_nb.core.programs.spec import parts_of, predictors_of


@dataclass(frozen=True)
class Sizes:
    """What an estimate depends on besides the options.

    Attributes:
        train: training examples.
        val: validation examples.
        predictors: predictors in the program.
        calls_per_run: LM calls that one call of the program makes at most; 0 stands for one a predictor.
    """

    train: int
    val: int
    predictors: int
    calls_per_run: int = 0

    @property
    def calls(self) -> int:
        """LM calls that one call of the program makes at most."""
        return self.calls_per_run or self.predictors


def calls_per_run(program: dspy.Module) -> int:
    """Return the LM calls that one call of ``program`` makes at most, as far as its modules tell.

    One a predictor; ``ReAct`` may ask its own ``max_iters`` times, ``BestOfN`` and ``Refine`` run their module
    ``N`` times, and ``Refine`` asks for advice between them.
    """
    times = {id(predictor): 1 for predictor in predictors_of(program)}
    extra = 0
    for _, module in parts_of(program):
        if isinstance(module, dspy.ReAct):
            times[id(module.react)] *= module.max_iters
        elif isinstance(module, dspy.BestOfN | dspy.Refine):
            for predictor in predictors_of(module.module):
                times[id(predictor)] *= module.N
            extra += module.N - 1 if isinstance(module, dspy.Refine) else 0
    return sum(times.values()) + extra


@dataclass(frozen=True)
class Estimate(Shown):
    """LM calls that a run will make, cache hits included.

    Attributes:
        evaluation: scoring of candidates. Exact for most optimizers.
        bootstrapping: running the program to collect demos. The most it can take.
        proposals: writing instructions.
        scoring: measuring the program before and after, on the validation and the held-out examples.
        savable: those of ``evaluation`` that a race may save: all but the first candidate's, and one of each other.
    """

    evaluation: int = 0
    bootstrapping: int = 0
    proposals: int = 0
    scoring: int = 0
    savable: int = 0

    @property
    def lm_calls(self) -> int:
        """All of it: the most that the run is expected to take."""
        return self.evaluation + self.bootstrapping + self.proposals + self.scoring

    @property
    def fewest(self) -> int:
        """The same if demos are there at once, and a race gives up each candidate but the first at once."""
        return self.lm_calls - self.savable - self.bootstrapping

    def __add__(self, other: Estimate) -> Estimate:
        """Return the sum, part by part."""
        return Estimate(*(ours + theirs for ours, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        """Return the total and its parts in words."""
        names = ("scoring candidates", "collecting demos", "writing instructions", "before/after scores")
        detail = ", ".join(
            f"{count:,} {what}"
            for what, count in zip(names, astuple(self)[: len(names)], strict=True)
            if count
        )
        detail = f" ({detail})" if detail else ""
        if not self.savable:
            return f"at most {self.lm_calls:,} LM calls{detail}"
        most = f"between {self.fewest:,} and {self.lm_calls:,} LM calls{detail}"
        return f"{most}; a race saves up to {self.savable:,}"


def _savable(candidates: int, examples: int, calls: int) -> int:
    """Return the LM calls that a race may save of scoring so many candidates on so many examples."""
    return max(candidates - 1, 0) * max(examples - 1, 0) * calls


Options = Mapping[str, Any]


def estimate_steps(candidates: int, sizes: Sizes) -> Estimate:
    """Return the LM calls of BetterTogether's own: it scores what each of its steps has made."""
    evaluation = candidates * sizes.val * sizes.calls
    return Estimate(evaluation=evaluation, savable=_savable(candidates, sizes.val, sizes.calls))


def estimate_bootstrap(sizes: Sizes, options: Options) -> Estimate:
    """Return the LM calls of the search of BootstrapFewShot."""
    if not options["max_bootstrapped_demos"]:
        return Estimate()
    return Estimate(bootstrapping=sizes.train * options["max_rounds"] * sizes.calls)


def estimate_random_search(sizes: Sizes, options: Options) -> Estimate:
    """Return the LM calls of the search of BootstrapFewShotWithRandomSearch."""
    n, p = options["num_candidate_programs"], sizes.calls
    return Estimate(
        evaluation=(n + 3) * sizes.val * p,  # zero-shot, labeled and unshuffled, then n shuffled ones
        savable=_savable(n + 3, sizes.val, p),
        bootstrapping=(n + 1) * sizes.train * options["max_rounds"] * p,
    )


def estimate_optuna(sizes: Sizes, options: Options) -> Estimate:
    """Return the LM calls of the search of BootstrapFewShotWithOptuna."""
    p = sizes.calls
    return Estimate(
        evaluation=options["num_candidate_programs"] * sizes.val * p,
        savable=_savable(options["num_candidate_programs"], sizes.val, p),
        bootstrapping=sizes.train * options["max_rounds"] * p,
    )


def estimate_copro(sizes: Sizes, options: Options) -> Estimate:
    """Return the LM calls of the search of COPRO."""
    breadth, depth, p = options["breadth"], options["depth"], sizes.predictors
    # With several predictors all earlier candidates are scored again in each round.
    evaluations = breadth * depth if p == 1 else p * breadth * depth * (depth + 1) // 2
    return Estimate(
        evaluation=evaluations * sizes.train * sizes.calls,
        savable=_savable(evaluations, sizes.train, sizes.calls),
        proposals=p * ((breadth - 1) + (depth - 1) * breadth),
    )


MIPRO_AUTO = {"light": (6, 100), "medium": (12, 300), "heavy": (18, 1000)}  # candidates, valset cap
_MIPRO_MINIBATCH_ABOVE = 50  # with auto, larger validation sets are sampled


def mipro_num_trials(num_candidates: int, predictors: int, *, zero_shot: bool) -> int:
    """Return MIPROv2's own number of trials for a number of candidates.

    Args:
        num_candidates: instructions (and demo sets) to choose from, 1 or more.
        predictors: predictors in the program.
        zero_shot: True when only instructions are searched.
    """
    variables = predictors if zero_shot else 2 * predictors
    return int(max(2 * variables * math.log2(num_candidates), 1.5 * num_candidates))


def mipro_compares_at_most(options: Options) -> int | None:
    """Return the most validation examples that MIPROv2 compares on; ``None`` for all."""
    return MIPRO_AUTO[options["auto"]][1] if options["auto"] else None


def _full_evaluations(trials: int, every: int) -> int:
    """Return how often MIPROv2 scores its best candidate on the full set between minibatch trials."""
    adjusted = trials + trials // every + 1 + (1 if trials % every else 0)
    count, trial = 0, 1
    for _ in range(trials):
        trial += 1
        if trial % (every + 1) == 0 or trial == adjusted - 1:
            count += 1
            trial += 1
    return count


def estimate_mipro(sizes: Sizes, options: Options) -> Estimate:
    """Return the LM calls of the search of MIPROv2."""
    bootstrapped, labeled = options["max_bootstrapped_demos"], options["max_labeled_demos"]
    zero_shot = not bootstrapped and not labeled
    p, val = sizes.predictors, sizes.val
    if options["auto"]:
        num_sets, cap = MIPRO_AUTO[options["auto"]]
        val = min(val, cap)
        num_instructions = num_sets if zero_shot else num_sets // 2
        trials = mipro_num_trials(num_sets, p, zero_shot=zero_shot)
        minibatch = val > _MIPRO_MINIBATCH_ABOVE
    else:
        num_sets = num_instructions = options["num_candidates"]
        trials, minibatch = options["num_trials"], options["minibatch"]
    if minibatch:
        full = _full_evaluations(trials, options["minibatch_full_eval_steps"])
        evaluation = val + trials * options["minibatch_size"] + full * val
    else:
        full = trials
        evaluation = val * (1 + full)
    # One set stays empty and, where there are labeled demos, one holds only those. Zero-shot runs bootstrap
    # too, to show the proposer what the task looks like.
    bootstrapping_sets = max(0, num_sets - (2 if labeled else 1))
    summary = 0
    if options["data_aware_proposer"]:
        summary = 2 + min(9, max(0, math.ceil(sizes.train / options["view_data_batch_size"]) - 1))
    per_instruction = 3 if options["program_aware_proposer"] else 1
    return Estimate(
        evaluation=evaluation * sizes.calls,
        savable=_savable(1 + full, val, sizes.calls),
        bootstrapping=bootstrapping_sets * sizes.train * sizes.calls,
        proposals=summary + min(num_instructions, num_sets) * p * per_instruction,
    )


def estimate_simba(sizes: Sizes, options: Options) -> Estimate:
    """Return the LM calls of the search of SIMBA."""
    size, n, steps = options["bsize"], options["num_candidates"], options["max_steps"]
    per_step = size * n + (n + 1) * size
    return Estimate(
        evaluation=(steps * per_step + min(n + 1, steps + 1) * sizes.train) * sizes.calls,
        proposals=steps * size,
    )


def gepa_metric_calls(sizes: Sizes, options: Options) -> int:
    """Return GEPA's budget in metric calls, one program call each."""
    if options["max_metric_calls"]:
        return int(options["max_metric_calls"])
    if options["max_full_evals"]:
        return int(options["max_full_evals"]) * (sizes.train + sizes.val)
    n = MIPRO_AUTO[options["auto"]][0]
    trials = mipro_num_trials(n, sizes.predictors, zero_shot=False)
    full = (trials + 1) // 5 + 1 + (1 if trials < 5 else 0)
    return sizes.val + 5 * n + trials * 35 + full * sizes.val


def estimate_gepa(sizes: Sizes, options: Options) -> Estimate:
    """Return the LM calls of the search of GEPA."""
    calls, batch = gepa_metric_calls(sizes, options), options["reflection_minibatch_size"]
    # The budget is looked at once an iteration, which scores two minibatches and, if the second is better,
    # the validation set.
    overshoot = 2 * batch + sizes.val
    return Estimate(
        evaluation=(calls + overshoot) * sizes.calls,
        proposals=max(1, (calls - sizes.val) // (2 * batch) + 1),
    )
