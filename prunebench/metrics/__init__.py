"""Metrics: one file each, found by its name.

A metric measures a model and returns measurements with their samples; comparing them does not
belong here (``verdicts``). May import ``api``, ``models`` and everything below them. Helpers of
several metrics begin with an underscore.
"""
