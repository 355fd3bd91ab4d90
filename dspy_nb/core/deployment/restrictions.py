"""What ``registry/config.toml`` says: its tables, and what an environment accepts."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from dspy_nb.core.errors import Refused
from dspy_nb.core.models.names import Stage, check_environment
from dspy_nb.core.models.requirements import Requirement, require
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.storage.config import read_tables
from dspy_nb.core.storage.place import Place
from dspy_nb.core.storage.shapes import fit

DEFAULT_STAGES: Final[Mapping[str, tuple[Stage, ...]]] = {"production": ("production",)}
"""Environment -> the stages that it accepts, unless ``registry/config.toml`` says otherwise."""


class Restrictions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an environment accepts; None accepts everything.

    Attributes:
        models: Ids of models.
        stages: Stages of versions. An archived version is never accepted.
        lms: Names of language models such as ``openai/gpt-4o-mini``; ``*`` stands for any text. They hold for
            the model that a version was made with and for the one that is configured where it is loaded.
    """

    models: tuple[str, ...] | None = None
    stages: tuple[Stage, ...] | None = None
    lms: tuple[str, ...] | None = None

    def check_version(self, version: ModelVersion, environment: str) -> None:
        """Raise Refused if the environment does not accept ``version``."""
        require(self.requirements(version, environment))

    def requirements(self, version: ModelVersion, environment: str) -> list[Requirement]:
        """Return what a version must be to be accepted, and whether it is."""
        ref, stage, model = version.ref, version.stage, version.base_model or "an unknown one"
        archived = f"{ref} is archived: promote it to another stage before it is deployed"
        found = [_requirement("not archived", stage != "archived", f"it is in {stage}", archived)]
        if self.models is not None:
            accepted = f"the models {', '.join(self.models)}"
            refusal = _refusal(environment, accepted, version.model_id)
            fits = version.model_id in self.models
            found.insert(0, _requirement(f"one of {accepted}", fits, version.model_id, refusal))
        if self.stages is not None:
            accepted = f"versions in {' or '.join(self.stages)}"
            refusal = _refusal(environment, accepted, f"{ref}, which is in {stage}")
            fits = stage in self.stages
            found.append(
                _requirement(f"the stage {' or '.join(self.stages)}", fits, f"it is in {stage}", refusal)
            )
        if self.lms is not None:
            accepted = f"the language models {', '.join(self.lms)}"
            refusal = _refusal(environment, accepted, f"{ref}, which was made with {model}")
            fits = self._accepts_lm(version.base_model)
            found.append(_requirement(f"one of {accepted}", fits, f"it was made with {model}", refusal))
        return found

    def check_lm(self, environment: str) -> None:
        """Raise Refused if DSPy is configured, here and now, with a language model that is not accepted."""
        if self.lms is None:
            return
        import dspy

        name = getattr(dspy.settings.lm, "model", None)
        if name is not None and not self._accepts_lm(name):
            what = f"the language models {', '.join(self.lms)}"
            raise Refused(_refusal(environment, what, f"{name}, which DSPy is configured with"))

    def _accepts_lm(self, name: str | None) -> bool:
        return any(fnmatch.fnmatchcase(name or "", pattern) for pattern in self.lms or ())


def load_restrictions(config: Place, environment: str) -> Restrictions:
    """Read what ``environment`` accepts from ``registry/config.toml``.

    The file says, per environment, ``[environments.production]`` with ``models``, ``stages`` and ``lms``, each
    a list of texts; whatever it leaves out is not restricted, but production accepts the stage production only.

    Raises:
        InputError: It is no TOML, or an environment is not described as above; every one is checked.
        RegistryError: It cannot be read.
    """
    found = read_tables(
        config, "environments", check_environment, lambda table, where: fit(table, Restrictions, where)
    ).get(environment, Restrictions())
    return found if found.stages is not None else replace(found, stages=DEFAULT_STAGES.get(environment))


def _requirement(name: str, met: bool, evidence: str, refusal: str) -> Requirement:
    return Requirement(name, met, evidence, None if met else refusal, can_be_forced=False)


def _refusal(environment: str, accepted: str, got: str) -> str:
    return f"the environment {environment} accepts {accepted}, not {got}"
