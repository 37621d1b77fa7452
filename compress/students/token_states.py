"""What a teacher's tower makes of every word of a text, as something a student can be near to.

A tower's vector of a text is the mean of its words' states, and a student's last layer pools states
too: near states, and nearer means, are a tower's knowledge of sentences without a label.
Knows nothing of slates' labels or optimizers. (Hidden-state distillation as in TinyBERT, Jiao et
al. 2020, section 3.1, with a projection of the teacher's states in place of the student's.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress.data.worlds import TokenWorld
from compress.encoders.pair_encoder import PairEncoder, TextBatch
from compress.encoders.pair_slates import LONGEST, Chunks, SpecialTokens
from compress.students.whole_batches import MARKER, Places
from compress.students.word_table import Projection

RIDGE = 1e-3  # of the mean square, in the probe's first fit


@dataclass(frozen=True, slots=True)
class StateBatch:
    """The texts of a step as the encoder reads them, and which of its states each token is near."""

    chunks: Chunks
    text: npt.NDArray[np.int64]  # (tokens of texts,) row of `chunks`, in the order it was packed
    spans: npt.NDArray[np.int64]  # (tokens of texts, 2) first and last token of the encoder's
    is_text: npt.NDArray[np.bool_]  # (T,) which of the student's tokens these are
    owner: npt.NDArray[np.int64]  # (tokens of texts,) which of the step's rows each is of


@dataclass(frozen=True)
class TeacherStates:
    """A tower's states, each text's mean of length 1, projected as the words were."""

    towers: PairEncoder
    projection: Projection
    special: SpecialTokens
    device: torch.device
    dtype: torch.dtype
    chunk: int  # texts that one pass takes

    def batch(self, world: TokenWorld, places: Places, lengths: Places) -> StateBatch:
        """places (T,): into the student's tokens of the world, members before postings, or MARKER;
        lengths: tokens of each of the step's rows, markers too, which sum to T.
        """
        is_text = places != MARKER
        held = places[is_text]
        starts, row = _text_starts(world), np.repeat(np.arange(len(lengths)), lengths)
        text = np.searchsorted(starts, held, side="right") - 1
        used, text = np.unique(text, return_inverse=True)
        members = len(world.encoder[0])
        read = [world.encoder[0][i] if i < members else world.encoder[1][i - members] for i in used]
        spans = np.minimum(world.places[held].astype(np.int64), LONGEST - 1)
        chunks = Chunks.pack([self.special.open(ids) for ids in read], None, self.chunk)
        return StateBatch(chunks, text, spans, is_text, row[is_text])

    @torch.no_grad()
    def __call__(self, batch: StateBatch) -> Tensor:
        """(tokens of texts, size) fp32; a token that covers several states is near their ends'."""
        longest = max(ids.shape[1] for ids, _, _ in batch.chunks.batches)
        read = [self._read(part, longest) for part in batch.chunks.on(self.device)]
        states = batch.chunks.restore(torch.cat(read))
        text = torch.from_numpy(batch.text).to(self.device)
        first, last = torch.from_numpy(batch.spans).to(self.device).T
        return (states[text, first] + states[text, last]) / 2

    def _read(self, texts: TextBatch, longest: int) -> Tensor:
        """(N, longest, size): states behind the opening mark, padded."""
        states, norms = self.towers.states(texts, self.dtype)
        projected = self.projection(states.float() / norms[:, None])
        out = projected.new_zeros(len(projected), longest, projected.shape[-1])
        out[:, : projected.shape[1] - 1] = projected[:, 1:]
        return out


def _text_starts(world: TokenWorld) -> npt.NDArray[np.int64]:
    members, postings = world.student
    return np.concatenate((members.bounds[:-1], postings.bounds[:-1] + len(members.flat)))


class StateProbe(nn.Module):
    """Reads a teacher's states off a student's: (..., hidden) to (..., size)."""

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.map = nn.Linear(hidden, size)

    def forward(self, states: Tensor) -> Tensor:
        """The student's guess."""
        return self.map(states)  # type: ignore[no-any-return]

    @torch.no_grad()
    def fit(self, states: Tensor, targets: Tensor) -> None:
        """Starts from ridge regression over (tokens, hidden) and (tokens, size)."""
        x = torch.cat((states, torch.ones_like(states[:, :1])), 1).double()
        gram = x.T @ x
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=x.device)
        solved = torch.linalg.solve(gram, x.T @ targets.double())
        self.map.weight.copy_(solved[:-1].T)
        self.map.bias.copy_(solved[-1])


def unexplained(
    guesses: Tensor, targets: Tensor, owner: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    """Shares of the targets' variance that guesses (tokens, size) miss: of rows' means, of tokens.

    owner (tokens,): the row of each; 0 is a perfect guess, 1 what the mean of all would be.
    """
    counts = torch.bincount(owner, minlength=rows).clamp(min=1)[:, None]
    means = [
        x.new_zeros(rows, x.shape[1]).index_add(0, owner, x) / counts for x in (guesses, targets)
    ]
    return _share(*means), _share(guesses, targets)


def _share(guesses: Tensor, targets: Tensor) -> Tensor:
    spread = (targets - targets.mean(0)).square().sum(-1).mean()
    return (guesses - targets).square().sum(-1).mean() / spread
