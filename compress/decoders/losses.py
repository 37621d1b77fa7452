"""The loss of a slate: listwise on the grades beside yes/no. Knows nothing of models or files."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.data.requests import RELEVANT


def slate_loss(raw_logits: Tensor, grades: Tensor, listwise_weight: float = 1.0) -> Tensor:
    """Mean over slates of ListNet's top-one cross-entropy plus the mean binary cross-entropy.

    raw_logits, grades: (slates, candidates). The listwise target is proportional to NDCG's gain
    2^grade - 1 (Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach");
    a slate without gains has no listwise part. Returns a scalar.
    """
    gains = torch.exp2(grades.to(raw_logits.dtype)) - 1
    targets = gains / gains.sum(dim=1, keepdim=True).clamp(min=1)
    listwise = -(targets * raw_logits.log_softmax(dim=1)).sum(dim=1).mean()
    relevant = (grades >= RELEVANT).to(raw_logits.dtype)
    return listwise_weight * listwise + F.binary_cross_entropy_with_logits(raw_logits, relevant)
