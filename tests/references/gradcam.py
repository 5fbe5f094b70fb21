"""Grad-CAM as the formulas read: one autograd call per image, channels added one by one."""

from __future__ import annotations

import torch
from torch import Tensor


def gradcam(
    features_NCHW: Tensor,
    logits_NK: Tensor,
    target_N: Tensor,
    *,
    weighting: str = "elementwise",
    create_graph: bool = False,
) -> Tensor:
    """Maps (N, h, w) = ReLU(sum_c G_c * A_c), with G_c averaged over the grid first for "channel"."""
    maps = []
    for i in range(features_NCHW.shape[0]):
        score = logits_NK[i, target_N[i]]
        (gradient,) = torch.autograd.grad(score, features_NCHW, retain_graph=True, create_graph=create_graph)
        total = torch.zeros_like(features_NCHW[i, 0])
        for c in range(features_NCHW.shape[1]):
            factor = gradient[i, c].mean() if weighting == "channel" else gradient[i, c]
            total = total + factor * features_NCHW[i, c]
        maps.append(total.clamp(min=0))
    return torch.stack(maps)


def class_activation_map(features_NCHW: Tensor, weight_KC: Tensor, target_N: Tensor) -> Tensor:
    """Maps of a global-average-pooled linear head: ReLU(sum_c W[t, c] * A_c) / (h * w), image by image."""
    height, width = features_NCHW.shape[-2:]
    maps = []
    for i in range(features_NCHW.shape[0]):
        total = torch.zeros_like(features_NCHW[i, 0])
        for c in range(features_NCHW.shape[1]):
            total = total + weight_KC[target_N[i], c] * features_NCHW[i, c]
        maps.append(total.clamp(min=0) / (height * width))
    return torch.stack(maps)
