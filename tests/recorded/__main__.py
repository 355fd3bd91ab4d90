"""``python -m tests.recorded FOLDER`` writes down what was asked in runs that left their questions there."""

import sys

from tests.recorded import main

main(sys.argv[1])
