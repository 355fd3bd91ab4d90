"""What the registry browser shows, as pieces of HTML; whatever comes from a registry is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dspy_nb.core.deployment.serving import LiveIn
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.models.requirements import Requirement
from dspy_nb.core.models.stages import HistoryEntry
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.text import excerpt
from dspy_nb.views.documents import Cell, Document, Facts, Note, Score, Table, document
from dspy_nb.views.listings import COLUMNS, Live, decision_text, evidence_text
from dspy_nb.views.rendering.html import markup, to_html
from dspy_nb.views.wording import UNKNOWN, count, moment

_MARKS: Final[Mapping[str, str]] = {
    "production": "●", "staging": "◐", "development": "○", "deprecated": "▽", "archived": "×",
}  # fmt: skip
"""A stage is told by its word and its mark; colour only repeats it."""

BROWSER_COLUMNS: Final = tuple(name for name in COLUMNS if name != "version")
"""What can be shown beside the version, which is always there."""

BROWSER_STYLE: Final = """<style>
.dspy-nb-browser.dspy-nb-browser{container-type:inline-size;max-width:100em;
 --line:color-mix(in srgb,var(--jp-content-font-color1,currentColor) 16%,transparent);
 --soft:color-mix(in srgb,var(--jp-content-font-color1,currentColor) 74%,transparent);
 font-family:var(--jp-ui-font-family,system-ui,sans-serif);color:var(--jp-content-font-color1,inherit)}
.dspy-nb-browser .widget-html{margin:0;height:auto;min-width:0}
.dspy-nb-browser .widget-html-content{line-height:1.45;font-size:13px;overflow:visible;min-width:0;
 color:var(--jp-content-font-color1,inherit)}
.dspy-nb-browser .dspy-nb-bar{flex-flow:row wrap;align-items:center;gap:2px 6px;overflow:visible}
.dspy-nb-browser .dspy-nb-bar>*{flex:0 0 auto}
.dspy-nb-browser h4{margin:0;font-size:15px;font-weight:600}
.dspy-nb-browser .dspy-nb-chosen{margin-top:10px}
.dspy-nb-browser h5{margin:1em 0 .3em;font-size:13px;font-weight:600}
.dspy-nb-browser .soft{color:var(--soft)}
.dspy-nb-browser .dspy-nb-rows{border:1px solid var(--line);border-radius:4px;max-height:27em;overflow:auto;
 align-items:flex-start}
.dspy-nb-browser .dspy-nb-refs{flex:0 0 auto;overflow:visible;border-right:1px solid var(--line);
 position:sticky;left:0;z-index:2;background:var(--jp-layout-color1,Canvas)}
.dspy-nb-browser .dspy-nb-row{height:34px;border-bottom:1px solid var(--line);align-items:center;overflow:hidden;
 flex:0 0 auto;padding:0 8px;gap:10px}
