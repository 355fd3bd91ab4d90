"""What holds for requests and outcomes of an experiment and of an environment alike."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_nb.core.errors import InputError, NoPrediction, NotFound, RegistryError
from tests.children import Children, meet
from tests.core.ab.test_assignment import Clock
from tests.core.traffic.users import OPEN_S, USERS, Later, User
from tests.scripted import scripted_lm

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(params=USERS)
def kind(request: pytest.FixtureRequest) -> type[User]:
    return request.param


@pytest.fixture
def user(kind: type[User], tmp_path: Path) -> Any:
    return kind(tmp_path)


@pytest.fixture(params=["predict", "apredict"])
def asked(request: pytest.FixtureRequest) -> Any:
    """Return a function that asks a user for an answer, awaited or not."""
    if request.param == "predict":
        return lambda user, *unit, **inputs: user.predict(*unit, **inputs)
    return lambda user, *unit, **inputs: asyncio.run(user.apredict(*unit, **inputs))


# -- outcomes -----------------------------------------------------------------------------------------------------


def test_the_same_outcome_again_changes_nothing_and_another_is_refused(user: Any) -> None:
    request_id = user.ask("u")
    for _ in range(2):
        user.record(request_id, True)
    user.again().record(request_id, value=1.0)
    with pytest.raises(InputError, match=f"request {request_id} has the outcome 1 already, not 0"):
        user.record(request_id, False)
    assert user.counted() == (1, 1.0)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ({}, "give either success=True or False, or value="),
        ({"success": True, "value": 1}, "give either success= or value=, not both"),
        ({"success": 0.5}, "success must be True or False, got 0.5: a grade is value="),
        ({"success": "yes"}, "success must be"),
        ({"value": 1.5}, r"value must be a finite number in \[0, 1\], got 1.5"),
        ({"value": -0.1}, "value must be"),
        ({"value": math.nan}, "value must be"),
        ({"value": "yes"}, "value must be"),
    ],
)
def test_what_an_outcome_may_be(user: Any, outcome: dict[str, Any], message: str) -> None:
    request_id = user.ask("u")
    with pytest.raises(InputError, match=message):
        user.record(request_id, **outcome)
    assert user.counted() == (0, 0.0)
    user.record(request_id, value=0.25)
    assert user.counted() == (1, 0.25)


@pytest.mark.parametrize("request_id", ["", "a\nb", 7, None])
def test_an_id_is_text(user: Any, request_id: Any) -> None:
    with pytest.raises(InputError, match="request_id must be"):
        user.record(request_id, True)


def test_an_outcome_of_no_request_is_refused(user: Any) -> None:
    with pytest.raises(NotFound, match=r"no request 'nobody' in .*\.sqlite3: was it served here\?$"):
        user.record("nobody", True)
    with pytest.raises(NotFound):
        user.traffic.record_many([(user.ask("u"), 1), ("nobody", 1)])
    assert user.counted() == (0, 0.0)


def test_outcomes_come_in_any_order_and_count_in_that_of_the_requests(user: Any) -> None:
    """Whoever counted them as they come would favour what fails more slowly."""
    first, second, third = [user.ask(f"u{number}") for number in range(3)]
    user.record(third, True)
    user.record(first, True)
    assert user.counted() == (1, 1.0)
    user.record(second, False)
    assert user.counted() == user.again().counted() == (3, 2.0)


def test_an_outcome_that_never_comes_holds_up_the_others_for_so_long_only(
    kind: type[User], tmp_path: Path
) -> None:
    clock = Clock()
    user: Any = kind(tmp_path, clock=clock)
    late, *others = [user.ask(f"u{number}") for number in range(3)]
    for request_id in others:
        user.record(request_id, True)
    assert user.counted() == (0, 0.0)
    clock.now += OPEN_S + 1
    found = user.counted()
    assert found[1] == 2.0
    user.record(late, True)
    assert user.counted() == found  # it is kept, and not counted


# -- requests -----------------------------------------------------------------------------------------------------


def test_a_request_of_its_own_id_counts_once(user: Any) -> None:
    assert user.ask("u", request_id="r") == user.ask("u", request_id="r") == "r"
    assert user.again().ask("u", request_id="r") == "r"
    with pytest.raises(InputError, match="request 'r' is one of unit 'u', not of 'v'"):
        user.ask("v", request_id="r")
    with pytest.raises(InputError, match="request_id must be"):
        user.ask("v", request_id="a\nb")
    assert user.total() == 1


@pytest.mark.parametrize("unit", ["", "x" * 501, "\ud800", "a\nb", "a\0b", 7])
def test_a_unit_is_text_without_control_characters(user: Any, asked: Any, unit: Any) -> None:
    with pytest.raises(InputError, match="unit must be"):
        asked(user, unit, review="fine")
    assert user.total() == 0


@pytest.mark.parametrize("unit", ["user 1", "é", "مى\u200cخواهم", "👩\u200d🔬", "a\xa0b"])
def test_a_unit_may_hold_the_invisible_characters_of_names(user: Any, unit: str) -> None:
    user.ask(unit)
    user.ask(unit)
    assert user.traffic.count("unit = ?", (unit,)) == 2


# -- answers ------------------------------------------------------------------------------------------------------


def test_an_answer_comes_with_the_id_of_its_request(user: Any, asked: Any) -> None:
    prediction, request_id = asked(user, "u", review="fine")
    assert prediction.sentiment == "positive"
    user.record(request_id, True)
    assert user.traffic.count("finished AND error IS NULL AND latency_us >= 0 AND NOT cached") == 1


def test_requests_may_be_awaited_together(user: Any) -> None:
    async def ask() -> list[str | None]:
        answers = await asyncio.gather(*(user.apredict(f"u{n % 5}", review="fine") for n in range(20)))
        return [answer.request_id for answer in answers]

    assert len(set(asyncio.run(ask()))) == user.traffic.count("finished") == 20


def test_a_failure_of_the_program_is_stored_and_raised(user: Any, asked: Any) -> None:
    with pytest.raises(TimeoutError, match="too slow"):
        asked(user, "u", review="break")
    assert user.counted() == (1, 0.0)
    assert user.traffic.count("error = 'TimeoutError' AND finished") == 1


def test_an_outcome_of_a_failure_is_refused_and_says_why(user: Any) -> None:
    started: list[str] = []

    def breaks() -> str:
        with user.traffic.file.reading() as connection:
            started.extend(connection.execute("SELECT request_id FROM events").fetchone())
        return "break"

    with pytest.raises(TimeoutError):
        user.predict(review=breaks)
    user.record(started[0], False)
    with pytest.raises(InputError, match="has the outcome 0 already, because it failed with TimeoutError"):
        user.record(started[0], True)


def test_no_prediction_is_a_failure(user: Any, asked: Any) -> None:
    with pytest.raises(NoPrediction, match=r"returned a str, not a dspy\.Prediction"):
        asked(user, "u", review="text")
    assert user.counted() == (1, 0.0)


def test_an_interrupt_is_no_failure(user: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        user.predict(review="interrupt")
    assert (user.total(), user.counted(), user.traffic.count("finished")) == (1, (0, 0.0), 0)


@pytest.mark.parametrize("inputs", [{}, {"text": "?"}, {"review": "?", "text": "?"}])
def test_inputs_that_the_program_does_not_take_are_refused_and_not_stored(
    user: Any, asked: Any, inputs: dict[str, str]
) -> None:
    message = r"the program (needs 'review'|does not take 'text'; it takes 'review')"
    with pytest.raises(InputError, match=message) as error:
        asked(user, "u", **inputs)
    assert "\n" not in str(error.value)
    assert user.total() == 0


def test_a_program_that_can_only_be_awaited_is_awaited(kind: type[User], tmp_path: Path) -> None:
    user: Any = kind(tmp_path, Later)
    with pytest.raises(
        InputError,
        match=r"(m@1\.0\.0|Later \(A\)) has only aforward, and predict calls forward: await apredict",
    ):
        user.predict(review="fine")
    assert user.total() == 0
    assert asyncio.run(user.apredict(review="fine")).prediction.sentiment == "positive"
    with pytest.raises(TimeoutError):
        asyncio.run(user.apredict("v", review="break"))
    assert (user.total(), user.traffic.count("error = 'TimeoutError'")) == (2, 1)


@pytest.mark.parametrize("then", ["fine", "break"])
def test_an_answer_is_not_lost_when_how_it_ended_cannot_be_stored(
    user: Any, asked: Any, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    def moved() -> str:
        user.path.rename(user.path.with_suffix(".away"))
        return then

    if then == "break":
        with pytest.raises(TimeoutError):
            asked(user, "u", review=moved)
    else:
        assert asked(user, "u", review=moved).prediction.sentiment == "positive"
    assert "ended is not stored" in caplog.text


# -- processes ----------------------------------------------------------------------------------------------------


def stored_by(kind: type[User], name: str, root: Path, n: int, together: Any = None) -> Iterator[str]:
    user = kind(root)
    if together is not None:
        together.wait()
    for number in range(n):
        request_id = user.ask(f"{name} {number}")
        user.record(request_id, number % 3 == 0)
        yield request_id


def test_many_writers_at_once_lose_nothing(user: Any, children: Children) -> None:
    user.closed()
    together = meet(8)
    writers = [children(stored_by, type(user), str(k), user.root, 50, together) for k in range(8)]
    returned = [request_id for writer in writers for request_id in writer.rest()]
    assert len(set(returned)) == user.total() == 400
    assert user.counted() == (400, 8 * 17)
    assert user.traffic.count("finished AND latency_us >= 0") == 400


def test_a_writer_that_is_killed_loses_no_call_that_returned(user: Any, children: Children) -> None:
    user.closed()
    writer = children(stored_by, type(user), "k", user.root, 100_000)
    returned = [next(writer) for _ in range(100)]
    writer.kill()
    returned += writer
    assert user.counted()[0] >= len(returned)
    for number, request_id in enumerate(returned):
        user.record(request_id, number % 3 == 0)  # it is there, with its outcome: the same changes nothing


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_deleted_or_replaced_meanwhile_is_not_written_unseen(
    user: Any, replaced: bool
) -> None:
    request_id = user.ask("u")
    kept = user.path.rename(user.path.with_suffix(".kept"))
    if replaced:
        user.path.write_bytes(b"")
    for call in (lambda: user.record(request_id, True), user.counted, user.total):
        with pytest.raises(RegistryError, match="was deleted or replaced while this process used it"):
            call()
    kept.replace(user.path)
    user.record(request_id, True)


def test_answers_of_a_cache_are_known(user: Any) -> None:
    def ask() -> str:
        return str(dspy.Predict("question -> answer")(question=f"asked below {user.root}"))

    with dspy.context(lm=scripted_lm(cache=True)):
        for unit in "uvw":
            user.predict(unit, review=ask)
    assert user.traffic.count("cached") == 2
