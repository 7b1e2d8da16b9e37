"""The type of what the search computes with."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""Points of the unit cube, predictions, weights: floating-point numbers of any shape."""
