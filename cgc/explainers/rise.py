"""RISE: which parts of an image must be seen for a class to be recognised (Petsiuk, Das, Saenko, BMVC 2018).

Shapes: N images (3, H, W), B masks at once, M maps (one per image unless more are asked for), K classes, grid s×s.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.explainers.base import Explainer, classify


class RandomMasks:
    """``masks`` smooth random masks for images of any size, a function of the seed alone.

    A mask is a grid of ``cells``×``cells`` ones (with probability ``p1``) and zeros, resized bilinearly to one cell
    more than the image, of which a window of the image's size at a random shift is taken (paper, section 3.2). Only
    grids and shifts are stored; masks are made when they are asked for.
    """

    def __init__(self, masks: int, cells: int, p1: float, seed: int) -> None:
        if masks < 1 or cells < 1 or not 0 < p1 < 1:
            raise InputError(
                f"RISE needs masks and cells of at least 1 and p1 between 0 and 1, not {masks}, {cells} and {p1}"
            )
        generator = torch.Generator().manual_seed(seed)
        self.grids = torch.rand(masks, cells, cells, generator=generator) < p1
        self.shifts = torch.rand(masks, 2, generator=generator, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.grids)

    def make(self, first: int, end: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """Masks ``first`` to ``end`` for images of ``size``: (B, H, W) in [0, 1]."""
        self.grids, self.shifts = self.grids.to(device), self.shifts.to(device)
        grids = self.grids[first:end].float()
        rows_BHs, columns_BWs = (
            _windows(self.shifts[first:end, axis], grids.shape[1], side) for axis, side in enumerate(size)
        )
        return rows_BHs @ grids @ columns_BWs.transpose(1, 2)


def _windows(shift_B: Tensor, cells: int, side: int) -> Tensor:
    """Bilinear resizing to ``(cells + 1)·⌈side/cells⌉`` as a matrix, and of it ``side`` rows per mask: (B, side, s)."""
    cell = math.ceil(side / cells)
    identity = torch.eye(cells, device=shift_B.device)[None]
    resize = F.interpolate(identity, size=(cells + 1) * cell, mode="linear", align_corners=False)[0].T
    first_B = (shift_B * cell).long().clamp(max=cell - 1)
    return resize[first_B[:, None] + torch.arange(side, device=shift_B.device)]


class RISE(Explainer):
    """``Σ_b p_b·mask_b / (masks·p1)`` with p_b the probability of the class on the image times mask b.

    Maps have the image's size. Images are masked after normalisation: what is hidden becomes the mean colour. The masks
    are the same for every image and every call. The network gets at most ``batch_size`` masked images at once (None:
    64); masks are made for as many images as that at a time.

    Raises InputError for options out of range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        masks: int = 4000,
        cells: int = 7,
        p1: float = 0.5,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(backbone, 64 if batch_size is None else batch_size)
        self.masks = RandomMasks(masks, cells, p1, seed)
        self.p1 = p1

    def _explain(self, images: Tensor, target_M: Tensor, owner_M: Tensor | None) -> tuple[Tensor, Tensor]:
        assert self.batch_size is not None
        n, height, width = len(images), images.shape[2], images.shape[3]
        logits_NK = classify(self.backbone, images)
        owner_M = torch.arange(n, device=images.device) if owner_M is None else owner_M
        saliency_MP = images.new_zeros(len(owner_M), height * width, dtype=torch.float32)
        at_once = max(1, self.batch_size // n)
        for first in range(0, len(self.masks), at_once):
            end = min(first + at_once, len(self.masks))
            masks_BHW = self.masks.make(first, end, (height, width), images.device)
            masked = images[:, None] * masks_BHW[None, :, None].to(images.dtype)
            logits_BK = classify(self.backbone, masked.flatten(0, 1))
            probability_NBK = logits_BK.float().softmax(1).view(n, end - first, -1)
            index_MB1 = target_M[:, None, None].expand(-1, end - first, 1)
            probability_MB = probability_NBK[owner_M].gather(2, index_MB1)[..., 0]
            saliency_MP += probability_MB @ masks_BHW.flatten(1)
        maps = saliency_MP.view(-1, height, width) / (len(self.masks) * self.p1)
        return logits_NK, maps
