"""The version, apart from everything else: the build reads it here, and imports stay acyclic."""

from __future__ import annotations

__version__ = "0.1.0"
