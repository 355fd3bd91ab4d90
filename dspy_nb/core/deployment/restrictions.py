"""What ``registry/config.toml`` says: its tables, and what an environment accepts."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from dspy_nb.core.errors import Refused
from dspy_nb.core.models.names import Stage, check_environment
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.storage.config import read_tables
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
    found = read_tables(
        config, "environments", check_environment, lambda table, where: fit(table, Restrictions, where)
    ).get(environment, Restrictions())
    return found if found.stages is not None else replace(found, stages=DEFAULT_STAGES.get(environment))


def _refused(environment: str, accepted: str, got: str) -> Refused:
    return Refused(f"the environment {environment} accepts {accepted}, not {got}")
