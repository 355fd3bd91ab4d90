"""Runs as documents, and what is known of them before: the scores, what was tried, what was optimized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dspy_nb.core.evaluation.diagnosis import Finding
from dspy_nb.core.evaluation.examples import ExampleResult
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.optimization.estimates import Estimate
from dspy_nb.core.optimization.optimizers import get_optimizer
from dspy_nb.core.optimization.run import OptimizationRun, readable
from dspy_nb.core.statistics.sample_sizes import Plan
from dspy_nb.core.supervision.budget import Budget
from dspy_nb.core.supervision.candidates import Candidate, Prompt
from dspy_nb.core.supervision.racing import Abandoned
from dspy_nb.core.text import error_text, excerpt
from dspy_nb.views.documents import Block, Cell, Code, Details, Document, Facts, Note, Score, Table, document
from dspy_nb.views.ending import describe_evidence, describe_flattery, describe_verdict, say_next
from dspy_nb.views.examples.blocks import describe, examples_block
from dspy_nb.views.examples.columns import OPEN, SMALL
from dspy_nb.views.findings import finding_blocks
from dspy_nb.views.wording import count, describe_ending, duration, percent, say_rest, usage_facts

CANDIDATE_COLUMNS = ("candidate", "score", "n", "demos", "instruction")
_CANDIDATES_SHOWN = 10
_CANDIDATES_OPENED = 5
_EXCERPT = 160


@document.register(Estimate)
@document.register(Plan)
def _(expected: Estimate | Plan) -> Document:
    return Document("", [], str(expected))


def describe_estimate(estimate: Estimate, budget: Budget | None = None) -> str:
    """Return what a run will make of LM calls, and where its budget would end it, in one line."""
    if budget is None:
        return str(estimate)
    text = f"{estimate}; budget: {budget}"
    if not budget.limits():
        text += ", so it goes on until it is done"
    if budget.lm_calls is not None and budget.lm_calls < estimate.lm_calls:
        text += ", which may end it early"
    return text


# -- runs ---------------------------------------------------------------------------------------------------


@document.register
def _(run: OptimizationRun) -> Document:
    plan = run.plan
    title = f"{plan.optimizer}{f' (preset {plan.preset})' if plan.preset else ''}"
    if (status := run.status) in ("running", "failed"):
        note = Note("run.wait() waits for it, run.stop() ends it and keeps the best candidate so far.")
        if status == "failed":
            note = Note(_failure(run), warning=True)
        facts = [("plan", _subtitle(run)), ("estimate", str(plan.estimate)), ("budget", str(plan.budget))]
        return Document(f"{title}: {status}", [note, Facts(facts)], headline=f"{title}: {status}")
    options = [(name, excerpt(value, _EXCERPT)) for name, value in readable(plan.options).items()]
    blocks: list[Block] = [
        *_ending(run),
        *_scores(run),
        *_examples(run),
        *_findings(run),
        *_candidates(run),
        Facts(_usage_facts(run)),
        *_errors(run),
        *_prompt(run.program),
        Details("Options", [Facts(options)]),
    ]
    title = f"{title} on {type(run.program).__name__}"
    if (held := run.held_out) is None:
        return Document(title, blocks, _subtitle(run), f"{title}: {_headline(run)}")
    verdict = describe_verdict(held)
    return Document(verdict, blocks, f"{title} · {_subtitle(run)}", f"{title}: {verdict}")


def _headline(run: OptimizationRun) -> str:
    ended = describe_ending(run.stopped_by, run.plan.budget.limits())
    if run.score is None:
        return ended
    return f"{ended}; {_search_set(run)[0]} {Score(run.baseline_score)} → {Score(run.score)}"


def _examples(run: OptimizationRun) -> list[Block]:
    if run.test_before is None and run.test_after is None:
        return []
    table = run.example_table()
    return [examples_block(table, plain_blocks=[])] if len(table) else []


def _subtitle(run: OptimizationRun) -> str:
    plan = run.plan
    sizes = [f"{data['n']:,} {name}" for name, data in plan.datasets.items()]
    return f"{plan.metric} · {plan.base_model} · {' + '.join(sizes)} examples · seed {plan.seed}"


def _failure(run: OptimizationRun) -> str:
    try:
        run.wait()
    except Exception as error:
        return excerpt(f"{type(error).__name__}: {error_text(error)}", 500)
    return ""


def _ending(run: OptimizationRun) -> list[Block]:
    """Return what the verdict rests on, how the run ended, and what to do next."""
    held = run.held_out
    evidence = "" if held is None else describe_evidence(held)
    step = run.next_step
    return [
        *([Note(evidence)] if evidence else []),
        *_outcome(run),
        *([Note(say_next(step))] if step else []),
    ]


def _outcome(run: OptimizationRun) -> list[Block]:
    if run.stopped_by is None:
        return []
    words = f"The run was {describe_ending(run.stopped_by, run.plan.budget.limits())}"
    what = {
        "optimizer": ", when the search was over and its result was being scored.",
        "candidate": "; this is the best candidate until then.",
        "given": "; no candidate had been scored in full by then, so this is the program as it was given.",
    }[run.origin]
    return [Note(f"{words}{what}", warning=True)]


def _scores(run: OptimizationRun) -> list[Block]:
    before, after = run.test_before, run.test_after
    rows = []
    if run.score is not None or run.baseline_score is not None:
        name, n = _search_set(run)
        scores = Score(run.baseline_score), Score(run.score)
        if (held := run.held_out) is not None and held.validation:
            scores = Score(held.before, held.before_interval), Score(held.after, held.after_interval)
        rows.append(_score_row(name, n, *scores))
    if before is not None or after is not None:
        n = max(evaluation.n for evaluation in (before, after) if evaluation is not None)
        rows.append(_score_row("held out, never seen by the search", n, _score(before), _score(after)))
    table = Table(("score on", "n", "before", "after", "change"), rows, frozenset([1, 4]))
    return [*([table] if rows else []), *_held_out_notes(run)]


def _score_row(name: str, n: int, before: Score, after: Score) -> tuple[Cell, ...]:
    change = None
    if before.value is not None and after.value is not None:
        change = f"{100 * (after.value - before.value):+.1f} points"
    return name, n, before, after, change


def _score(evaluation: Evaluation | None) -> Score:
    return Score(None) if evaluation is None else Score(evaluation.score, evaluation.interval)


def _search_set(run: OptimizationRun) -> tuple[str, int]:
    """Return which examples ``run.score`` is about, and how many."""
    sizes = {name: int(data["n"]) for name, data in run.plan.datasets.items()}
    if run.plan.has_unseen_valset:
        return "validation, not used by the search", sizes["val"]
    name = "validation" if get_optimizer(run.plan.optimizer).needs_valset else "training"
    full = (candidate.n for candidate in run.candidates if candidate.full)
    return f"{name}, seen by the search", max(full, default=sizes.get("val", sizes.get("train", 0)))


def _held_out_notes(run: OptimizationRun) -> list[Block]:
    before, after = run.test_before, run.test_after
    if "test" not in run.plan.datasets:
        if run.held_out is not None:
            return []  # the verdict is on the validation examples
        if run.plan.has_unseen_valset and run.score is not None:
            unseen = "The search did not see the validation examples, so they tell how good the program is."
            return [Note(unseen)]
        return [Note(describe_flattery(run.score, run.baseline_score, len(run.candidates)))]
    if run.origin == "given":
        return []  # said already: nothing changed
    if after is None or before is None:
        return [Note("The program was not scored on the held-out examples: the run ended before that.", True)]
    blocks: list[Block] = []
    for when, evaluation in (("before", before), ("after", after)):
        if not evaluation.complete:
            text = f"The held-out score {when} covers {evaluation.n:,} of {count(evaluation.n_planned, 'example')}."
            blocks.append(Note(text, warning=True))
        if evaluation.errors.count:
            text = f"{evaluation.errors.count:,} of {evaluation.n:,} held-out examples failed {when}"
            text += (
                f" and count as wrong; without them the score is {Score(evaluation.score_without_errors)}."
            )
            blocks.append(Note(text, warning=not evaluation.reliable))
    return blocks


def _findings(run: OptimizationRun) -> list[Block]:
    held_out = {"before": run.test_before, "after": run.test_after}

    def results(finding: Finding) -> Sequence[ExampleResult]:
        found = held_out.get(finding.where)
        return () if found is None else found.results

    return finding_blocks(run.findings, results)


def _candidates(run: OptimizationRun) -> list[Block]:
    if not run.candidates:
        return []
    chosen = Prompt.of(run.program).key
    ranked = sorted(run.candidates, key=lambda c: (c.prompt.key != chosen, not c.full, -c.score, c.number))
    rows = []
    for c in ranked[:_CANDIDATES_SHOWN]:
        remark = " (chosen)" if c.prompt.key == chosen else ""
        row = candidate_cells(
            c.number, remark, c.score, c.n, c.full, c.num_demos, _instruction(c), c.abandoned
        )
        rows.append(row)
    caption = say_rest(_CANDIDATES_SHOWN, len(run.candidates), "candidates")
    caption = f"{caption}, the best first; run.candidates has all" if caption else ""
    table = Table(CANDIDATE_COLUMNS, rows, frozenset([1, 2, 3]), caption)
    opened = [_opened(c) for c in ranked[:_CANDIDATES_OPENED] if c.scored]
    more = "" if len(opened) == len(run.candidates) else " (run.candidates[0].examples() shows those of any)"
    return [table, Details(f"Examples of the candidates{more}", opened, wide=True)] if opened else [table]


def _opened(candidate: Candidate) -> Block:
    table = candidate.example_table()
    instead = Note(f"{_title(candidate)}: run.candidates[{candidate.number}].examples()")
    block = examples_block(table, SMALL, plain_blocks=[instead])
    return replace(block, title=f"{_title(candidate)}: {describe(table)}")


def _title(candidate: Candidate) -> str:
    if (given_up := candidate.abandoned) is not None:
        return f"Candidate {candidate.number}, {say_given_up(given_up)}"
    partial = "" if candidate.full else " (partial)"
    return f"Candidate {candidate.number}, {percent(candidate.score)}{partial}"


@document.register
def _(candidate: Candidate) -> Document:
    demos = count(candidate.num_demos, "demo")
    subtitle = f"{count(candidate.n, 'example')}, {demos}"
    prompt = Details(f"Prompt: {describe_prompt(candidate.prompt)}", prompt_blocks(candidate.prompt))
    examples: Block = Note("Its answers were not kept.")
    if candidate.scored:
        examples = examples_block(candidate.example_table(), OPEN, fold=False)
    return Document(_title(candidate), [prompt, examples], subtitle)


def say_given_up(given_up: Abandoned) -> str:
    """Return ``given up after 36 of 200, at most 58.3%``."""
    bound = f"{'' if given_up.certain else 'very probably '}at most {percent(given_up.interval[1])}"
    return f"given up after {given_up.n:,} of {given_up.of:,}, {bound}"


def say_saved(skipped: int, raced: int) -> str:
    """Return ``1,204 of 3,200 answers``, ``""`` where nothing was raced."""
    return f"{skipped:,} of {count(raced, 'answer')}" if raced else ""


def candidate_cells(
    number: int,
    remark: str,
    score: float,
    n: int,
    full: bool,
    demos: int,
    instruction: str,
    given_up: Abandoned | None = None,
) -> tuple[str, ...]:
    """Return what a row says of a candidate, column by column."""
    value, size = percent(score), f"{n:,}{'' if full else ' (partial)'}"
    if given_up is not None:
        value, size = str(Score(score, given_up.interval)), f"{n:,} of {given_up.of:,}, given up"
    return f"{number}{remark}", value, size, str(demos), instruction


def _instruction(candidate: Candidate) -> str:
    instructions = list(candidate.instructions.values())
    if not instructions:
        return ""
    more = f" (+ {len(instructions) - 1} more)" if len(instructions) > 1 else ""
    return excerpt(instructions[0], _EXCERPT) + more


def _usage_facts(run: OptimizationRun) -> list[tuple[str, str]]:
    usage = run.usage
    answered = usage.lm_calls + usage.cache_hits
    return [
        *usage_facts(usage),
        ("estimate", f"{answered:,} answered of at most {run.plan.estimate.lm_calls:,} expected"),
        *([("races saved", saved)] if (saved := say_saved(run.skipped, run.raced)) else []),
        *([("budget", str(run.plan.budget))] if run.plan.budget.limits() else []),
        ("time", duration(run.duration_s)),
    ]


def _errors(run: OptimizationRun) -> list[Block]:
    errors = run.errors
    if not errors.count:
        return []
    kinds = errors.kinds.most_common(10)
    rows = [(kind, n, excerpt(errors.first[kind], _EXCERPT)) for kind, n in kinds]
    text = f"{count(errors.count, 'call')} of the program or the metric failed, counted as wrong."
    return [Note(text, warning=True), Table(("error", "times", "first message"), rows, frozenset([1]))]


def _prompt(program: Any) -> list[Block]:
    """Return what was optimized: each predictor's instructions and demos."""
    prompt = Prompt.of(program)
    blocks = prompt_blocks(prompt)
    return [Details(f"The optimized prompt: {describe_prompt(prompt)}", blocks)] if blocks else []


