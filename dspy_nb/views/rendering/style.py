"""How a document looks as HTML: the colours, which follow the theme of the page around it, and the room it has."""

from __future__ import annotations

from typing import Final

STYLE: Final = """<style>
.dspy-nb.dspy-nb{font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.45;
 color:var(--jp-content-font-color1,inherit);
 --line:color-mix(in srgb,currentColor 22%,transparent);--soft:color-mix(in srgb,currentColor 74%,transparent);
 --good:var(--jp-success-color1,#2e8b57);--bad:var(--jp-error-color1,#d32f2f);
 --warn:var(--jp-warn-color1,#d9822b);--accent:var(--jp-brand-color1,#1976d2)}
.dspy-nb.dspy-nb>:not(.scroll){max-width:72em}
.dspy-nb.dspy-nb h4{font-size:1.15em;font-weight:600;line-height:1.3;margin:.2em 0 0;color:inherit}
.dspy-nb.dspy-nb p{margin:.4em 0}
.dspy-nb.dspy-nb .soft,.dspy-nb.dspy-nb caption,.dspy-nb.dspy-nb dt,.dspy-nb.dspy-nb th{color:var(--soft)}
.dspy-nb.dspy-nb .scroll{overflow-x:auto;margin:.7em 0;container-type:inline-size}
.dspy-nb.dspy-nb table{border-collapse:collapse;border:0;margin:0;font-size:inherit;color:inherit;table-layout:auto;
 font-variant-numeric:tabular-nums}
.dspy-nb.dspy-nb tbody tr:nth-child(n){background:none}
.dspy-nb.dspy-nb th,.dspy-nb.dspy-nb td{text-align:left;vertical-align:top;padding:.25em 1.4em .25em 0;border:0;
 border-bottom:1px solid var(--line);white-space:normal;max-width:56em;overflow-wrap:break-word}
.dspy-nb.dspy-nb th{font-weight:500;white-space:nowrap}
.dspy-nb.dspy-nb .num{text-align:right;white-space:nowrap}
.dspy-nb.dspy-nb :is(.score,.whole){white-space:nowrap}
.dspy-nb.dspy-nb caption{caption-side:bottom;text-align:left;padding:.35em 0 0}
.dspy-nb.dspy-nb dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1.4em;margin:.7em 0}
.dspy-nb.dspy-nb dt{font-weight:500;float:none;width:auto;margin:0}
.dspy-nb.dspy-nb dd{margin:0;padding:0;width:auto;overflow-wrap:anywhere}
.dspy-nb.dspy-nb dl.tiles{display:flex;flex-wrap:wrap;gap:.4em 2.2em}
.dspy-nb.dspy-nb .warning{border-left:3px solid var(--warn);padding-left:.7em}
.dspy-nb.dspy-nb details{margin:.5em 0}
.dspy-nb.dspy-nb summary{cursor:pointer}
.dspy-nb.dspy-nb details>div{padding-left:1em;border-left:1px solid var(--line)}
.dspy-nb.dspy-nb pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3em 0;font-size:12px;background:none;
 color:inherit;font-family:var(--jp-code-font-family,monospace)}
.dspy-nb.dspy-nb .added{background:#2ea04340}
.dspy-nb.dspy-nb .removed{background:#f8514940}
.dspy-nb.dspy-nb .bar{height:8px;margin:.7em 0 .3em;border-radius:4px;overflow:hidden;
 background:var(--line)}
.dspy-nb.dspy-nb .bar>div{height:100%;background:var(--accent)}
.dspy-nb.dspy-nb .bar.good>div{background:var(--good)}
.dspy-nb.dspy-nb .bar.bad>div{background:var(--bad)}
.dspy-nb.dspy-nb .bar.warn>div{background:var(--warn)}
.dspy-nb.dspy-nb svg{display:block;margin:.15em 0 .1em}
.dspy-nb.dspy-nb .chart{container-type:inline-size}
.dspy-nb.dspy-nb svg.scores{width:100%;margin:.7em 0 0;font-size:11px;font-variant-numeric:tabular-nums}
.dspy-nb.dspy-nb svg.scores path:not([stroke-linecap]){vector-effect:non-scaling-stroke}
@container (max-width:46em){.dspy-nb.dspy-nb svg.scores{font-size:16px}
 .dspy-nb.dspy-nb :is(th,td){font-size:12px;padding-right:.75em}
 .dspy-nb.dspy-nb th{white-space:normal;vertical-align:bottom}
 .dspy-nb.dspy-nb .score{white-space:normal;min-width:8em}
 .dspy-nb.dspy-nb .score svg{width:100px}}
</style>"""
"""The doubled class wins over the notebook's own rules for tables and lists.

Text is in the theme's own colour or in a mixture of it with the background: 74 % of a colour of 11 : 1 is more than
4.5 : 1. Other colours are those of lines and areas, and words say what they say.
"""
