"""An online experiment: two programs share the traffic, and outcomes recorded later decide between them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from dspy_nb.core.ab.assignment import Assignments
from dspy_nb.core.ab.definition import Definition, Programs, check_given, check_settings, define
from dspy_nb.core.ab.status import Conclusion, ExperimentStatus
from dspy_nb.core.arguments import check_text, check_texts, given_outcome
from dspy_nb.core.errors import InputError, NotFound, Refused
from dspy_nb.core.models.names import check_experiment
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.statistics.assignment import place_of
from dspy_nb.core.traffic.serving import Answer, Asked, check_served

if TYPE_CHECKING:
    import dspy

    from dspy_nb.core.ab.watch import Watch

    Program: TypeAlias = dspy.Module | Callable[..., Any] | str | None


class Experiment:
    """An A/B test on live traffic, kept in one file that any number of processes share.

    ::

        experiment = nb.Experiment("checkout-v2", a="sentiment@1.0.0", b="sentiment@1.1.0", split=0.1)
        prediction, request_id = experiment.predict(unit="user-42", review="...")
        experiment.record(request_id, success=True)  # any time later, from any process
        experiment.status()

    A unit (a user, a session) goes to B if the hash of salt and unit lies below the split, and stays where it
    is. Each keeps the split of its first request, so ``set_split`` may ramp B up. What is compared are units:
    the outcome of the first request of each, since the others say the same thing again. A program that raises
    has the outcome 0. An outcome that is not recorded within ``outcome_within_s`` counts as ``missing``, in
    both arms alike, whenever one looks; what is recorded after that is kept and not counted. Units count in
    the order in which they were assigned, up to the first one whose outcome is still open: whoever counted
    outcomes as they arrive would favour the program that fails more slowly.

    The verdict may be looked at at any time. It rests on the split being the probability with which a unit
    was assigned, so units must not be chosen by what their hash will be.

    The file is ``<registry>/experiments/<name>.sqlite3``. Safe to share between threads and processes.

    Args:
        name: Of the experiment. If it exists, it goes on; then nothing else needs to be given.
        a: The program in use: a reference such as ``"sentiment@production"``, which stands for the version
            that it means when the experiment begins; or a ``dspy.Module`` or a function.
        b: The one that may replace it.
        split: Probability in (0, 1) with which a new unit goes to B; 0.1 by default.
        min_samples: Units that each arm needs for the classical test; 100 by default.
        confidence: 1 − α of the verdict; .95 by default.
        margin: Largest difference, in either direction, that makes no practical difference; 0 by default,
            with which equal programs are never told to be equal.
        outcome_within_s: Seconds after the assignment within which an outcome counts; a day by default.
        missing: What a unit without outcome counts as after that; 0, a failure, by default.
        salt: What units are hashed with; the name by default. Experiments with one salt assign alike.
        names: What to call programs that are no references.
        registry: Folder or ``Registry``.
        clock: Seconds since 1970.

    Raises:
        InputError: An argument is wrong; nothing was written.
        NotFound: There is no such version; or no such experiment, and no programs to begin one with.
        Refused: The experiment exists with another definition.
        RegistryError: The file cannot be written.
    """

    def __init__(
        self,
        name: str,
        a: Program = None,
        b: Program = None,
        *,
        split: float | None = None,
        min_samples: int | None = None,
        confidence: float | None = None,
        margin: float | None = None,
        outcome_within_s: float | None = None,
        missing: float | None = None,
        salt: str | None = None,
        names: tuple[str, str] | None = None,
        registry: str | os.PathLike[str] | Registry = "registry",
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_experiment(name)
        self.registry = registry if isinstance(registry, Registry) else Registry(registry)
        path = self.registry.local / "experiments" / f"{name}.sqlite3"
        given = check_settings(
            split=split, min_samples=min_samples, confidence=confidence, margin=margin,
            outcome_within_s=outcome_within_s, missing=missing, salt=salt,
        )  # fmt: skip
        self._programs = Programs(self.registry, a, b, names)
        if a is None and not os.path.exists(path):  # noqa: PTH110 (it raises nothing)
            known = ", ".join(experiments(self.registry)) or "none"
            raise NotFound(
                f"no experiment {name!r} to go on with: give a= and b= to begin one (known: {known})"
            )
        traffic = Assignments(path, clock)
        made = None if a is None else define(name, self._programs, given, clock())
        if made is not None:
            traffic.continue_as(made.to_dict(), made.split)
        stored = traffic.read_definition(or_begin=made is not None)
        if stored is None:
            raise NotFound(f"experiment {name!r} was never begun: give a= and b=")
        self.definition = Definition.from_dict(stored, path)
        check_given(self.definition, self._programs, given)
        splits = traffic.splits()
        traffic.continue_as(stored, splits[-1][0] if splits else self.definition.split)
        if not splits:
            traffic.set_split(self.definition.split, only_first=True)
        traffic.within_s = self.definition.outcome_within_s
        self._traffic = traffic
        self._watch: Watch | None = None
        self._watched = 0  # which file
        self._lock = threading.Lock()
        self._conclusion: Conclusion | None = None

    @classmethod
    def open(cls, name: str, *, registry: str | os.PathLike[str] | Registry = "registry") -> Self:
        """Return an experiment that exists.

        Raises:
            NotFound: There is none of that name; the message lists those that there are.
        """
        return cls(name, registry=registry)

    @property
    def name(self) -> str:
        """Its name."""
        return self.definition.name

    @property
    def split(self) -> float:
        """The present probability with which a new unit goes to B."""
        return self._traffic.split()

    @property
    def conclusion(self) -> Conclusion | None:
        """How it ended; ``None`` while it runs."""
        if self._conclusion is None:
            stored = self._traffic.fact("conclusion")
            self._conclusion = None if stored is None else Conclusion.from_dict(stored, self._traffic.path)
        return self._conclusion

    def set_split(self, split: float) -> None:
        """Let new units go to B with this probability from now on; units known already stay where they are.

        Raises:
            InputError: It is not in (0, 1).
            Refused: The experiment is concluded: everyone is with the winner.
        """
        if (ended := self.conclusion) is not None:
            raise Refused(f"{self.name} is concluded and serves {ended.winner} alone: begin a new experiment")
        self._traffic.set_split(split)
        self._traffic.continue_as(self.definition.to_dict(), split)

    # -- serving --------------------------------------------------------------------------------------------

    def predict(self, unit: str, *, request_id: str | None = None, **inputs: Any) -> Answer:
        """Answer with the program of the unit's arm.

        The request is stored before the program is asked. Once the experiment is concluded the winner answers
        (B if the verdict was "B better", else A), and nothing is stored.

        Args:
            unit: Who asks, such as a user; text of up to 500 characters.
            request_id: Of the caller's own. The same one again, after a lost connection say, is answered and
                not counted again: its first answer stays the one that counts.
            inputs: Of the program. If one of its own is called ``unit`` or ``request_id``, wrap the programs in
                functions that give it another name.

        Returns:
            What the program returns, and the id under which to record the outcome; ``None`` once concluded.

        Raises:
            InputError: The unit or the id is wrong, or the id is that of another unit's request; or an input is
                missing, or unknown to one of the programs; or one has only ``aforward``. Nothing was stored.
            NoPrediction: The program returned no prediction; that was stored as a failure.
            RegistryError: The file cannot be written; the program was not asked. A damaged one is set aside, and
                the request is counted in a new one.
            Exception: Whatever the program raises, after it was stored as a failure.
        """
        return self._begin(unit, request_id, inputs, awaited=False).answer()

    async def apredict(self, unit: str, *, request_id: str | None = None, **inputs: Any) -> Answer:
        """Do what ``predict`` does without holding up the event loop; a program with ``aforward`` is awaited."""
        asked = await asyncio.to_thread(self._begin, unit, request_id, inputs, awaited=True)
        return await asked.answer_async()

    def _begin(self, unit: str, request_id: str | None, inputs: dict[str, Any], *, awaited: bool) -> Asked:
        """Store a request, unless the experiment is concluded, and return what answers it."""
        programs = self._programs.load(self.definition)
        names = (self.definition.a, self.definition.b)
        # Both must take the inputs: the arms would be no fair comparison.
        named = [(name, program) for name, (program, _) in zip(names, programs, strict=True)]
        check_served(named, inputs, ("unit", "request_id"), awaited=awaited)
        check_text("unit", unit)
        made = None
        if self._conclusion is None:
            place = place_of(self.definition.salt, unit)
            made = self._traffic.assign(unit, place, request_id=request_id, unless="conclusion")
        if made is not None:
            return Asked(self._traffic, made.request_id, *programs[made.is_b], inputs)
        ended = self.conclusion
        winner = programs[ended is not None and ended.winner == self.definition.b]
        return Asked(self._traffic, None, *winner, inputs)

    # -- outcomes -------------------------------------------------------------------------------------------

    def record(
        self, request_id: str | None, success: bool | None = None, *, value: float | None = None
    ) -> None:
        """Record what came of a request; in any order, at any time, from any process.

        The same outcome again changes nothing. Once the experiment is concluded nothing is recorded.

        Args:
            request_id: What ``predict`` returned.
            success: Whether it was a success.
            value: Or a grade in [0, 1].

        Raises:
            InputError: The outcome is out of range, or another one was recorded; nothing was changed.
            NotFound: There is no such request.
            RegistryError: The file cannot be written.
        """
        self.record_many([(request_id, given_outcome(success, value))])

    def record_many(self, outcomes: Iterable[tuple[str | None, float]]) -> None:
        """Record the outcomes (request id, value in [0, 1]) of many requests: all of them or none.

        Raises:
            InputError, NotFound, RegistryError: As for ``record``.
        """
        try:
            rows = [(request_id, value) for request_id, value in outcomes]
        except (TypeError, ValueError):
            raise InputError("outcomes must be pairs (request id, value in [0, 1])") from None
        if self.conclusion is None:
            self._traffic.record_many(rows)  # type: ignore[arg-type] # None is refused there

    # -- looking --------------------------------------------------------------------------------------------

    def status(self) -> ExperimentStatus:
        """Return what is known by now; look as often as you like.

        Raises:
            RegistryError: The file cannot be read.
            Corrupt: It is damaged.
        """
        with self._lock:
            from dspy_nb.core.ab.watch import Watch  # imports numpy, which serving does not need

            while True:
                generation = self._traffic.file.generation
                if self._watch is None or self._watched != generation:
                    self._watch, self._watched = Watch(self.definition, self._traffic), generation
                status = self._watch.status()
                if self._traffic.file.generation == generation:  # else a damaged file was set aside meanwhile
                    return status

    def conclude(
        self, reason: str | None = None, *, force: bool = False, by: str | None = None
    ) -> ExperimentStatus:
        """End the experiment, and write its verdict as evidence into the registry's log if B is a version.

        From then on ``predict`` serves the winner, and nothing more is recorded. Called again it changes
        nothing, and makes up for evidence that was not written because a process was killed in between.

        Args:
            reason: Why; kept with the evidence.
            force: End it without a verdict; needs a reason. A runs on, and the evidence does not pass.
            by: Who concludes; the user of the process by default.

        Raises:
            Refused: There is no verdict, or something blocks it; nothing was changed.
            InputError: ``force`` lacks a reason, or a text is none.
            NotFound: The version of B is not in the registry.
        """
        check_texts(reason=reason, by=by)
        if force and not (reason and reason.strip()):
            raise InputError("force=True needs a reason: it is kept in the history")
        found = self.status()
        if found.conclusion is None:
            ended = found.conclude(self._traffic.clock(), reason, force=force)
            if ended.evidence.ref is not None:
                self.registry.get(ended.evidence.ref)
            self._traffic.set_fact("conclusion", ended.to_dict())
            found = self.status()
        assert found.conclusion is not None
        ended = found.conclusion
        if (ref := ended.evidence.ref) is not None:

            def attach() -> None:
                history = self.registry.history(ref.partition("@")[0])
                # It is there already if a process died right after it had written it.
                if all(line.evidence != ended.evidence for line in history):
                    self.registry.attach(ref, ended.evidence, reason=ended.reason, by=by)

            self._traffic.do_once("attached", attach)
        return found

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        self._traffic.close()

    def __repr__(self) -> str:
        """Return the two programs in a line."""
        return f"Experiment({self.name!r}, a={self.definition.a!r}, b={self.definition.b!r})"


def experiments(registry: Registry) -> list[str]:
    """Return the names of the experiments of a registry."""
    return sorted(path.stem for path in (registry.local / "experiments").glob("*.sqlite3"))
