"""Optimize, measure, compare and ship DSPy programs without leaving the notebook."""

__version__ = "0.1.0"
