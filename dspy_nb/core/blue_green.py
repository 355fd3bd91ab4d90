"""Trying a version out while another one keeps serving, and then switching at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dspy_nb.core.errors import InputError, Refused
from dspy_nb.core.model_version import ModelVersion

if TYPE_CHECKING:
    import dspy

    from dspy_nb.core.deployment_log import Deployment
    from dspy_nb.core.releases import Releases

    Smoke: TypeAlias = (
        Mapping[str, Any] | Sequence[Mapping[str, Any]] | Callable[[dspy.Module], object] | None
    )

__all__ = ["Prepared", "try_out"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that was loaded and tried out, and waits to go live.

    Attributes:
        environment: Where.
        version: The version.
        program: The loaded program.
    """

    environment: Releases
    version: ModelVersion
    program: dspy.Module
    _seen: int

    def switch(
        self, *, by: str | None = None, reason: str | None = None, evidence: object = None
    ) -> Deployment:
        """Make it live; ``Environment.deploy`` says what the arguments are and what it raises.

        Raises:
            Conflict: Somebody else deployed or rolled back since ``prepare``; nothing has changed.
        """
        return self.environment._deploy(self.version, self._seen, by, reason, evidence)


def try_out(program: dspy.Module, smoke: Smoke, failed: str) -> None:
    """Run a smoke test.

    Raises:
        Refused: It failed.
        InputError: ``smoke`` is none of what it may be.
    """
    if smoke is None:
        return
    samples = [smoke] if isinstance(smoke, Mapping) else smoke
    if not callable(samples) and not (
        isinstance(samples, list | tuple) and samples and all(isinstance(item, Mapping) for item in samples)
    ):
        raise InputError("smoke must be inputs such as {'review': 'Nice.'}, a list of such, or a function")
    try:
        if callable(samples):
            fit = samples(program) is not False
        else:
            fit = all(program(**sample) is not None for sample in samples)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise Refused(f"{failed}: its smoke test failed: {type(error).__name__}: {words}") from error
    if not fit:
        raise Refused(f"{failed}: its smoke test said no")
