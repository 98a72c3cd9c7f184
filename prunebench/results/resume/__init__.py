"""Resume: journals on disk that let a killed run continue where it was.

What methods and models call does not belong here (``prunebench.resume``). May import ``system``
and the data modules at the top; no torch, no cases.
"""
