"""Kept for one release: ``prunebench.Calibration`` is the public name."""

from .models.calibration import Calibration as Calibration
