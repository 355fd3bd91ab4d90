"""From a program to production, step by step, through a quality gate."""
