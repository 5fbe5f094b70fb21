"""CGC and SGC with few labels: cross-entropy of a labelled batch, consistency of an unlabelled one.

Shapes: N labelled images, M unlabelled ones, S image side, K classes, h×w feature grid.

Sources: Consistent Explanations by Contrastive Learning (CVPR 2022) and SGC (Expert Systems with Applications, 2024),
the experiments with 1 % of ImageNet's labels and a SwAV backbone.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgc.data.presets import normalise
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.losses.cgc import Anchor
from cgc.methods.cgc import AugmentedStep
from cgc.methods.contrast import ContrastiveMethod
from cgc.methods.sgc import SaliencyStep, checked_saliency
from cgc.spatial import SpatialTransform


class _SemiSupervised(ContrastiveMethod):
    """``mean CE(xe) + weight · mean consistency`` of N labelled and M unlabelled images; N and M may differ.

    Every output has one row per *labelled* image, so that whatever averages per-sample values averages these as well:
    the unlabelled images' values are scaled by N/M and spread evenly over the labelled rows that share their replica.
    The mean over all N rows is then exact, for any N and M and for any split over replicas that loses no row (see
    :func:`check_replicas`): a row's value is the mean's share, not one image's.
    """

    @abstractmethod
    def _consistency(self, query_M3SS: Tensor, second_M: Tensor) -> tuple[Tensor, Tensor]:
        """Loss with its graph, and 1 where a map is near zero, both (M,)."""

    def forward(
        self, xe_N3SS: Tensor, labels_N: Tensor, query_M3SS: Tensor, second_M: Tensor, share_M: Tensor
    ) -> dict[str, Tensor]:
        """uint8 views, labels, what makes the queries' second views, and N/M for each query, to tensors of N rows.

        ``loss`` (with graph), ``cross_entropy``, ``consistency`` and ``near_zero`` (the unlabelled images with a map
        near zero), each (N,); ``logits`` (N, K) of the labelled images.
        """
        # A pass of its own for each view: batch norm sees the statistics of one view at a time.
        logits, _ = self.model(normalise(xe_N3SS))
        cross_entropy = F.cross_entropy(logits, labels_N, reduction="none")
        outputs = {"cross_entropy": cross_entropy.detach(), "logits": logits.detach()}
        if self.weight == 0:
            return {"loss": cross_entropy, **outputs}
        consistency_M, small_M = self._consistency(query_M3SS, second_M)
        consistency = _spread(consistency_M, share_M, len(labels_N))
        return {
            "loss": cross_entropy + self.weight * consistency,
            "consistency": consistency.detach(),
            "near_zero": _spread(small_M, share_M, len(labels_N)),
            **outputs,
        }


class SemiSupervisedCGC(_SemiSupervised, AugmentedStep):
    """``mean CE(xe) + weight · mean consistency(query, augmented)``.

    Args:
        weight: λ ≥ 0; with 0 the unlabelled images are not looked at, nor do they move batch norm's statistics.
        temperature: τ > 0 of the contrastive loss.
        anchor, floor: see :func:`cgc.losses.cgc_loss`.

    Raises ValueError for unusable arguments, here and not in the step.
    """

    def __init__(
        self,
        model: GradCAMModel,
        *,
        weight: float = 0.25,
        temperature: float = 0.5,
        anchor: Anchor = "augmented",
        floor: float = 0.0,
    ) -> None:
        super().__init__(model, weight=weight, temperature=temperature, anchor=anchor, floor=floor)

    def prepare(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What :meth:`forward` takes, from a batch on the device.

        Reads ``xe`` (N, 3, S, S), ``labels`` (N,) and ``unlabelled_query`` (M, 3, S, S); draws M transforms.
        """
        query: Tensor = batch.unlabelled_query
        return batch.xe, batch.labels, query, self._draw(query, generator), _shares(batch.labels, query)

    def _consistency(self, query_M3SS: Tensor, second_M: Tensor) -> tuple[Tensor, Tensor]:
        size = query_M3SS.shape[-1]
        maps = self._maps(normalise(query_M3SS), SpatialTransform.unpack(second_M, size))
        return self._contrast(*maps, second_M, size)

    def _maps(self, query_M3SS: Tensor, transform: SpatialTransform) -> tuple[Tensor, Tensor]:
        """Heatmaps (M, h, w) of both views for the class that the query is taken for."""
        return self._heatmaps(self.model(query_M3SS), self.model(transform(query_M3SS)))


class SemiSupervisedSGC(_SemiSupervised, SaliencyStep):
    """``mean CE(xe) + weight · mean consistency(query, foreground)``; arguments as of :class:`SemiSupervisedCGC`."""

    def prepare(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What :meth:`forward` takes, from a batch on the device; nothing is drawn.

        Reads ``xe`` (N, 3, S, S), ``labels`` (N,), ``unlabelled_query`` (M, 3, S, S) and its ``saliency`` (M, S, S).
        Raises ValueError as :func:`cgc.methods.sgc.checked_saliency`.
        """
        query = batch.unlabelled_query
        saliency = checked_saliency(batch.saliency, query)
        return batch.xe, batch.labels, query, saliency, _shares(batch.labels, query)

    def _consistency(self, query_M3SS: Tensor, second_M: Tensor) -> tuple[Tensor, Tensor]:
        return self._contrast(self._run(query_M3SS, second_M), second_M)


def _shares(labels_N: Tensor, query_M3SS: Tensor) -> Tensor:
    """N/M for each unlabelled image (M,): known before the replicas, which see their own part of both batches."""
    m = len(query_M3SS)
    return torch.full((m,), len(labels_N) / m, device=query_M3SS.device)


def _spread(values_M: Tensor, share_M: Tensor, n: int) -> Tensor:
    """The replica's part of the mean over all unlabelled images, on n labelled rows."""
    return ((values_M * share_M).sum() / n).expand(n)


def check_replicas(images: int, batch_size: int, unlabelled_batch_size: int, replicas: int) -> None:
    """Refuse batches that DataParallel would not hand out completely.

    It cuts every tensor into at most ``replicas`` parts by itself and drops those that have no counterpart: a last
    batch of one labelled image makes one part, so that of two GPUs' unlabelled images one half would be lost.

    ``images`` is the number of labelled images. Raises InputError.
    """
    wanted = _parts(unlabelled_batch_size, replicas)
    last = images % batch_size
    for n in (min(batch_size, images), *([last] if last else [])):
        if _parts(n, replicas) != wanted:
            raise InputError(
                f"a batch of {n} labelled images makes {_parts(n, replicas)} parts for {replicas} GPUs, one of "
                f"{unlabelled_batch_size} unlabelled images {wanted}: choose another -b, or one GPU with --gpu N"
            )


def _parts(n: int, replicas: int) -> int:
    """How many chunks ``torch.chunk`` makes."""
    return -(-n // -(-n // replicas))
