"""Leaderboards: records to rows, rows to ranks, ranks to a site.

Judging one record against its baseline does not belong here (``verdicts``), nor does the table of
one run (``reports``). May import ``reports`` and everything below it.
"""
