"""What the registry browser shows, as pieces of HTML; whatever comes from a registry is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.models.stages import HistoryEntry
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.views.documents import Document, Facts, Note, Score, Table, document, markup, to_html
from dspy_nb.views.listings import decision_text, evidence_text
from dspy_nb.views.wording import UNKNOWN, count, excerpt, moment

_MARKS: Final[Mapping[str, str]] = {
    "production": "●", "staging": "◐", "development": "○", "deprecated": "▽", "archived": "×",
}  # fmt: skip
"""A stage is told by its word and its mark; colour only repeats it."""

_COLUMNS: Final = ("stage", "score", "optimizer", "created (UTC)", "made from", "size")

BROWSER_STYLE: Final = """<style>
.dspy-nb-browser.dspy-nb-browser{container-type:inline-size;max-width:100em;
 --line:color-mix(in srgb,var(--jp-content-font-color1,currentColor) 16%,transparent);
 --soft:color-mix(in srgb,var(--jp-content-font-color1,currentColor) 74%,transparent);
 font-family:var(--jp-ui-font-family,system-ui,sans-serif);color:var(--jp-content-font-color1,inherit)}
.dspy-nb-browser .widget-html{margin:0;height:auto;min-width:0}
.dspy-nb-browser .widget-html-content{line-height:1.45;font-size:13px;overflow:visible;
 color:var(--jp-content-font-color1,inherit)}
.dspy-nb-browser .dspy-nb-bar{flex-flow:row wrap;align-items:center;gap:2px 6px;overflow:visible}
.dspy-nb-browser .dspy-nb-bar>*{flex:0 0 auto}
.dspy-nb-browser h4{margin:0;font-size:15px;font-weight:600}
.dspy-nb-browser .dspy-nb-chosen{margin-top:10px}
.dspy-nb-browser h5{margin:1em 0 .3em;font-size:13px;font-weight:600}
.dspy-nb-browser .soft{color:var(--soft)}
.dspy-nb-browser .dspy-nb-rows{border:1px solid var(--line);border-radius:4px;max-height:26em;overflow:hidden auto}
.dspy-nb-browser .dspy-nb-row{border-bottom:1px solid var(--line);align-items:center;overflow:hidden;flex:0 0 auto;
 min-height:32px;padding:0 8px}
.dspy-nb-browser .dspy-nb-row.is-head{background:var(--jp-layout-color2,transparent);
 position:sticky;top:0;z-index:1}
