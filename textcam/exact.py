"""Sums that do not depend on order.

Sums of floats depend on the order in which they are added; sums of integers do not. Whoever rounds values
once to a fixed step and adds integers from there gets the same bits for any order, batch size and sharding.
"""

import numpy as np
from numpy.typing import NDArray

from textcam.arrays import Doubles

EXACT = 2.0**53  # float64 adds integers exactly up to here
_LOWER = 0xFFFF_FFFF


class ExactSum:
    """Sums of integers of up to 95 bits: high * 2**32 + low, 0 <= low < 2**32, one form per total.

    Integers arrive as float64, because BLAS makes them, and wait in float64 as long as their magnitudes
    cannot pass 2**53. An image would have to be seen 2**31 times at the largest values before ``high`` could
    overflow.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.high = np.zeros(shape, dtype=np.int64)
        self.low = np.zeros(shape, dtype=np.int64)
        self._waiting = np.zeros(shape, dtype=np.float64)
        self._bound = 0.0

    def add(self, integers: Doubles, bound: float) -> None:
        """Add ``integers``, all of magnitude at most ``bound`` <= 2**53."""
        if self._bound + bound > EXACT:
            self._settle()
        self._waiting += integers
        self._bound += bound

    def add_rows(self, integers: NDArray[np.int64]) -> None:
        """Add up int64 ``integers`` of any size over their first axis."""
        self._carry((integers >> 32).sum(axis=0), (integers & _LOWER).sum(axis=0))

    def merge(self, other: "ExactSum") -> None:
        """Add another sum of the same shape."""
        self._settle()
        self._carry(*other.limbs())

    def limbs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(high, low): the same bits for the same total."""
        self._settle()
        return self.high, self.low

    def floats(self) -> Doubles:
        """The totals, rounded to float64."""
        high, low = self.limbs()
        rounded: Doubles = np.ldexp(high.astype(np.float64), 32) + low
        return rounded

    def integers(self) -> NDArray[np.object_]:
        """The totals as Python integers, for small shapes."""
        high, low = self.limbs()
        whole: NDArray[np.object_] = high.astype(object) * 2**32 + low.astype(object)
        return whole

    def _settle(self) -> None:
        if self._bound:
            whole = self._waiting.astype(np.int64)
            self._carry(whole >> 32, whole & _LOWER)
            self._waiting[...] = 0.0
            self._bound = 0.0

    def _carry(self, high: NDArray[np.int64], low: NDArray[np.int64]) -> None:
        total = self.low + low
        self.low = total & _LOWER
        self.high = self.high + high + (total >> 32)
