"""The SGC loss on S x S masks with a loop wherever the formula has an index, and a training step written out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.references.gradcam import gradcam
from tests.references.spatial import normalised_mask


def sgc_loss(
    query_Nhw: Tensor,
    masked_Nhw: Tensor,
    saliency_NSS: Tensor,
    *,
    temperature: float,
    negatives: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Per-sample losses (N,).  Further negatives are maps of masked views of other images, and their saliency."""
    size = saliency_NSS.shape[-1]

    def unit(maps_Nhw: Tensor, saliency_NSS: Tensor) -> list[Tensor]:
        masks_NSS = normalised_mask(maps_Nhw, size) * saliency_NSS.to(maps_Nhw)
        return [F.normalize(mask_SS.flatten(), dim=0) for mask_SS in masks_NSS]

    q = unit(query_Nhw, torch.ones_like(saliency_NSS))
    a = unit(masked_Nhw, saliency_NSS)
    others = [] if negatives is None else unit(*negatives)
    losses = []
    for i in range(len(a)):
        positive = torch.exp(a[i] @ q[i] / temperature)
        total = positive
        for other in [a[j] for j in range(len(a)) if j != i] + others:
            total = total + torch.exp(a[i] @ other / temperature)
        losses.append(-torch.log(positive / total))
    return torch.stack(losses)


def training_losses(
    trunk: Callable[[Tensor], Tensor],
    head: Callable[[Tensor], Tensor],
    views: tuple[Tensor, Tensor],
    labels_N: Tensor,
    saliency_NSS: Tensor,
    *,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Per-sample (cross-entropy of xe + query + masked query, consistency), each (N,); views are normalised."""
    xe, query = views
    masked = torch.stack([image * mask.to(image) for image, mask in zip(query, saliency_NSS, strict=True)])
    features = [trunk(view) for view in (xe, query, masked)]
    logits = [head(feature) for feature in features]
    cross_entropy_N = sum(F.cross_entropy(logit, labels_N, reduction="none") for logit in logits)
    target_N = logits[1].argmax(dim=1).detach()
    query_Nhw, masked_Nhw = (
        gradcam(features[view], logits[view], target_N, create_graph=True) for view in (1, 2)
    )
    return cross_entropy_N, sgc_loss(query_Nhw, masked_Nhw, saliency_NSS, temperature=temperature)
