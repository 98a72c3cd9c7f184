"""Baselines in git: reading, accepting, guarding and reviewing them; the papers' numbers.

Judging a record against a baseline does not belong here (``verdicts``). May import the rest of
``results`` and everything below it.
"""
