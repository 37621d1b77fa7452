"""What each outcome adds to a divergence between a teacher p and a student q. Knows no logits.

    forward_kl       sum p log(p / q)                     what the teacher does, the student must
    reverse_kl       sum q log(q / p)                     the student must not do what it does not
    combined         a forward_kl + (1 - a) reverse_kl
    jsd              b KL(p || m) + (1 - b) KL(q || m),   m = b p + (1 - b) q
    tvd              1/2 sum |p - q|
    skew_kl          KL(p || m),                          m = a p + (1 - a) q
    skew_reverse_kl  KL(q || m),                          m = a q + (1 - a) p

The letter is `mixture`. Definitions: Hinton et al. 2015 (forward_kl), Gu et al. 2024, MiniLLM
(reverse_kl), Agarwal et al. 2024, GKD (jsd), Wen et al. 2023, f-divergence minimization (tvd),
Ko et al. 2024, DistiLLM (skew). jsd vanishes as b nears 0 or 1; there it is taken for what it
vanishes along, as others take it: forward_kl at 0, reverse_kl at 1.

Sums of p log(p / m) are taken as those of p log(p / m) + m - p: the same, but every term is at
least 0 and rounding of a log-sum-exp, which shifts a whole row of logarithms, cancels. (In jsd the
additions cancel by themselves.)

For q = softmax(z) the gradient needs one more number per outcome, s_j = q_j dD/dq_j:

    dD / dz_j = s_j - q_j sum_k s_k
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.dispatch import jit, tl

# The value `mixture` has unless given; None where the divergence has no such number.
MIXTURES = {
    "forward_kl": None,
    "reverse_kl": None,
    "combined": 0.5,
    "jsd": 0.5,
    "tvd": None,
    "skew_kl": 0.1,
    "skew_reverse_kl": 0.1,
}
# Infinite where the teacher rules out what the student may do.
NEEDS_TEACHER_SUPPORT = ("reverse_kl", "combined")


def resolve(kind: str, mixture: float | None) -> tuple[str, float]:
    """The divergence to compute and its mixture; raises ValueError for what is not defined."""
    if kind not in MIXTURES:
        raise ValueError(f"kind is {kind!r}; pass one of {', '.join(MIXTURES)}")
    default = MIXTURES[kind]
    if default is None:
        if mixture is not None:
            raise ValueError(f"mixture is {mixture}, but {kind} has none; pass None")
        return kind, 0.0
    chosen = default if mixture is None else mixture
    if not 0.0 <= chosen <= 1.0:
        raise ValueError(f"mixture is {chosen}; pass 0 to 1")
    if kind == "jsd" and chosen in (0.0, 1.0):
        return ("forward_kl" if chosen == 0.0 else "reverse_kl"), 0.0
    return kind, chosen


def divergence_terms_reference(
    kind: str, mixture: float, log_p: Tensor, log_q: Tensor
) -> tuple[Tensor, Tensor]:
    """(what each outcome adds, s as above) of log-probabilities that may be -inf.

    The first is differentiable in log_q: a quotient is taken of 1 wherever its numerator is 0.
    """
    p, q = log_p.exp(), log_q.exp()
    if kind == "forward_kl":
        return _kl(p, log_p, q, log_q), -p
    if kind == "reverse_kl":
        return _kl(q, log_q, p, log_p), _relative(q, log_q, log_p)
    if kind == "combined":
        forward, backward = _kl(p, log_p, q, log_q), _kl(q, log_q, p, log_p)
        slope = (1 - mixture) * _relative(q, log_q, log_p) - mixture * p
        return mixture * forward + (1 - mixture) * backward, slope
    if kind == "tvd":
        return 0.5 * (q - p).abs(), 0.5 * q * (q - p).sign()
    return _mixed_terms(kind, mixture, log_p, log_q)


def _mixed_terms(kind: str, mixture: float, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = log_p.exp(), log_q.exp()
    if kind == "skew_reverse_kl":
        m = _positive(mixture * q + (1 - mixture) * p)
        terms = _relative(q, log_q, m.log())
        return terms + (1 - mixture) * (p - q), terms - mixture * q * q / m
    m = _positive(mixture * p + (1 - mixture) * q)
    if kind == "skew_kl":
        terms = _relative(p, log_p, m.log())
        return terms + (1 - mixture) * (q - p), -(1 - mixture) * q * p / m
    student = (1 - mixture) * _relative(q, log_q, m.log())
    return mixture * _relative(p, log_p, m.log()) + student, student


def _positive(m: Tensor) -> Tensor:
    return torch.where(m > 0, m, 1.0)


def _relative(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """p log(p / q), 0 where p is 0."""
    return p * torch.where(p > 0, log_p - log_q, 0.0)


def _kl(p: Tensor, log_p: Tensor, q: Tensor, log_q: Tensor) -> Tensor:
    """p log(p / q) + q - p: the sum is KL(p || q), and no error of q's normalisation moves it."""
    return _relative(p, log_p, log_q) + (q - p)


@jit
def _relative_entropy(p: tl.tensor, log_p: tl.tensor, log_q: tl.tensor) -> tl.tensor:
    return tl.where(p > 0.0, p * (log_p - log_q), 0.0)


@jit
def divergence_terms(
    log_p: tl.tensor, log_q: tl.tensor, mixture: float, KIND: tl.constexpr
) -> tl.tensor:
    """(q, what each outcome adds, s): the reference above, in a kernel."""
    p = tl.exp(log_p)
    q = tl.exp(log_q)
    if KIND == "forward_kl":
        terms = _relative_entropy(p, log_p, log_q) + (q - p)
        slope = -p
    elif KIND == "reverse_kl":
        slope = _relative_entropy(q, log_q, log_p)
        terms = slope + (p - q)
    elif KIND == "combined":
        forward = mixture * (_relative_entropy(p, log_p, log_q) + (q - p))
        backward = (1.0 - mixture) * _relative_entropy(q, log_q, log_p)
        terms = forward + backward + (1.0 - mixture) * (p - q)
        slope = backward - mixture * p
    elif KIND == "tvd":
        terms = 0.5 * tl.abs(q - p)
        slope = tl.where(q > p, 0.5 * q, tl.where(q < p, -0.5 * q, 0.0))
    elif KIND == "skew_reverse_kl":
        gap = tl.where(q > 0.0, log_q - tl.log(mixture * q + (1.0 - mixture) * p), 0.0)
        terms = q * gap + (1.0 - mixture) * (p - q)
        slope = q * (gap - mixture * tl.exp(gap))
    elif KIND == "skew_kl":
        gap = tl.where(p > 0.0, log_p - tl.log(mixture * p + (1.0 - mixture) * q), 0.0)
        terms = p * gap + (1.0 - mixture) * (q - p)
        slope = tl.where(p > 0.0, (mixture - 1.0) * q * tl.exp(gap), 0.0)
    else:
        tl.static_assert(KIND == "jsd", "an unknown divergence")
        log_m = tl.log(mixture * p + (1.0 - mixture) * q)
        slope = (1.0 - mixture) * _relative_entropy(q, log_q, log_m)
        terms = mixture * _relative_entropy(p, log_p, log_m) + slope
    return q, terms, slope
