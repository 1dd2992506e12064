"""Values that nobody expects, for tests of what is said about them."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import xarray as xr


class Hostile:
    """What says no to whatever it is asked."""

    def _no(self, *args, **kwargs):
        raise RuntimeError("no")

    __array__ = __bool__ = __eq__ = __float__ = __len__ = __repr__ = __str__ = _no
    __hash__ = None


HOLDS_ITSELF = [1]
HOLDS_ITSELF.append(HOLDS_ITSELF)
#: Without anything that raises when it is looked at.
TAME = [
    *(10**30, -(10**400), Fraction(1, 3), Fraction(10**400, 3), Fraction(1, 10**400)),
    *(Decimal("0.1"), Decimal("NaN"), Decimal("sNaN"), Decimal("1e999999"), 1j, complex("nan")),
    *(math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7e308, True, None, ...),
    *(np.float16(1), np.uint64(2**64 - 1), np.bool_(True), np.longdouble(1) / 3, np.clongdouble(1)),
    *("", "yes", np.str_("no"), "1e400", "\u00bd", "1,5", "3%", "\x00", "<b>", "x" * 10**4, b"3"),
    *([], (), {}, {1, 2}, {"a": 1}, range(3), (1,) * 5, [1, [2, [3]]], list(range(500))),
    *(HOLDS_ITSELF, (n for n in (1, 2)), map(str, [1]), object(), int, Hostile),
    *(np.array([]), np.zeros((3, 3)), np.array([None, 10**30]), np.array(["a"]), np.array({})),
    *(np.ma.masked_array([1, 2], [0, 1]), np.datetime64("2020-01-01"), np.zeros(1, "i4,f8")),
    *(pd.Series([1, 2]), pd.DataFrame({"a": [1]}), pd.NA, pd.NaT, xr.DataArray([1.0, 2.0])),
    *(np.ones(3, bool), np.ones(3, int), np.ones(3, "f2"), np.ones(3, ">f8"), np.ones(3) * 1j),
    *(np.full(3, 1e308), np.full(3, 1e-320), np.ones((1, 3)), np.full(3, np.nan), [[0], [1, 2]]),
]
ODD = [*TAME, Hostile(), type("Tensor", (), {"__array__": None})]
