from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from dspy_nb.core.errors import InputError
from dspy_nb.core.models.names import (
    BUMPS,
    check_model_id,
    check_version,
    matches,
    next_version,
    parse_reference,
    rank,
    sort_key,
)
from tests.registry_samples import stays_in_the_error_tree

numbers = st.integers(0, 30)
identifiers = st.integers(0, 20).map(str) | st.from_regex(r"[a-z][a-z0-9-]{0,3}", fullmatch=True)
versions = st.builds(
    lambda a, b, c, pre: f"{a}.{b}.{c}" + (f"-{'.'.join(pre)}" if pre else ""),
    numbers,
    numbers,
    numbers,
    st.lists(identifiers, max_size=3),
)


@pytest.mark.parametrize(
    "model_id", ["a", "QA", "sentiment", "my-model_2.v3", "9lives", "a" * 100, "logs", "console"]
)
def test_ordinary_names_are_model_ids(model_id: str) -> None:
    assert check_model_id(model_id) == model_id


@pytest.mark.parametrize(
    "model_id",
    [
        "",
        ".",
        "..",
        "a/b",
        "../a",
        "a\\b",
        "/etc",
        "a b",
        "-a",
        ".hidden",
        "a.",
        "a" * 101,
        "é",
        "a\n",
        "a\x00",
        "a:b",
        "log",
        "LOG",
        "con",
        "Nul",
        "nul.txt",
        "aux",
        "prn.a.b",
        "COM1",
        "lpt9",
        "a@1.0.0",
        None,
        7,
        b"a",
    ],
)
def test_names_that_some_file_system_cannot_hold_are_refused(model_id: object) -> None:
    with pytest.raises(InputError, match="model id"):
        check_model_id(model_id)


@pytest.mark.parametrize("version", ["0.0.0", "1.2.3", "10.20.30", "1.0.0-rc.1", "1.0.0-0.a-b.2"])
def test_semantic_versions_are_accepted(version: str) -> None:
    assert check_version(version) == version


@pytest.mark.parametrize(
    "version",
    [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "v1.2.3",
        "01.2.3",
        "1.2.3-",
        "1.2.3-01",
        "1.2.3+build",
        "1.2.x",
        "1.2.3-a..b",
        "../1.2.3",
        "1.2.3/",
        "1.2.3\n",
        "1.2.３",
        "1.2.3-" + "a" * 80,
        None,
        1.2,
    ],
)
def test_other_versions_are_refused(version: object) -> None:
    with pytest.raises(InputError, match="version"):
        check_version(version)


def test_the_order_is_the_one_of_the_semver_specification() -> None:
    ordered = "alpha alpha.1 alpha.beta beta beta.2 beta.11 rc.1"
    for lower, higher in pairwise([*(f"1.0.0-{name}" for name in ordered.split()), "1.0.0", "2.0.0"]):
        assert sort_key(lower) < sort_key(higher)


@given(a=versions, b=versions)
def test_the_order_agrees_with_the_semver_package(a: str, b: str) -> None:
    assert (sort_key(a) < sort_key(b)) == (Version.parse(a) < Version.parse(b))


def test_latest_ranks_a_release_above_any_prerelease() -> None:
    assert sorted(["1.0.0", "2.0.0-rc.1", "1.1.0"], key=rank) == ["2.0.0-rc.1", "1.0.0", "1.1.0"]


@pytest.mark.parametrize(
    ("taken", "bump", "expected"),
    [
        ([], "minor", "1.0.0"),
        ([], "patch", "1.0.0"),
        ([], "major", "1.0.0"),
        ([], "prerelease", "1.0.0-rc.1"),
        (["1.0.0"], "minor", "1.1.0"),
        (["1.9.0", "1.10.0"], "minor", "1.11.0"),
        (["1.2.3"], "patch", "1.2.4"),
        (["1.2.3"], "major", "2.0.0"),
        (["1.0.0"], "prerelease", "1.0.1-rc.1"),
        (["1.0.0", "1.1.0-rc.1"], "prerelease", "1.1.0-rc.2"),
        (["1.0.0", "1.1.0-rc.2"], "minor", "1.1.0"),
        (["1.0.0-zeta.3"], "prerelease", "1.0.0-zeta.4"),
    ],
)
def test_the_next_version(taken: list[str], bump: str, expected: str) -> None:
    assert next_version(taken, bump) == expected


@given(taken=st.lists(versions, max_size=5), bump=st.sampled_from(BUMPS))
def test_the_next_version_is_above_every_version_taken(taken: list[str], bump: str) -> None:
    following = check_version(next_version(taken, bump))
    assert all(sort_key(following) > sort_key(version) for version in taken)


@pytest.mark.parametrize("bump", ["", "huge", None, 3])
def test_an_unknown_bump_is_refused(bump: str) -> None:
    with pytest.raises(InputError, match="major, minor, patch, prerelease"):
        next_version([], bump)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("^1.1", ["1.1.0", "1.9.9"], ["1.0.9", "2.0.0", "1.2.0-rc.1"]),
        ("^1", ["1.0.0", "1.9.9"], ["0.9.0", "2.0.0"]),
        ("^0.2", ["0.2.0", "0.2.9"], ["0.3.0", "0.1.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4", "0.1.0"]),
        ("~1.2", ["1.2.0", "1.2.9"], ["1.3.0"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.2.2", "1.3.0"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
    ],
)
def test_ranges_mean_what_npm_means(text: str, inside: list[str], outside: list[str]) -> None:
    bounds = parse_reference(f"model@{text}").bounds
    assert bounds is not None
    assert all(matches(bounds, version) for version in inside)
    assert not any(matches(bounds, version) for version in outside)


def test_a_reference_is_a_model_a_version_a_range_or_a_stage() -> None:
    assert parse_reference("qa").stage == "latest"
    assert parse_reference("qa@latest").stage == "latest"
    assert parse_reference("qa@production").stage == "production"
    assert parse_reference("qa@1.2.0-rc.1").version == "1.2.0-rc.1"
    assert parse_reference("qa@^1.1").bounds == ((1, 1, 0), (2, 0, 0))


@pytest.mark.parametrize(
    "text", ["", "@", "qa@", "qa@1", "qa@1.2", "qa@deprecated", "qa@@1.0.0", "a@../b", "a/b@1.0.0"]
)
def test_other_references_are_refused_on_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_reference(text)
    assert "\n" not in str(caught.value)


@given(text=st.text(max_size=40) | st.from_regex(r"[a-z@^~.0-9-]{0,20}", fullmatch=True))
def test_any_text_is_a_reference_or_an_input_error(text: str) -> None:
    stays_in_the_error_tree(lambda: parse_reference(text))
