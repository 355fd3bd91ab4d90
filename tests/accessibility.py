"""What axe-core, the checker of accessibility rules, finds in a page: it comes with a package, no network."""

from __future__ import annotations

from typing import Any

__all__ = ["OUTPUTS", "violations"]

OUTPUTS = ".dspy-nb, .dspy-nb-panel, .dspy-nb-browser"
"""Whatever the package shows in a notebook; what is around it is JupyterLab's."""

# JupyterLab's body has no height and hides what goes beyond it, so axe would take everything for hidden.
_RUN = """async where => {
    document.body.style.overflow = 'visible';
    const shown = [...document.querySelectorAll(where)].filter(element => element.checkVisibility());
    const found = await axe.run({include: shown}, {resultTypes: ['violations']});
    document.body.style.overflow = '';
    return found;
}"""
_SERIOUS = ("serious", "critical")


def violations(page: Any, where: str = OUTPUTS) -> list[str]:
    """Return the serious and critical violations, one a line: the rule, the element, what is wrong with it.

    Args:
        page: Playwright's page.
        where: A selector; only what it matches is looked at.
    """
    from axe_playwright_python.sync_playwright import Axe

    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(Axe().axe_script)
    found = page.evaluate(_RUN, where)
    return [
        f"{rule['id']}: {node['target'][-1]}: {' '.join(node['failureSummary'].split())}"
        for rule in found["violations"]
        if rule["impact"] in _SERIOUS
        for node in rule["nodes"]
    ]
