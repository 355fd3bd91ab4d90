"""Pure mathematics of scores: they take numbers and return numbers, and know neither DSPy nor files.

Rates are in ``proportions``, graded scores in ``means``, sizes in ``sample_sizes``, what may be looked at at any
time in ``sequences`` and ``two_arm``, what it may still take in ``forecast``, and how to decide in ``verdicts``.
"""
