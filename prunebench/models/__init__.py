"""The model and what is done with its tensors: loading, editing, streaming, scoring, timing.

Which parts to remove does not belong here (``methods``), nor does what to measure (``metrics``).
May import ``data``, ``system`` and the data modules at the top. torch lives here.
"""
