"""The commands of ``dspy-nb``, one module for each subject; each parses, calls core and prints."""
