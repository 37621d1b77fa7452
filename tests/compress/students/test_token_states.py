"""A tower's states of a student's tokens: those of their own text and place, near when copied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from compress.data.tokenizer import MARKERS
from compress.data.worlds import Kind, TokenWorld, WorldSource
from compress.decoders.wiring import RESERVED
from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_slates import LONGEST, SpecialTokens
from compress.encoders.pair_teacher import encoder_tokenizer
from compress.students.student import StudentShape, student_of
from compress.students.student_steps import StepDraws, StudentRates, StudentSteps, scored
from compress.students.token_states import StateProbe, TeacherStates, unexplained
from compress.students.whole_batches import MARKER, as_slates
from compress.students.word_table import Projection
from tests.compress.small_encoders import write_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


@pytest.fixture(scope="module")
def source(reader: Path, small_data: Path, word_tokenizer: Tokenizer) -> WorldSource:
    return WorldSource.load(small_data, encoder_tokenizer(reader), word_tokenizer, seed=1)


@pytest.fixture(scope="module")
def world(source: WorldSource) -> TokenWorld:
    return source.build(Kind.PLAIN, 0)


@pytest.fixture(scope="module")
def states(reader: Path) -> TeacherStates:
    torch.manual_seed(0)
    towers = PairEncoder(load_encoder(reader), joint=False).eval()
    hidden = towers.encoder.config.hidden_size
    projection = Projection(torch.randn(hidden), torch.randn(hidden, 6))
    return TeacherStates(
        towers, projection, SpecialTokens.of(encoder_tokenizer(reader)), CPU, torch.float32, chunk=3
    )


def test_every_token_has_the_state_of_its_place_in_its_text(
    states: TeacherStates, world: TokenWorld
) -> None:
    """Against each text read alone: a member in the middle, and two postings, one without ends. Of
    a text longer than the encoder reads the rest has the last state.
    """
    members, postings = world.student
    bounds = [
        (members.bounds[7], members.bounds[8]),
        (len(members.flat) + postings.bounds[0], len(members.flat) + postings.bounds[1]),
        (len(members.flat) + postings.bounds[5] + 3, len(members.flat) + postings.bounds[6] - 2),
    ]
    rows = [np.r_[MARKER, np.arange(*span), MARKER] for span in bounds]
    batch = states.batch(world, np.concatenate(rows), np.array([len(row) for row in rows]))
    read = iter(states(batch))
    texts = (world.encoder[0][7], world.encoder[1][0], world.encoder[1][5])
    for (start, stop), text in zip(bounds, texts, strict=True):
        alone = _alone(states, text)
        for first, last in np.minimum(world.places[start:stop], LONGEST - 1):
            expected = (alone[first] + alone[last]) / 2
            torch.testing.assert_close(next(read), expected, atol=1e-5, rtol=1e-4)
    assert next(read, None) is None
    assert np.bincount(batch.owner).tolist() == [stop - start for start, stop in bounds]


def _alone(states: TeacherStates, text: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
    ids = torch.from_numpy(states.special.open(text))[None]
    with torch.no_grad():
        x = states.towers.encoder(ids, torch.tensor([ids.shape[1]]), torch.zeros_like(ids))[0]
    return states.projection(x / x.mean(0).norm())[1:]


def test_a_projection_is_the_map_its_words_had() -> None:
    mean, directions = torch.randn(5), torch.randn(5, 3)
    vectors = torch.randn(7, 5)
    projection = Projection(mean, directions).to(CPU)
    torch.testing.assert_close(projection(vectors), (vectors - mean) @ directions)


def test_nothing_is_missed_by_a_copy_and_all_by_the_mean() -> None:
    targets, owner = torch.randn(40, 5), torch.arange(40) % 8
    assert [float(x) for x in unexplained(targets, targets, owner, 8)] == [0, 0]
    mean = targets.mean(0).expand_as(targets)
    pooled, token = unexplained(mean, targets, owner, 8)
    assert float(token) == pytest.approx(1)
    assert float(pooled) == pytest.approx(1, abs=1e-5)
    off = (
        targets
        + 5 * (torch.arange(40) < 8)[:, None]
        - 5 * ((torch.arange(40) >= 8) & (torch.arange(40) < 16))[:, None]
    )
    pooled, token = unexplained(off, targets, owner, 8)
    assert float(pooled) == pytest.approx(0, abs=1e-9)  # every row's errors cancel
    assert float(token) > 1


def test_a_probe_starts_from_the_nearest_linear_map() -> None:
    torch.manual_seed(0)
    states, weight, shift = torch.randn(300, 8), torch.randn(8, 3), torch.randn(3)
    targets = states @ weight + shift
    probe = StateProbe(8, 3)
    before = F.mse_loss(probe(states), targets)
    probe.fit(states, targets)
    assert float(F.mse_loss(probe(states), targets).detach()) < 1e-4 * float(before.detach())


@pytest.mark.long
def test_the_student_is_drawn_to_the_states_by_their_weights(
    source: WorldSource, world: TokenWorld, states: TeacherStates
) -> None:
    torch.manual_seed(0)
    words = torch.randn(400, StudentShape().hidden_size - RESERVED)
    decoder, probe = student_of(StudentShape(), words, len(MARKERS)), StateProbe(256, 6)
    labels = torch.zeros(4, 5)
    steps = StudentSteps(
        StepDraws(source, 4, 5, 0.5), lambda _: world, lambda _: labels, 2, CPU, 2, states
    )
    batch = steps.full(1, 0.2)
    assert batch.states is not None
    rates = [StudentRates(1e-3, 1e-3, pooled=p, token=t) for p, t in ((0, 0), (1, 0), (0, 1))]
    alone, pooled, token = (
        float(steps.full_loss(decoder, batch, r, probe).detach()) for r in rates
    )
    assert alone == float(steps.full_loss(decoder, batch, rates[0]).detach())
    slates, read = as_slates(batch.arrays, CPU), states(batch.states)
    guesses = probe(scored(decoder, slates, CPU)[1][torch.from_numpy(batch.states.is_text)])
    missed = unexplained(guesses, read, torch.from_numpy(batch.states.owner), 2 + 2 * 5)
    assert (pooled - alone, token - alone) == pytest.approx(
        [float(x.detach()) for x in missed], rel=1e-4
    )
    both = replace(rates[0], pooled=2.0, token=0.5)
    together = steps.full_loss(decoder, batch, both, probe)
    assert float(together.detach()) == pytest.approx(
        alone + 2 * (pooled - alone) + 0.5 * (token - alone), rel=1e-5
    )
    together.backward()  # type: ignore[no-untyped-call]
    assert probe.map.weight.grad is not None
    assert float(probe.map.weight.grad.abs().max()) > 0
