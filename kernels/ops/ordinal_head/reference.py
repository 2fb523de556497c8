"""Reference of the ordinal head in plain PyTorch.

votes   = softmax(x[:G]) of each token,  w = softmax(x[G]) over the tokens
mixture = sum w votes,  hidden = GELU(sum w x[-D:])
logits  = W hidden + b + gain log(mixture + 1e-4)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MIXTURE_EPS = 1e-4
"""Added inside the logarithm of the mixture, so that a grade without votes stays possible."""


def ordinal_head_reference(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, grades: Tensor
) -> Tensor:
    """Join the votes of tokens to score, distribution and quality map of their image.

    Args:
        x: [B, N, F + D], for each token G logits of its vote, the logit of its weight, unused
            values up to F, and D features.
        weight: [G, D], layer of the image's features.
        bias: [G].
        gain: [], factor of the mixture's logarithm.
        grades: [G], value of each grade.

    Returns:
        [B, 1 + G + N], float32 or wider: expectation and probabilities of the grades of the image,
        and expectation of each token's vote.
    """
    count, width = weight.shape
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    votes = x[..., :count].softmax(dim=-1)
    weights = x[..., count].softmax(dim=-1)[:, None]  # [B, 1, N]
    mixture = (weights @ votes).flatten(1)
    hidden = F.gelu((weights @ x[..., -width:]).flatten(1))
    logits = torch.addcmul(F.linear(hidden, weight, bias), gain, (mixture + MIXTURE_EPS).log())
    probs = logits.softmax(dim=-1)
    score = (probs * grades).sum(dim=-1, keepdim=True)
    return torch.cat([score, probs, (votes * grades).sum(dim=-1)], dim=-1)
