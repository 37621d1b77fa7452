"""Operands for the operations of training, at a decoder's sizes. Computes nothing itself."""

from __future__ import annotations

from kernels.catalogue import Operation

TRAINING: tuple[Operation, ...] = ()
