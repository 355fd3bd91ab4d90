"""Sums of what was used."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.programs.usage import Usage

counts = st.integers(0, 100)
usages = st.builds(Usage, counts, counts, counts | st.none(), counts | st.none(), counts | st.none(), counts)


@given(st.lists(usages, max_size=5))
def test_the_total_is_the_sum_of_all_and_unknown_where_one_is(parts) -> None:
    total = Usage.total(parts)
    assert total == sum(parts, Usage())
    assert total.waited_s == sum(part.waited_s for part in parts)
