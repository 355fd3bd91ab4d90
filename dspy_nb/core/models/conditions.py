"""What a version was made under, and what is in force where it is loaded, deployed and served."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspy_nb.core.errors import RegistryWarning
from dspy_nb.core.evidence import Evidence
from dspy_nb.core.models.version import ModelVersion

if TYPE_CHECKING:
    import dspy

_warned: set[tuple[str, ...]] = set()


def warn_once(message: str, *difference: str, stacklevel: int) -> None:
    """Warn of a difference between then and now, the first time that this process meets it."""
    if difference not in _warned:
        _warned.add(difference)
        warnings.warn(message, RegistryWarning, stacklevel=stacklevel + 1)


@dataclass(frozen=True, slots=True)
class Conditions:
    """The adapter and the language models behind a version; what is not known is ``None`` and never warned of.

    Attributes:
        ref: The version.
        digest: Of its metadata, which tells it from one of that name in another registry.
        adapter: What ``describe_adapter`` returned when the program was made.
        language_model: What the program ran on when it was made.
        evidence_model: What the evidence about it was gathered with.
    """

    ref: str
    digest: str
    adapter: Mapping[str, Any] | None = None
    language_model: str | None = None
    evidence_model: str | None = None

    @classmethod
    def of(
        cls, version: ModelVersion, metadata: Mapping[str, Any], evidence: Sequence[Evidence | None] = ()
    ) -> Conditions:
        """Take them from the metadata of a version, and from the last evidence about it that names a model."""
        adapter, model = metadata.get("adapter"), metadata.get("base_model")
        return cls(
            version.ref,
            version.files["metadata.json"][0],
            adapter if isinstance(adapter, Mapping) and isinstance(adapter.get("class"), str) else None,
            model if isinstance(model, str) else None,
            next((item.base_model for item in reversed(evidence) if item and item.base_model), None),
        )

    def compare(self, program: dspy.Module | None = None, *, stacklevel: int = 2) -> None:
        """Warn of what is in force here and is another, once for each version, difference and process.

        Args:
            program: The loaded program: it may have language models of its own.
            stacklevel: Of the warning.
        """
        from dspy_nb.core.programs.adapters import adapter_text, describe_adapter, same_adapter

        now = describe_adapter()
        if self.adapter is not None and not same_adapter(self.adapter, now):
            was, is_now = adapter_text(self.adapter, now), adapter_text(now, self.adapter)
            made = f"{self.ref} was made with the adapter {was}"
            self._warn(f"{made}, this is {is_now}: its prompts differ", stacklevel)
        model = _model_of(program)
        if model is not None and self.language_model not in (None, model):
            made = f"{self.ref} was made with the language model {self.language_model}"
            self._warn(f"{made}, this is {model}: its scores may be others", stacklevel)
        self.compare_evidence(program, stacklevel=stacklevel + 1)

    def compare_evidence(self, program: dspy.Module | None = None, *, stacklevel: int = 2) -> None:
        """Warn if the evidence was gathered with another language model than the one in force here."""
        model = _model_of(program)
        if model is not None and self.evidence_model not in (None, model):
            known = f"the evidence for {self.ref} was gathered with the language model {self.evidence_model}"
            self._warn(f"{known}, this is {model}: it does not say how good that is", stacklevel)

    def _warn(self, message: str, stacklevel: int) -> None:
        warn_once(message, self.digest, message, stacklevel=stacklevel + 1)


def _model_of(program: dspy.Module | None) -> str | None:
    if program is None and "dspy" not in sys.modules:
        return None  # who has not imported it has configured none, and need not wait for it
    import dspy

    from dspy_nb.core.programs.spec import base_model

    return getattr(dspy.settings.lm, "model", None) if program is None else base_model(program)
