"""GC: cross-entropy of an image, and the consistency of its heatmap with that of a composite which holds it.

Shapes: N batch, S image side, K classes, M images with distractors from elsewhere, h×w feature grid.

Source: Explainable Models with Consistent Interpretations (GC, AAAI 2021). Ours: distractors are other images of the
batch (:mod:`cgc.data.grids`) unless they are given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cgc.data.grids import (
    choose_distractors,
    compose_grids,
    draw_categories,
    draw_quadrants,
    of_other_classes,
    without_category,
)
from cgc.data.presets import normalise
from cgc.data.seeding import mix_seed
from cgc.gradcam import GradCAMModel
from cgc.losses.grid_consistency import grid_consistency_loss
from cgc.methods.base import Method, ViewBatch, near_zero


class GridConsistencyMethod(Method):
    """``loss_scale · classification + weight · consistency``, per sample; only the image itself is classified.

    Heatmaps are element-wise Grad-CAMs for the label, of several labels for one that is drawn.

    Args:
        weight: λ ≥ 0; published: 25 on ImageNet, 1 on COCO. With 0 the composite is not looked at.
        multi_label: labels are (N, K) bool and the classification loss is the mean over K of binary cross-entropies;
            otherwise they are (N,) and it is the cross-entropy.
        loss_scale: factor of the classification loss; by default 1, and K for several labels (published: 80 on COCO).

    Raises ValueError for unusable arguments.
    """

    def __init__(
        self,
        model: GradCAMModel,
        *,
        weight: float = 25.0,
        multi_label: bool = False,
        loss_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.require(weight >= 0, "weight >= 0", weight)
        self.require(loss_scale is None or loss_scale > 0, "loss_scale > 0", loss_scale)
        self.model = model
        self.weight = weight
        self.multi_label = multi_label
        self.loss_scale = loss_scale

    def prepare(self, batch: ViewBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw categories, quadrants and distractors, and make the composites: the arguments of :meth:`forward`.

        Reads of the batch, all on one device: ``xe`` (N, 3, S, S) uint8 and ``labels``, and if they are there and not
        None ``distractors`` (M, 3, 3, S, S) uint8, which replace those of the images ``distractor_rows`` (M,) int64
        (without rows, M = N: of all). With several labels also ``category`` (N,), each image's category to explain
        instead of one drawn here, since whoever chose the distractors has to say for which.

        Over several processes a batch is the process's own: distractors are chosen among its images alone.

        Raises ValueError for a batch without ``xe``, or with distractors for several labels and no category.
        """
        images, labels = batch.xe, batch.labels
        given, rows, category = (
            getattr(batch, name, None) for name in ("distractors", "distractor_rows", "category")
        )
        if images is None:
            raise ValueError("grid consistency needs the randomly cropped view (xe) of the batch")
        if self.multi_label and given is not None and category is None:
            raise ValueError(
                "distractors of images with several labels need the category they were chosen for"
            )
        explained = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        if not self.multi_label:
            target, admissible = labels, of_other_classes(labels)
        else:
            if category is None:
                target, explained = self._draw_categories(labels, generator)
            else:
                target = category
            admissible = without_category(labels, target)
        total, own = self.in_whole(len(labels))
        quadrant = draw_quadrants(total, generator, labels.device)[own]
        distractors, complete = choose_distractors(admissible, self._own_generator(generator))
        if given is not None:
            everyone = torch.ones_like(complete)
            complete = everyone if rows is None else complete.index_fill(0, rows, True)
        composites = compose_grids(images, distractors, quadrant, given=given, rows=rows)
        return images, composites, labels, target, quadrant, complete & explained

    def _draw_categories(self, labels_NK: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Drawn for the rows of all processes, so that the own ones get what one process would give them."""
        total, own = self.in_whole(len(labels_NK))
        everyone = labels_NK.new_zeros(total, labels_NK.shape[1])
        everyone[own] = labels_NK
        target, explained = draw_categories(everyone, generator)
        return target[own], explained[own]

    def _own_generator(self, generator: torch.Generator) -> torch.Generator:
        """For what is chosen among the own rows: each process's draws are its own."""
        if self.across is None:
            return generator
        return torch.Generator().manual_seed(mix_seed(generator.initial_seed(), self.across.rank))

    def forward(
        self,
        images_N3SS: Tensor,
        composites_N3TT: Tensor,
        labels: Tensor,
        target_N: Tensor,
        quadrant_N: Tensor,
        usable_N: Tensor,
    ) -> dict[str, Tensor]:
        """uint8 images and composites (T = 2S) to per-sample tensors.

        ``loss`` (with graph), ``cross_entropy`` (the scaled classification loss), ``consistency`` (0 where ``usable_N``
        is false), ``near_zero`` (1 where one of the two maps is near zero) and ``unusable`` (1 where the batch had no
        three distractors, or the image no label), each (N,); ``logits`` (N, K).
        """
        # Two passes: batch norm sees the statistics of images and of composites apart, as published.
        logits, features = self.model(normalise(images_N3SS))
        cross_entropy = self._classification(logits, labels)
        outputs = {"cross_entropy": cross_entropy.detach(), "logits": logits.detach()}
        if self.weight == 0:
            return {"loss": cross_entropy, **outputs}
        composite_logits, composite_features = self.model(normalise(composites_N3TT))
        # Whatever the mode: a model with frozen batch norm is trained in eval mode.
        graph = torch.is_grad_enabled()
        maps = self.model.heatmaps(logits, features, target_N, create_graph=graph)
        composite_maps = self.model.heatmaps(
            composite_logits, composite_features, target_N, create_graph=graph
        )
        consistency = grid_consistency_loss(maps, composite_maps, quadrant_N, reduction="none")
        consistency = consistency.masked_fill(~usable_N, 0.0)
        return {
            "loss": cross_entropy + self.weight * consistency,
            "consistency": consistency.detach(),
            "near_zero": near_zero(maps.detach(), composite_maps.detach()),
            "unusable": (~usable_N).float(),
            **outputs,
        }

    def _classification(self, logits_NK: Tensor, labels: Tensor) -> Tensor:
        if not self.multi_label:
            loss_N = F.cross_entropy(logits_NK, labels, reduction="none")
            return loss_N if self.loss_scale is None else self.loss_scale * loss_N
        logits_NK = logits_NK if logits_NK.dtype == torch.float64 else logits_NK.float()
        losses_NK = F.binary_cross_entropy_with_logits(
            logits_NK, labels.to(logits_NK.dtype), reduction="none"
        )
        scale = logits_NK.shape[1] if self.loss_scale is None else self.loss_scale
        return scale * losses_NK.mean(dim=1)
