"""``python -m dspy_nb`` is the command ``dspy-nb``."""

import sys

from dspy_nb.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
