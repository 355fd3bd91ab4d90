"""Comparing programs: ``compare()`` on examples, ``Experiment`` on live traffic."""
