"""Pruned models as files: ``prunebench prune``, checkpoints of records, model cards.

Applying a plan does not belong here (``models.surgery``), nor does running cases (``runs``).
May import ``reports`` and everything below it.
"""
