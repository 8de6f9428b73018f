"""The values that options of data sets may have, without NumPy: the command line needs them for its help."""

from __future__ import annotations

from typing import Literal

__all__ = ["Channels", "Crop", "Interpolation", "OnBadImage"]

Crop = Literal["center", "none"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]
Channels = Literal[1, 3]
OnBadImage = Literal["stop", "skip"]
