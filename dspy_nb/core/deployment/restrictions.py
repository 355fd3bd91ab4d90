"""What ``registry/config.toml`` says: its tables, and what an environment accepts."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from dspy_nb.core.errors import InputError, Refused
from dspy_nb.core.models.names import STAGES, check_environment
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.storage.config import read_table

__all__ = ["DEFAULT_STAGES", "Restrictions", "load_restrictions"]

DEFAULT_STAGES: Final[Mapping[str, tuple[str, ...]]] = {"production": ("production",)}
"""Environment -> the stages that it accepts, unless ``registry/config.toml`` says otherwise."""


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What an environment accepts; None accepts everything.

    Attributes:
        models: Ids of models.
        stages: Stages of versions. An archived version is never accepted.
        lms: Names of language models such as ``openai/gpt-4o-mini``; ``*`` stands for any text. They hold for
            the model that a version was made with and for the one that is configured where it is loaded.
    """

    models: tuple[str, ...] | None = None
    stages: tuple[str, ...] | None = None
    lms: tuple[str, ...] | None = None

    def check_version(self, version: ModelVersion, environment: str) -> None:
        """Raise Refused if the environment does not accept ``version``."""
        if self.models is not None and version.model_id not in self.models:
            raise _refused(environment, f"the models {', '.join(self.models)}", version.model_id)
        if version.stage == "archived":
            raise Refused(f"{version.ref} is archived: promote it to another stage before it is deployed")
        if self.stages is not None and version.stage not in self.stages:
            what = f"versions in {' or '.join(self.stages)}"
            raise _refused(environment, what, f"{version.ref}, which is in {version.stage}")
        if self.lms is not None and not self._accepts_lm(version.base_model):
            what = f"{version.ref}, which was made with {version.base_model or 'an unknown one'}"
            raise _refused(environment, f"the language models {', '.join(self.lms)}", what)

    def check_lm(self, environment: str) -> None:
        """Raise Refused if DSPy is configured, here and now, with a language model that is not accepted."""
        if self.lms is None:
            return
        import dspy

        name = getattr(dspy.settings.lm, "model", None)
        if name is not None and not self._accepts_lm(name):
            what = f"the language models {', '.join(self.lms)}"
            raise _refused(environment, what, f"{name}, which DSPy is configured with")

    def _accepts_lm(self, name: str | None) -> bool:
        return any(fnmatch.fnmatchcase(name or "", pattern) for pattern in self.lms or ())


def load_restrictions(config: Path, environment: str) -> Restrictions:
    """Read what ``environment`` accepts from ``registry/config.toml``.

    The file says, per environment, ``[environments.production]`` with ``models``, ``stages`` and ``lms``, each
    a list of texts; whatever it leaves out is not restricted, but production accepts the stage production only.

    Raises:
        InputError: It is no TOML, or an environment is not described as above; every one is checked.
        RegistryError: It cannot be read.
    """
    found = Restrictions(stages=DEFAULT_STAGES.get(environment))
    known = [field.name for field in fields(Restrictions)]
    for name, table in read_table(config, "environments").items():
        try:
            check_environment(name)
        except InputError as error:
            raise InputError(f"{config}: {error}") from error
        where = f"{config}: environments.{name}"
        if not isinstance(table, dict) or (set(table) - set(known)):
            raise InputError(f"{where} must be a table of {', '.join(known)}")
        for key, values in table.items():
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise InputError(f"{where}.{key} must be a list of texts")
        if unknown := set(table.get("stages", ())) - set(STAGES):
            raise InputError(f"{where}.stages: {min(unknown)!r} is none of {', '.join(STAGES)}")
        if name == environment:
            given = {key: tuple(values) for key, values in table.items()}
            found = Restrictions(**{"stages": found.stages, **given})
    return found


def _refused(environment: str, accepted: str, got: str) -> Refused:
    return Refused(f"the environment {environment} accepts {accepted}, not {got}")
