"""Results on disk: records, answer keys, provenance, baselines, resume journals, comparisons.

Measuring does not belong here (``runs``), nor does wording (``reports``). May import ``cases`` and
everything below it. No torch.
"""
