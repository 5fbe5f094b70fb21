"""One training step written out: three passes, three cross-entropies, the consistency loss on S x S masks."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from tests.references.cgc import cgc_loss, l2_consistency_loss
from tests.references.gradcam import gradcam
from tests.references.spatial import Transform


def resnet_parts(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Trunk and head of a torchvision ResNet (they share its parameters)."""
    children = list(model.children())
    return nn.Sequential(*children[:-2]), nn.Sequential(children[-2], nn.Flatten(), children[-1])


def training_losses(
    trunk: Callable[[Tensor], Tensor],
    head: Callable[[Tensor], Tensor],
    views: tuple[Tensor, Tensor, Tensor],
    labels_N: Tensor,
    transform: Transform,
    *,
    temperature: float,
    consistency: str = "contrastive",
) -> tuple[Tensor, Tensor]:
    """Per-sample (cross-entropy of xe + query + augmented, consistency), each (N,)."""
    features = [trunk(view) for view in views]
    logits = [head(feature) for feature in features]
    cross_entropy_N = sum(F.cross_entropy(logit, labels_N, reduction="none") for logit in logits)
    target_N = logits[1].argmax(dim=1).detach()
    query_Nhw, augmented_Nhw = (
        gradcam(features[view], logits[view], target_N, create_graph=True) for view in (1, 2)
    )
    if consistency == "l2":
        return cross_entropy_N, l2_consistency_loss(query_Nhw, augmented_Nhw, transform)
    return cross_entropy_N, cgc_loss(query_Nhw, augmented_Nhw, transform, temperature=temperature)
