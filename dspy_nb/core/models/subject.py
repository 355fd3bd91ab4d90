"""Whether evidence is about the version that it is given for."""

from __future__ import annotations

import json
from typing import Any

from dspy_nb.core.errors import InputError
from dspy_nb.core.evidence import Evidence, accept_evidence
from dspy_nb.core.models.loading import stored_program
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.programs.state import answering_parts, dump_state, state_digest
from dspy_nb.core.storage.files import dump_json


def check_same_program(program: Any, version: ModelVersion) -> None:
    """Check that a program has the prompts and the demos of a version; its code is not compared.

    Raises:
        InputError: It has others: what it scores says nothing about the version.
        Corrupt: The version's files are not what was registered.
    """
    import dspy

    if not isinstance(program, dspy.Module):
        raise InputError(f"{version.ref} is a dspy.Module, and what is evaluated a {type(program).__name__}")
    text = dump_json(dump_state(program), "the state of the program")
    own, stored = answering_parts(json.loads(text)), answering_parts(stored_program(version).state)
    different = [path for path in own.keys() | stored.keys() if own.get(path) != stored.get(path)]
    if different:
        differs = f"the program is not {version.ref}: it differs in {', '.join(sorted(different))}"
        raise InputError(f"{differs}; load it from the registry: load({version.ref!r})")


def take_evidence(version: ModelVersion, given: object) -> Evidence:
    """Return evidence that somebody gives for a version, once it is known to be about it.

    Raises:
        InputError: It is not valid, or it says that it is about another version, or about a program with other
            prompts or demos.
        Corrupt: The version's files are not what was registered.
    """
    evidence = accept_evidence(given)
    if evidence.ref not in (None, version.ref):
        raise InputError(f"this evidence is about {evidence.ref:.80}, not about {version.ref}")
    digest = evidence.program_sha256
    if digest is not None and digest != state_digest(stored_program(version).state):
        other = f"this evidence is about a program with other prompts or demos than {version.ref}"
        raise InputError(f"{other}: evaluate load({version.ref!r})")
    return evidence