# -- prompts ----------------------------------------------------------------------------------------------------

_DEMOS_SHOWN = 8
_FIELD_EXCERPT = 400


def prompt_blocks(prompt: Prompt) -> list[Block]:
    """Return instructions in full, and the first demos with long fields cut."""
    blocks: list[Block] = []
    for name, instructions in prompt.instructions.items():
        whose = f" of {name}" if len(prompt.signatures) > 1 else ""
        demos = prompt.demos[name]
        blocks += [Note(f"Instructions{whose}"), Code(instructions)]
        if demos:
            shown_of = f", the first {_DEMOS_SHOWN}" if len(demos) > _DEMOS_SHOWN else ""
            blocks.append(Note(f"{count(len(demos), 'demo')}{whose}{shown_of}"))
            blocks += [Code(_demo(demo)) for demo in demos[:_DEMOS_SHOWN]]
    return blocks


def describe_prompt(prompt: Prompt) -> str:
    """Return ``2 predictors, 4 demos``."""
    demos = sum(map(len, prompt.demos.values()))
    return f"{count(len(prompt.signatures), 'predictor')}, {count(demos, 'demo')}"


def _demo(demo: Any) -> str:
    return "\n".join(f"{k}: {excerpt(v, _FIELD_EXCERPT)}" for k, v in dict(demo).items() if k != "augmented")
