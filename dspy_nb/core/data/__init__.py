"""Labelled examples: reading, splitting, telling apart, and the metrics that score them."""
