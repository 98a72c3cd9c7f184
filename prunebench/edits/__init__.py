"""Edits: one file each, found by its name: what a plan does to a model.

A file defines one subclass of ``plan.Edit`` and holds everything about it: its data, its check
against a model, its application (torch is imported inside functions), what it removes, what is
compared, its words and its marks on a block map. Which edit to make does not belong here
(``methods``), nor does the order of a plan's steps (``models.surgery``). May import ``models`` and
everything below it.
"""