.dspy-nb-browser .dspy-nb-row>*{margin:0}
.dspy-nb-browser .dspy-nb-row.is-head{background:var(--jp-layout-color2,Canvas);position:sticky;top:0;z-index:1}
.dspy-nb-browser .dspy-nb-row>.widget-checkbox{width:18px;position:relative}
.dspy-nb-browser .dspy-nb-row>.widget-checkbox input{margin:0;vertical-align:middle}
.dspy-nb-browser :is(.said,.dspy-nb-row>.widget-checkbox span){position:absolute;width:1px;height:1px;margin:0;
 overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.dspy-nb-browser .dspy-nb-row.is-open{box-shadow:inset 4px 0 var(--jp-brand-color1,#1976d2)}
.dspy-nb-browser :is(.dspy-nb-row,tr).is-open{background:var(--jp-layout-color2,rgba(128,128,128,.14))}
.dspy-nb-browser .dspy-nb-cells{flex:1 0 auto;overflow:visible}
.dspy-nb-browser .dspy-nb-cells>.widget-html-content{min-width:max-content}
.dspy-nb-browser table.versions{border-collapse:separate;border-spacing:0;width:100%;margin:0;font-size:13px;
 color:inherit;table-layout:auto;font-variant-numeric:tabular-nums}
.dspy-nb-browser table.versions tr{background:none}
.dspy-nb-browser table.versions :is(th,td){height:34px;box-sizing:border-box;padding:0 8px;text-align:left;
 white-space:nowrap;border:0;border-bottom:1px solid var(--line);vertical-align:middle;line-height:1.2;
 max-width:13em;overflow:hidden;text-overflow:ellipsis}
.dspy-nb-browser table.versions thead th{background:var(--jp-layout-color2,Canvas);font-weight:500;
 color:var(--soft);position:sticky;top:0;z-index:1}
.dspy-nb-browser table.versions tbody th{padding:0;width:0;max-width:0;position:relative}
.dspy-nb-browser table.versions thead th:first-child{padding:0;width:0;max-width:0;position:relative}
.dspy-nb-browser table.versions :is(th,td).num{text-align:right}
.dspy-nb-browser .badge{display:inline-block;border:1px solid currentColor;border-radius:9px;padding:0 8px;
 line-height:1.4;font-weight:600;margin-right:4px}
.dspy-nb-browser :is(.met,.unmet){list-style:none;margin:2px 0;padding:1px 0 1px 8px;border-left:4px solid}
.dspy-nb-browser .met{border-left-color:var(--jp-success-color1,#2e8b57)}
.dspy-nb-browser .unmet{border-left-color:var(--jp-error-color1,#d32f2f)}
.dspy-nb-browser ul.checklist{margin:.3em 0;padding:0}
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
.dspy-nb-browser .dspy-nb-columns .widget-checkbox{width:auto}
@container (max-width:700px){.dspy-nb-browser table.versions
  td.score{white-space:normal;min-width:9em;max-width:9em}
 .dspy-nb-browser table.versions :is(th,td){padding:0 4px}}
</style>"""

_SAVED_STYLE: Final = """<style>
body:has(.dspy-nb-browser.NAME:not(.jupyter-widgets-disconnected)) .dspy-nb-saved.NAME{display:none}
.dspy-nb-browser.jupyter-widgets-disconnected{display:none}
.jp-OutputArea-child:not(:has(.dspy-nb-browser)):has(>.jupyter-widgets):has(+.jp-OutputArea-child .dspy-nb-saved),
.jp-OutputArea-child:not(:has(.dspy-nb-browser)):has(>.jp-RenderedWidget):has(+.jp-OutputArea-child .dspy-nb-saved)
{display:none}
</style>"""


def saved_html(table: str, name: str) -> str:
    """Return the table that is kept, hidden wherever the live browser of that name is on the same page.

    Where the browser is gone, JupyterLab's error about that is hidden instead.
    """
    return f'<div class="dspy-nb-saved {name}">{_SAVED_STYLE.replace("NAME", name)}{table}</div>'


def table_html(
    versions: Sequence[ModelVersion], columns: Sequence[str], live: Live, opened: str | None
) -> str:
    """Return what is said of versions as a table; its first column is heard alone: the buttons stand apart."""
    chosen = [COLUMNS[name] for name in columns]
    head = "".join(f"<th{_num(column.number)} scope='col'>{markup(column.title)}</th>" for column in chosen)
    rows = []
    for version in versions:
        cells = (_cell_html(name, version, live.get(version.ref, ())) for name in columns)
        head_of_row = f'<th scope="row"><span class="said">{markup(version.ref)}</span></th>'
        kind = ' class="is-open"' if version.ref == opened else ""
        rows.append(f"<tr{kind}>{head_of_row}{''.join(cells)}</tr>")
    first = '<th scope="col"><span class="said">version</span></th>'
    table = f"<thead><tr>{first}{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="versions" aria-label="Versions">{table}</table>'


def _cell_html(name: str, version: ModelVersion, live: Sequence[LiveIn]) -> str:
    column = COLUMNS[name]
    text = _cell_text(column.cell(version, live))
    inside = f'<span title="{markup(text)}">{markup(text)}</span>'
    if name == "stage":
        mark = _MARKS.get(version.stage, "?")
        inside = f'<span class="stage-{markup(version.stage)}">{mark} {markup(version.stage)}</span>'
    elif name == "live" and live:
        inside = badges_html(live)
    kind = ' class="score"' if name == "score" else _num(column.number)
    return f"<td{kind}>{inside}</td>"


def _num(number: bool) -> str:
    return ' class="num"' if number else ""


def _cell_text(cell: Cell) -> str:
    return UNKNOWN if cell is None else str(cell)


def badges_html(live: Sequence[LiveIn]) -> str:
    """Return where a version is live, apart from its stage."""
    return "".join(f'<span class="badge">{markup(str(place))}</span>' for place in live)


def checklist_html(found: Sequence[Requirement]) -> str:
    """Return what a decision requires, each part ticked off or not, with what says so."""
    items = (
        f'<li class="{"met" if one.met else "unmet"}">{"✓ met" if one.met else "✗ not met"}: '
        f"<strong>{markup(one.name)}</strong> ({markup(one.evidence)})</li>"
        for one in found
    )
    return f'<ul class="checklist">{"".join(items)}</ul>'


def summary_html(root: str, versions: Sequence[ModelVersion], live: Live) -> str:
    """Return the heading: which registry, how much is in it, what is live where."""
    models = len({version.model_id for version in versions})
    facts = [f"{count(models, 'model')}, {count(len(versions), 'version')}"]
    facts += [f"{place}: {ref}" for ref, places in live.items() for place in places]
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
