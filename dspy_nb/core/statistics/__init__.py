"""Pure mathematics of scores: no DSPy, no files."""
