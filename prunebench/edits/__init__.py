"""Edits: one file each, found by its name: what a plan does to a model.

A file holds everything about its edit: the data, the check against a model, the application (torch
is imported inside), what it removes, its words and its drawing. Which edit to make does not belong
here (``methods``). May import ``models`` and everything below it.
"""
