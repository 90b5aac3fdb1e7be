"""Compiles loops over pixels, rays and points.

Numba compiles a function when it is first called and keeps the machine code beside the module (or in the user's cache
folder): the first simulation on a machine takes a few seconds longer. Compiled functions run beside each other in
several threads.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])

Number = Any
"""A number inside compiled loops, in whatever precision it comes."""

_FREEDOM = {"nsz", "arcp", "contract", "afn"}
"""What the compiler may do to arithmetic; infinities and nan keep their meaning, and sums their order."""


def compiled(loop: Loop) -> Loop:
    """`loop` as machine code. It may use numbers and arrays only.

    To other compiled functions it hands on numbers alone: an array handed on is counted each time, which costs ten
    times the work on a pixel.
    """
    return cast(Loop, numba.njit(nogil=True, cache=True, fastmath=_FREEDOM, error_model="numpy")(loop))
