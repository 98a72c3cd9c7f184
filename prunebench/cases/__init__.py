"""Case files: finding, merging, checking and expanding YAML into ``Case`` objects.

Running a case does not belong here (``runs``), nor do its results (``results``). May import
``methods`` and ``metrics`` through ``registry``, and everything below them. No torch.
"""
