"""The fold of a model's log: what it keeps at hand is what a look through all versions would find."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.models.names import STAGES, matches, parse_reference, rank, sort_key
from dspy_nb.core.models.promotion import decide_archive, decide_promotion, find_record
from dspy_nb.core.models.stages import TRANSITIONS, ModelState
from dspy_nb.core.storage.entry import Entry
from tests.properties import tries

VERSIONS = [
    "1.0.0-rc.1", "1.0.0-rc.2", "1.0.0", "1.0.1", "1.1.0-rc.1", "1.1.0", "1.10.0", "2.0.0-rc.1", "2.0.0", "2.1.0",
]  # fmt: skip
FILES = {name: {"sha256": "0", "size": 1} for name in ("model.json", "metadata.json", "README.md")}
SUMMARY = {
    **dict.fromkeys(("score", "interval", "score_kind", "optimizer", "base_model", "parent")),
    "created_at": "now",
}

steps = st.one_of(
    st.tuples(st.just("register"), st.sampled_from(VERSIONS)),
    st.tuples(st.sampled_from(STAGES), st.sampled_from(VERSIONS)),
    st.tuples(st.just("keep"), st.integers(0, 4)),
)


def take(state: ModelState, action: str, body: dict[str, Any]) -> None:
    entry = Entry(len(state.history) + 1, action, "now", "me", body, "")
    state.check(entry)
    state.apply(entry)


def follow(state: ModelState, what: str, target: Any) -> None:
    """Take the step if it is possible now."""
    if what == "register":
        if target not in state.records:
            body = {"version": target, "files": FILES, "summary": SUMMARY, "reason": None}
            take(state, "register", body)
    elif what == "keep":
        archived = decide_archive(state, parse_reference("m"), target, True, None, {}, {})
        if archived is not None:
            take(state, "archive", archived)
    elif target in state.records and what in TRANSITIONS[state.records[target].stage]:
        reference = parse_reference(f"m@{target}")
        body = decide_promotion(
            state, reference, what, requirements=(), evidence=None, force=False, reason=None, live={}
        )
        take(state, "promote", body)


@tries(3)
@given(taken=st.lists(steps, max_size=40))
def test_what_is_kept_at_hand_is_what_a_look_through_all_versions_finds(
    taken: list[tuple[str, Any]],
) -> None:
    state = ModelState()
    promoted_to_staging: list[str] = []
    for what, target in taken:
        before = {version: record.stage for version, record in state.records.items()}
        follow(state, what, target)
        stages = {version: record.stage for version, record in state.records.items()}
        promoted_to_staging = [item for item in promoted_to_staging if stages[item] == "staging"]
        promoted_to_staging += [
            item for item in stages if stages[item] == "staging" and before.get(item) != "staging"
        ]
        alive = sorted((item for item in stages if stages[item] != "archived"), key=rank)
        assert state.alive == alive
        assert state.latest == (alive[-1] if alive else None)
        assert [version for _, version in state.ordered] == sorted(stages, key=sort_key)
        assert [state.production] == ([v for v in stages if stages[v] == "production"] or [None])
        assert list(state.staged) == promoted_to_staging
        for text in ("m@^1.0", "m@~1.1", "m@^2.0"):
            reference = parse_reference(text)
            assert reference.bounds is not None
            inside = [item for item in alive if matches(reference.bounds, item)]
            if inside:
                assert find_record(reference, state).version == max(inside, key=sort_key)
