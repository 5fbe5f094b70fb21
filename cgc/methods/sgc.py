"""SGC: cross-entropy of three views, and the consistency of the query's heatmap with that of its foreground.

Shapes: N batch, S image side, K classes, h×w feature grid.

Source: SGC, saliency-guided contrastive consistency (Expert Systems with Applications, 2024). The third view is the
query with its background taken out: normalised pixels outside of the salient object are 0, ImageNet's mean colour.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel
from cgc.losses.sgc import sgc_loss
from cgc.methods.base import Method
from cgc.methods.cgc import near_zero


class _Views(NamedTuple):
    query_logits: Tensor
    query_features: Tensor
    masked_logits: Tensor
    masked_features: Tensor


class _SaliencyStep(Method):
    """What the forms with and without labels share."""

    def __init__(
        self,
        model: GradCAMModel,
        *,
        weight: float = 0.5,
        temperature: float = 0.5,
        floor: float = 0.0,
    ) -> None:
        super().__init__()
        if weight < 0 or not temperature > 0 or not 0 <= floor < 1:
            raise ValueError(
                f"{type(self).__name__} needs weight >= 0, temperature > 0 and floor in [0, 1), "
                f"got {weight}, {temperature}, {floor}"
            )
        self.model = model
        self.weight = weight
        self.temperature = temperature
        self.floor = floor

    def _run(self, query_N3SS: Tensor, saliency_NSS: Tensor) -> _Views:
        """The query and its foreground, each in a pass of its own, as batch norm's statistics are one view's."""
        query = normalise(query_N3SS)
        foreground = query * saliency_NSS[:, None].ne(0)
        return _Views(*self.model(query), *self.model(foreground))

    def _consistency(self, views: _Views, saliency_NSS: Tensor) -> tuple[Tensor, Tensor]:
        """Loss with its graph, and which samples have a map near zero, both (N,)."""
        # One class for both maps, the query's prediction: labels play no part in the consistency.
        target = views.query_logits.detach().argmax(dim=1)
        # Whatever the mode: a model with frozen batch norm is trained in eval mode.
        graph = torch.is_grad_enabled()
        query_maps, masked_maps = (
            self.model.heatmaps(logits, features, target, create_graph=graph)
            for logits, features in (views[:2], views[2:])
        )
        consistency = sgc_loss(
            query_maps,
            masked_maps,
            saliency_NSS,
            temperature=self.temperature,
            reduction="none",
            floor=self.floor,
        )
        return consistency, near_zero(query_maps.detach(), masked_maps.detach())


class SGCMethod(_SaliencyStep):
    """``CE(xe) + CE(query) + CE(foreground) + weight · consistency``, all per sample.

    Args:
        weight: λ ≥ 0; with 0 the heatmaps are not computed (cross-entropy of three views).
        temperature: τ > 0 of the contrastive loss.
        floor: see :func:`cgc.losses.sgc.sgc_loss`; 0 is the published arithmetic.

    Raises ValueError for unusable arguments, here and not in the step.
    """

    def prepare(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What :meth:`forward` takes: the batch's ``xe``, ``query``, ``labels`` and ``saliency``; nothing is drawn.

        Raises ValueError where ``saliency`` is missing or not (N, S, S), whole numbers or bool.
        """
        return batch.xe, batch.query, batch.labels, _checked_saliency(batch.saliency, batch.query)

    def forward(
        self, xe_N3SS: Tensor, query_N3SS: Tensor, labels_N: Tensor, saliency_NSS: Tensor
    ) -> dict[str, Tensor]:
        """uint8 views and the query's saliency (uint8 or bool, not 0 on the foreground) to per-sample tensors.

        ``loss`` (with graph), ``cross_entropy`` (sum over the views), ``consistency`` and ``near_zero`` (1 where one of
        the two maps is near zero), each (N,); ``logits`` (N, K) of the ``xe`` view.
        """
        xe_logits, _ = self.model(normalise(xe_N3SS))
        views = self._run(query_N3SS, saliency_NSS)
        cross_entropy = (
            F.cross_entropy(xe_logits, labels_N, reduction="none")
            + F.cross_entropy(views.query_logits, labels_N, reduction="none")
            + F.cross_entropy(views.masked_logits, labels_N, reduction="none")
        )
        outputs = {"cross_entropy": cross_entropy.detach(), "logits": xe_logits.detach()}
        if self.weight == 0:
            return {"loss": cross_entropy, **outputs}
        consistency, small = self._consistency(views, saliency_NSS)
        return {
            "loss": cross_entropy + self.weight * consistency,
            "consistency": consistency.detach(),
            "near_zero": small,
            **outputs,
        }


class UnlabelledSGC(_SaliencyStep):
    """``weight · consistency`` of images without labels: the part of a step that the 1 % runs add.

    Arguments and errors as of :class:`SGCMethod`, but that a ``weight`` of 0 still computes the heatmaps.
    """

    def prepare(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` takes: the batch's ``unlabelled_query`` and its ``saliency``; nothing is drawn.

        Raises ValueError as :meth:`SGCMethod.prepare`.
        """
        return batch.unlabelled_query, _checked_saliency(batch.saliency, batch.unlabelled_query)

    def forward(self, query_N3SS: Tensor, saliency_NSS: Tensor) -> dict[str, Tensor]:
        """``loss`` (with graph), ``consistency`` and ``near_zero``, each (N,); ``logits`` (N, K) of the query."""
        views = self._run(query_N3SS, saliency_NSS)
        consistency, small = self._consistency(views, saliency_NSS)
        return {
            "loss": self.weight * consistency,
            "consistency": consistency.detach(),
            "near_zero": small,
            "logits": views.query_logits.detach(),
        }


def _checked_saliency(saliency: Tensor | None, query_N3SS: Tensor) -> Tensor:
    """Shape and dtype alone: reading values would stall a GPU."""
    if saliency is None:
        raise ValueError("SGC needs the saliency of every query, the batch has none")
    expected = (len(query_N3SS), *query_N3SS.shape[-2:])
    if tuple(saliency.shape) != expected or saliency.is_floating_point():
        raise ValueError(
            f"saliency must be {expected}, uint8 or bool, got {tuple(saliency.shape)}, {saliency.dtype}"
        )
    return saliency