.dspy-nb-browser .dspy-nb-row.is-head strong{font-weight:500;color:var(--soft)}
.dspy-nb-browser .dspy-nb-row>*{margin:0 12px 0 0}
.dspy-nb-browser .dspy-nb-row>.widget-html{margin:0}
.dspy-nb-browser .dspy-nb-row{position:relative}
.dspy-nb-browser .dspy-nb-row>.widget-checkbox input{margin:0;vertical-align:middle}
.dspy-nb-browser .dspy-nb-row>.widget-html:not(:last-child){margin:0 12px 0 0}
.dspy-nb-browser .dspy-nb-row.is-open{box-shadow:inset 4px 0 var(--jp-brand-color1,#1976d2);
 background:var(--jp-layout-color2,rgba(128,128,128,.14))}
.dspy-nb-browser .dspy-nb-cells{display:grid;align-items:center;gap:0 12px;white-space:nowrap;
 grid-template-columns:7.8em minmax(10.5em,1fr) minmax(6em,1.4fr) 9.6em 6em 5em}
.dspy-nb-browser .dspy-nb-cells>*{overflow:hidden;text-overflow:ellipsis;font-variant-numeric:tabular-nums}
.dspy-nb-browser .num{text-align:right}
.dspy-nb-browser :is(.said,.dspy-nb-row>.widget-checkbox span){position:absolute;width:1px;height:1px;margin:0;
 overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.dspy-nb-browser :is(button,input,select,.lm-TabBar-tab):focus-visible{outline-offset:-2px;
 outline:2px solid var(--jp-brand-color1,#1976d2)!important}
.dspy-nb-browser .dspy-nb-ref{text-align:left;font-weight:500;background:transparent;padding:0;
 color:var(--jp-content-link-color,var(--jp-brand-color1,#1976d2))}
.dspy-nb-browser .dspy-nb-ref:focus-visible{outline-offset:0}
.dspy-nb-browser select{appearance:auto;background-image:none!important}
.dspy-nb-browser .stage-production{font-weight:600}
.dspy-nb-browser .stage-archived,.dspy-nb-browser .stage-deprecated{color:var(--soft)}
.dspy-nb-browser .dspy-nb-form{border:1px solid var(--jp-warn-color1,#d9822b);border-radius:4px;padding:8px 12px}
.dspy-nb-browser .dspy-nb-say{margin:4px 0;padding:3px 10px;border-left:4px solid var(--jp-success-color1,#2e8b57)}
.dspy-nb-browser .dspy-nb-say.no{border-left-color:var(--jp-error-color1,#d32f2f)}
@container (max-width:1180px){.dspy-nb-browser .wide{display:none}
 .dspy-nb-browser .dspy-nb-cells{grid-template-columns:7.8em minmax(10.5em,1fr) minmax(5em,1fr)}}
@container (max-width:640px){.dspy-nb-browser .middle{display:none}
 .dspy-nb-browser .dspy-nb-cells{grid-template-columns:7.8em minmax(10em,1fr)}}
</style>"""

SAVED_STYLE: Final = """<style>
.jp-OutputArea:has(.dspy-nb-browser:not(.jupyter-widgets-disconnected)) .dspy-nb-saved{display:none}
.dspy-nb-browser.jupyter-widgets-disconnected{display:none}
.jp-OutputArea-child:not(:has(.dspy-nb-browser)):has(>.jupyter-widgets):has(+.jp-OutputArea-child .dspy-nb-saved),
.jp-OutputArea-child:not(:has(.dspy-nb-browser)):has(>.jp-RenderedWidget):has(+.jp-OutputArea-child .dspy-nb-saved)
{display:none}
</style>"""
"""Beside a live browser the saved table is hidden; where the browser is gone, its error is hidden instead."""


def cells_html(version: ModelVersion) -> str:
    """Return what a row says about a version, beside its reference."""
    values = (
        f"{_MARKS.get(version.stage, '?')} {version.stage}",
        str(Score(version.score, version.interval)),
        version.optimizer or UNKNOWN,
        moment(version.created_at),
        version.parent or UNKNOWN,
        _size(version.size_bytes),
    )
    shown = (
        f'<span title="{markup(value)}"><span class="said">{name} </span>{markup(value)}</span>'
        for name, value in zip(_COLUMNS, values, strict=True)
    )
    return _cells(shown, f"stage-{markup(version.stage)}")


def head_html() -> str:
    """Return the names of the columns, for the eye: each cell says to a screen reader what it is."""
    return _cells(map(label_html, _COLUMNS), "")


def label_html(name: str) -> str:
    """Return the name of a column."""
    return f'<strong aria-hidden="true">{markup(name)}</strong>'


def _cells(cells: Iterable[str], first: str) -> str:
    kinds = (first, "", "middle", "wide", "wide", "wide num")
    inside = "".join(f'<div class="{kind}">{cell}</div>' for kind, cell in zip(kinds, cells, strict=True))
    return f'<div class="dspy-nb-cells">{inside}</div>'


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e3:.1f} kB" if size_bytes < 1e6 else f"{size_bytes / 1e6:.1f} MB"


def summary_html(root: str, versions: Sequence[ModelVersion], live: Iterable[tuple[str, str]]) -> str:
    """Return the heading: which registry, how much is in it, what is live where."""
    models = len({version.model_id for version in versions})
    facts = [f"{count(models, 'model')}, {count(len(versions), 'version')}"]
    facts += [f"live in {name}: {ref}" for name, ref in live]
    return f'<h4>Registry: {markup(root)}</h4><span class="soft">{markup(" · ".join(facts))}</span>'


def message_html(text: str, *, refused: bool = False) -> str:
    """Return one line about what happened, that screen readers say too."""
    if not text:
        return ""
    kind, role, mark = ("dspy-nb-say no", "alert", "✗ ") if refused else ("dspy-nb-say", "status", "✓ ")
    return f'<p class="{kind}" role="{role}">{mark}{markup(" ".join(text.split()))}</p>'


def evaluation_html(version: ModelVersion, history: Sequence[HistoryEntry]) -> str:
    """Return what was measured of a version, and the evidence that was recorded about it.

    Raises:
        Corrupt: A file of the version was changed.
    """
    score = str(Score(version.score, version.interval))
    measured = [("score", score), ("measured on", version.score_kind or UNKNOWN)]
    stored, reports = version.evaluation or {}, []
    try:
        reports = [document(Evaluation.from_dict({**stored, "results": ()}))]
    except InputError:  # none, or of another kind: as it is
        measured += [(str(name), _value(value)) for name, value in stored.items() if name != "score"]
    pages = [Document(f"{version.ref}: evaluation", [Facts(measured)]), *reports]
    return "".join(map(to_html, pages)) + evidence_html(version, history)


def evidence_html(version: ModelVersion, history: Sequence[HistoryEntry]) -> str:
    """Return the evidence that was recorded about a version as a table, the newest first."""
    rows = [
        (evidence_text(line.evidence), decision_text(line), moment(line.at), line.by, line.reason or "")
        for line in reversed(history)
        if line.evidence is not None and version.version == line.versions[0]
    ]
    table = Table(("evidence", "given with", "when (UTC)", "who", "why"), rows)
    nothing = Note("No gate, comparison or evaluation is attached to it.")
    return to_html(Document(f"Evidence for {version.ref}", [table if rows else nothing]))


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else excerpt(value, 300)
