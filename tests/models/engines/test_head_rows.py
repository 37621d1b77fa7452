"""Heads see rows in blocks of one size, so that a row's logits know nothing of its company."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.engines.head_rows import BLOCK_ROWS, raw_logits_by_block
from models.heads import GradedColumns, ScoringHeads

WIDTH = 48
GENERATOR = torch.Generator().manual_seed(3)
HIDDEN = torch.randn(5 * BLOCK_ROWS, WIDTH, generator=GENERATOR)
GAIN = torch.tensor([0.0, 0.5, 1.0])
HEADS = ScoringHeads(
    torch.ones(WIDTH),
    1e-6,
    torch.randn(4, WIDTH, generator=GENERATOR),
    (None, GradedColumns(1, 4, GAIN.log(), (1 - GAIN).log())),
)
ALONE = torch.cat([raw_logits_by_block(HEADS, row[None]) for row in HIDDEN])
TOLERANCE = 1e-5  # of logits up to 25, added up in another order


class WatchedHeads(ScoringHeads):
    """Remembers how many rows each product had."""

    products: list[int]

    def raw_logits(self, hidden: Tensor) -> Tensor:
        self.products.append(len(hidden))
        return super().raw_logits(hidden)


@settings(max_examples=10)
@given(st.lists(st.integers(0, len(HIDDEN) - 1), min_size=1, max_size=40))
def test_a_row_has_the_same_bits_alone_and_in_any_company(rows: list[int]) -> None:
    together = raw_logits_by_block(HEADS, HIDDEN[rows])
    assert torch.equal(together, ALONE[rows])
    torch.testing.assert_close(together, HEADS.raw_logits(HIDDEN[rows]), atol=TOLERANCE, rtol=0)


def test_every_product_has_the_rows_of_one_block() -> None:
    watched = WatchedHeads(HEADS.norm_weight, HEADS.eps, HEADS.rows, HEADS.graded)
    object.__setattr__(watched, "products", [])
    for rows in (1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 3 * BLOCK_ROWS):
        assert len(raw_logits_by_block(watched, HIDDEN[:rows])) == rows
    assert set(watched.products) == {BLOCK_ROWS}
    assert len(watched.products) == 1 + 1 + 1 + 2 + 3
