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
from cgc.losses.sgc import sgc_loss
from cgc.methods.base import near_zero
from cgc.methods.bits import pack_bits, unpack_bits
from cgc.methods.contrast import ContrastiveMethod


class _Views(NamedTuple):
    """Logits and features of each."""

    query: tuple[Tensor, Tensor]
    masked: tuple[Tensor, Tensor]


class SaliencyStep(ContrastiveMethod):
    """What the steps with and without labels share: the second view is the query's foreground."""

    def _run(self, query_N3SS: Tensor, saliency_NSS: Tensor) -> _Views:
        """The query and its foreground, each in a pass of its own, as batch norm's statistics are one view's."""
        query = normalise(query_N3SS)
        foreground = query * saliency_NSS[:, None].ne(0)
        return _Views(self.model(query), self.model(foreground))

    def _contrast(self, views: _Views, saliency_NSS: Tensor) -> tuple[Tensor, Tensor]:
        """Loss with its graph, and which samples have a map near zero, both (N,)."""
        _, own = self._contrasted(len(saliency_NSS))
        query_maps, masked_maps = self._gather_maps(*self._heatmaps(*views))
        loss_N = sgc_loss(
            query_maps,
            masked_maps,
            self._gather_saliency(saliency_NSS),
            temperature=self.temperature,
            reduction="none",
            floor=self.floor,
            rows=own,
        )
        return loss_N, near_zero(query_maps.detach(), masked_maps.detach())[own]

    def _gather_saliency(self, saliency_NSS: Tensor) -> Tensor:
        if self.across is None or not self.gathered:
            return saliency_NSS
        height, width = saliency_NSS.shape[1:]
        return unpack_bits(self._gather(pack_bits(saliency_NSS)), (height, width))


class SGCMethod(SaliencyStep):
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
        return batch.xe, batch.query, batch.labels, checked_saliency(batch.saliency, batch.query)

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
            + F.cross_entropy(views.query[0], labels_N, reduction="none")
            + F.cross_entropy(views.masked[0], labels_N, reduction="none")
        )
        outputs = {"cross_entropy": cross_entropy.detach(), "logits": xe_logits.detach()}
        if self.weight == 0:
            return {"loss": cross_entropy, **outputs}
        consistency, small = self._contrast(views, saliency_NSS)
        return {
            "loss": cross_entropy + self.weight * consistency,
            "consistency": consistency.detach(),
            "near_zero": small,
            **outputs,
        }


def checked_saliency(saliency: Tensor | None, query_N3SS: Tensor) -> Tensor:
    """Shape and dtype alone: reading values would stall a GPU."""
    if saliency is None:
        raise ValueError("SGC needs the saliency of every query, the batch has none")
    expected = (len(query_N3SS), *query_N3SS.shape[-2:])
    if tuple(saliency.shape) != expected or saliency.is_floating_point():
        raise ValueError(
            f"saliency must be {expected}, uint8 or bool, got {tuple(saliency.shape)}, {saliency.dtype}"
        )
    return saliency
