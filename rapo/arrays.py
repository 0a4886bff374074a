"""Arrays: the array types that modules share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: float64 arrays of any shape; the docstrings give the shapes.
Floats = NDArray[np.float64]
