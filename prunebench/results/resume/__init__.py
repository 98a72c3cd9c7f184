"""Resume: per-case journals on disk that let a killed run continue.

The functions that methods and models call do not belong here (``prunebench.resume``). May import
``system`` and the data modules at the top; no torch, no cases.
"""
