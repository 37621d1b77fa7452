"""Pieces of kernels that sum exponentials over long rows. Knows nothing of any loss.

Every lane of a block keeps a maximum and a sum of its own, so a pass over a row needs no exchange
between warps until its end. One exponential per value: of the distance to the lane's maximum.
"""

from __future__ import annotations

from kernels.base.dispatch import jit, tl

LOWEST = -3.4028234663852886e38  # least float32: above it any value, even finfo(bfloat16).min


@jit
def take_in(x: tl.tensor, highest: tl.tensor, total: tl.tensor) -> tl.tensor:
    """(maximum, sum of exp(. - maximum)) of each lane after x; start from (LOWEST, 0)."""
    shrink = tl.exp(-tl.abs(x - highest))
    total = tl.where(x > highest, total * shrink + 1.0, total + shrink)
    return tl.maximum(highest, x), total


@jit
def take_in_power(x: tl.tensor, highest: tl.tensor, total: tl.tensor, power: float) -> tl.tensor:
    """Sum of exp(power (. - maximum)) after x, by the maximum that `take_in` will raise for x."""
    shrink = tl.exp(-power * tl.abs(x - highest))
    return tl.where(x > highest, total * shrink + 1.0, total + shrink)


@jit
def merge_apart(highest: tl.tensor, total: tl.tensor) -> tl.tensor:
    """(maximum, log of the sum of exp(. - maximum)) over all lanes: x less one, then the other, is
    log softmax(x) to more places than x less their sum."""
    top = tl.max(highest, axis=0)
    return top, tl.log(tl.sum(total * tl.exp(highest - top), axis=0))


@jit
def merge(highest: tl.tensor, total: tl.tensor) -> tl.tensor:
    """log-sum-exp over all lanes; -inf when they have seen nothing."""
    top, log_total = merge_apart(highest, total)
    return top + log_total
