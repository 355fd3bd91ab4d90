"""The language models of a sweep: each with a name of its own, and told apart by the cache of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization.replay import describe_lm
from dspy_nb.core.programs.lms import are_confusable, marked, used_lms, with_cache, without_lms
from dspy_nb.core.secrecy import sampling_options
from dspy_nb.core.sweep.answers import Mark
from dspy_nb.core.text import one_line, value_text


@dataclass(frozen=True, eq=False)
class Model:
    """A language model, and the program on it.

    Attributes:
        name: Unlike that of any other model of the sweep.
        lm: With a mark, see ``answers.Mark``; it caches its answers.
        program: The program as it was given; where models vary, its predictors have none of their own.
        description: What makes it answer as it does, without secrets.
    """

    name: str
    lm: Any
    program: Any
    description: Any

    def for_arm(self, arm: str) -> Any:
        """Return the language model for the comparison of the finalists, with answers on this arm's account."""
        return marked(self.lm, Mark(self.lm.dspy_nb_mark.model, arm))


def find_models(given: Sequence[Any] | None, program: Any) -> list[Model]:
    """Return the models that ``over`` names, or without any the one that the program has.

    Raises:
        InputError: There is none, or one is no language model, or two are the same.
    """
    if given is None:
        lm = used_lms(program)[0] if dspy.settings.lm is None else dspy.settings.lm
        if not isinstance(lm, dspy.BaseLM):
            raise InputError(f"the language model must be a dspy.LM, got {value_text(lm)}")
        return [Model(_name(lm), marked(lm, Mark()), with_cache(program), describe_lm(lm))]
    lms = [_language_model(one) for one in given]
    bare = without_lms(program)
    models: list[Model] = []
    for number, (lm, name) in enumerate(zip(lms, _names(lms), strict=True)):
        for other in lms[:number]:
            same = describe_lm(lm) == describe_lm(other) and not are_confusable([lm], [other])
            if lm is other or same:
                raise InputError(f"over: the language model {name} is given twice")
        mixed = any(lm.model == other.model for other in lms if other is not lm)
        models.append(Model(name, marked(lm, Mark(str(number) if mixed else "")), bare, describe_lm(lm)))
    return models


def _language_model(given: Any) -> Any:
    if isinstance(given, dspy.BaseLM):
        return given
    if not isinstance(given, str) or "/" not in given.strip("/"):
        raise InputError(
            f"over: lm must be a list of dspy.LM or of names such as openai/gpt-4o, got {value_text(given, 80)}"
        )
    return dspy.LM(given)


def _names(lms: Sequence[Any]) -> list[str]:
    """Return the names of the models, with how they draw, or their place, where that tells them apart."""
    names = [_name(lm) for lm in lms]
    options = [sampling_options(lm.kwargs) for lm in lms]
    for name in [name for name, times in Counter(names).items() if times > 1]:
        alike = [index for index, other in enumerate(names) if other == name]
        keys = sorted({key for index in alike for key in options[index]})
        telling = [key for key in keys if len({options[index].get(key) for index in alike}) > 1]
        for place, index in enumerate(alike, 1):
            own = ", ".join(f"{key}={options[index][key]}" for key in telling if key in options[index])
            names[index] = f"{name} ({own})" if own else name
            if [names[other] for other in alike[:place]].count(names[index]) > 1 or not telling:
                names[index] = f"{names[index]} #{place}"
    return names


def _name(lm: Any) -> str:
    return one_line(getattr(lm, "model", lm), 80).replace("@", " ")
