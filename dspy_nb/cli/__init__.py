"""The command ``dspy-nb``: words to objects, one call into core, text or JSON out."""
