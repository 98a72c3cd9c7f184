"""Running cases: which to measure, where (process, worker pool, Slurm), by which worker.

What a case is (``cases``), what a number is worth (``verdicts``) and how it is printed
(``reports``) do not belong here. May import ``results`` and everything below it. torch: in
``worker``, ``functional`` and ``conformance`` only.
"""
