"""One module per output format: records and verdicts in, text or a table out.

Writing files does not belong here (``reports.run_files``, ``cli.export``), nor does judging.
May import ``reports`` and what that may import.
"""
