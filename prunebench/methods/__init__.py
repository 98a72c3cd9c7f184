"""Pruning methods: one file each, found by its name.

A method chooses what to remove and returns a plan; changing the model does not belong here
(``edits``, ``models.surgery``), nor does measuring it (``metrics``). May import ``api``, ``edits``,
``models`` and everything below them. Helpers of several methods begin with an underscore.
"""
