"""Runs cases: sessions, the worker, executors (in-process, worker pool, Slurm jobs), dry runs.

Defining a case (``cases``), judging a number (``verdicts``) and printing (``reports``) do not
belong here. May import ``results`` and everything below it. torch: in
``worker``, ``functional`` and ``conformance`` only.
"""
