"""The machine and its files: atomic writes, locks, hashes, signals, GPUs, the terminal.

Anything that knows of a case, a record or a model does not belong here. May import ``errors``,
``progress`` and the standard library. No torch.
"""
