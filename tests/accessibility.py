"""What axe-core, the checker of accessibility rules, finds in a page: it comes with a package, no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["OF_LOOKS", "OUTPUTS", "violations"]

OUTPUTS = ".dspy-nb, .dspy-nb-panel, .dspy-nb-browser"
"""Whatever the package shows in a notebook; what is around it is JupyterLab's."""

OF_LOOKS = ("color-contrast", "link-in-text-block", "scrollable-region-focusable")
"""The rules that may say something else of the same page in another theme or width."""

# JupyterLab's body has no height and hides what goes beyond it, so axe would take everything for hidden. Preloaded,
# and a third of the time, is every style sheet, which none of the rules reads that are on by default.
_RUN = """async ([where, rules]) => {
    document.body.style.overflow = 'visible';
    const shown = [...document.querySelectorAll(where)].filter(element => element.checkVisibility());
    const options = {resultTypes: ['violations'], preload: false, ...(rules && {runOnly: rules})};
    const found = await axe.run({include: shown}, options);
    document.body.style.overflow = '';
    return found;
}"""
_SERIOUS = ("serious", "critical")


def violations(page: Any, where: str = OUTPUTS, rules: Sequence[str] | None = None) -> list[str]:
    """Return the serious and critical violations, one a line: the rule, the element, what is wrong with it.

    Args:
        page: Playwright's page.
        where: A selector; only what it matches is looked at.
        rules: Ids of axe's rules; all by default.
    """
    from axe_playwright_python.sync_playwright import Axe

    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(Axe().axe_script)
    found = page.evaluate(_RUN, [where, None if rules is None else list(rules)])
    return [
        f"{rule['id']}: {node['target'][-1]}: {' '.join(node['failureSummary'].split())}"
        for rule in found["violations"]
        if rule["impact"] in _SERIOUS
        for node in rule["nodes"]
    ]
