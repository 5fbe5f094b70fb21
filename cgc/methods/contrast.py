"""What the methods share that contrast the heatmaps of two views of an image with those of other images.

Shapes: n images of this process, N images that they are contrasted among (themselves included), h×w feature grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cgc.gradcam import GradCAMModel
from cgc.losses.masks import at_least_float32
from cgc.methods.base import Method


class ContrastiveMethod(Method):
    """Over several processes the negatives are those of all, or with ``gathered`` false each process's own.

    What travels is small: two heatmaps per image, h·w numbers each, and what the loss needs to know of the views.
    """

    def __init__(
        self, model: GradCAMModel, *, weight: float = 0.5, temperature: float = 0.5, floor: float = 0.0
    ) -> None:
        super().__init__()
        self.require(weight >= 0, "weight >= 0", weight)
        self.require(temperature > 0, "temperature > 0", temperature)
        self.require(0 <= floor < 1, "floor in [0, 1)", floor)
        self.model = model
        self.weight = weight
        self.temperature = temperature
        self.floor = floor

    def negatives(self, rows: int) -> int | None:
        """See :meth:`Method.negatives`; ``rows`` counts the images that are contrasted, labelled or not."""
        return self._contrasted(rows)[0] - 1

    def _contrasted(self, n: int) -> tuple[int, slice]:
        """How many images this process's ``n`` are contrasted among, and where they lie among them."""
        return self.in_whole(n) if self.gathered else (n, slice(0, n))

    def _gather(self, rows_n: Tensor) -> Tensor:
        """The rows of all images that are contrasted, from those of this process's."""
        return self.across.gather_rows(rows_n) if self.across is not None and self.gathered else rows_n

    def _gather_maps(self, query_maps: Tensor, second_maps: Tensor) -> tuple[Tensor, Tensor]:
        """Both views' maps in one go, (N, h, w) each; half precision would be too coarse for the sums of gradients."""
        if self.across is None or not self.gathered:
            return query_maps, second_maps
        both_N2hw = self._gather(torch.stack([at_least_float32(m) for m in (query_maps, second_maps)], dim=1))
        return both_N2hw[:, 0], both_N2hw[:, 1]

    def _heatmaps(self, query: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Heatmaps (n, h, w) with their graph from the logits and features of both views."""
        # One class for both maps, the query's prediction: labels play no part in the consistency.
        target_n = query[0].detach().argmax(dim=1)
        # Whatever the mode: a model with frozen batch norm is trained in eval mode.
        graph = torch.is_grad_enabled()
        return (
            self.model.heatmaps(*query, target_n, create_graph=graph),
            self.model.heatmaps(*second, target_n, create_graph=graph),
        )
