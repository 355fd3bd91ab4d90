"""Model cards as documents: what Markdown means is shown, its escapes are not."""

from __future__ import annotations

from dspy_nb.views.card import LONGEST, card_document
from dspy_nb.views.rendering.text import to_text

CARD = r"""# a\_model 1.0.0

**Score 71.7%** on `test`, metric exact\_match.

## How it was made

| Fact | Value |
|---|---|
| Seed | 0 |

Options:

```json
{"k": 1}
```

## Prompt

### first

- one [link](http://x.y)
"""


def test_a_card_reads_as_text() -> None:
    assert to_text(card_document(CARD)) == (
        "a_model 1.0.0\n\nScore 71.7% on test, metric exact_match.\n\n"
        'How it was made:\n  Seed  0\n  Options:\n      {"k": 1}\n\n'
        "Prompt:\n  first:\n    - one [link](http://x.y)"
    )


def test_anything_is_a_card() -> None:
    for text in ("", "#", "## x\n# y", "> - > | a |\n|---|\n", "a\x1b[2J", "# t\n" * 50, "x" * (LONGEST + 1)):
        assert "\x1b" not in to_text(card_document(text), 60)
