"""The CGC loss and its ablation on S x S masks, with a loop wherever the formula has an index."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.references.spatial import Transform, normalised_mask, transformed_mask


def unit_masks(query_Nhw: Tensor, augmented_Nhw: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
    """Flattened L2-normalised masks (N, S*S): q, the transformed query's, and a, the augmented view's."""
    query_NSS = transformed_mask(normalised_mask(query_Nhw, transform.size), transform)
    augmented_NSS = normalised_mask(augmented_Nhw, transform.size)
    return F.normalize(query_NSS.flatten(1), dim=1), F.normalize(augmented_NSS.flatten(1), dim=1)


def cgc_loss(
    query_Nhw: Tensor,
    augmented_Nhw: Tensor,
    transform: Transform,
    *,
    temperature: float,
    anchor: str = "augmented",
    negatives: Tensor | None = None,
) -> Tensor:
    """Per-sample losses (N,).  Further negatives are maps of augmented views of other images."""
    q, a = unit_masks(query_Nhw, augmented_Nhw, transform)
    others = (
        [] if negatives is None else list(F.normalize(normalised_mask(negatives, transform.size).flatten(1)))
    )
    losses = []
    for i in range(len(a)):
        start = a[i] if anchor == "augmented" else q[i]
        positive = torch.exp(a[i] @ q[i] / temperature)
        total = positive
        for other in [a[j] for j in range(len(a)) if j != i] + others:
            total = total + torch.exp(start @ other / temperature)
        losses.append(-torch.log(positive / total))
    return torch.stack(losses)


def l2_consistency_loss(query_Nhw: Tensor, augmented_Nhw: Tensor, transform: Transform) -> Tensor:
    """Per-sample losses (N,): the mean over pixels of (a - q)^2."""
    q, a = unit_masks(query_Nhw, augmented_Nhw, transform)
    return torch.stack([((a[i] - q[i]) ** 2).mean() for i in range(len(a))])


def cgc_loss_as_published(
    query_Nhw: Tensor, augmented_Nhw: Tensor, transform: Transform, *, temperature: float
) -> Tensor:
    """Scalar loss, anchor "augmented", products over the batch as matrices: for timing the direct way."""
    q, a = unit_masks(query_Nhw, augmented_Nhw, transform)
    positive_N = torch.exp((a * q).sum(dim=1) / temperature)
    similarity_NN = torch.exp(a @ a.T / temperature)
    others = 1 - torch.eye(len(a), dtype=a.dtype, device=a.device)
    return -torch.log(positive_N / (positive_N + (similarity_NN * others).sum(dim=1))).mean()
