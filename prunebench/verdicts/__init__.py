"""Verdicts: the statistical tests, what is paired with what, and the rules that decide.

Reading files does not belong here (``results``), nor does wording (``reports``). May import
``record``, ``plan`` and ``errors`` only. No torch.
"""
