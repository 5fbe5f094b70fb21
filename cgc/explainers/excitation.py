"""Excitation backprop, plain and contrastive (Zhang et al., ECCV 2016).

Shapes: N images, M maps, C channels and h×w grid of the explained layer, K classes, P positions of the classifier's
window on the last feature grid.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.explainers.base import Explainer, classify, target_layer
from cgc.explainers.excitation_rules import ExcitationMode
from cgc.explainers.stages import stage_before_last


class ExcitationBackprop(Explainer):
    """Share of each cell of ``layer`` in a class: ``max(Σ_c R_c, 0)`` with R the relevance of the layer's output.

    The network is made fully convolutional: the classifier, fed by a 7×7 average pool (smaller where the grid is),
    slides over the feature grid with stride 1. Relevance starts as ``exp(logit_t)`` over the positions, normalised to
    sum 1, and flows back by the rules of :mod:`cgc.explainers.excitation_rules`, so that a plain map sums to 1 up to
    what dead units swallow.

    ``contrastive``: at the input of the classifier (its last weighted layer) the relevance that the negated weights
    give is subtracted, so that only what speaks for this class more than against it remains.

    The logits returned are the network's own, of the whole image. ``layer``: by default ``layer3`` of a ResNet, else
    the stage before the last. Batch norm must stand by itself: a network whose batch norms are folded into its
    convolutions has other weights and other maps.

    Raises InputError for networks with layers that have no rule (SiLU, sigmoid gates, layer norm, …) and for those
    whose layers take negative numbers (the linear bottlenecks of ShuffleNet): these have no share of a sum.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        layer: str | None = None,
        contrastive: bool = False,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(backbone, batch_size)
        self.layer = stage_before_last(backbone) if layer is None else target_layer(backbone, layer)
        self.contrastive = contrastive
        self._checked = False

    def _explain(self, images: Tensor, target_M: Tensor, owner_M: Tensor | None) -> tuple[Tensor, Tensor]:
        if owner_M is None:
            return self._one_each(images, target_M, None)
        if self._in_a_chain():
            logits_MK, maps = self._one_each(images, target_M, owner_M)
        else:
            logits_MK, maps = self._one_each(images[owner_M], target_M, None)
        logits_NK = logits_MK.new_full((len(images), logits_MK.shape[1]), torch.nan)
        logits_NK[owner_M] = logits_MK
        return logits_NK, maps

    def _in_a_chain(self) -> bool:
        """Whether nothing passes the layer by, which would have a row per image where the layer has one per map."""
        parents = self.layer.split(".")[:-1]
        return all(
            isinstance(self.backbone.get_submodule(".".join(parents[: i + 1])), nn.Sequential)
            for i in range(len(parents))
        )

    def _one_each(self, images: Tensor, target_M: Tensor, owner_M: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (M, K) and maps (M, h, w)."""
        m, mode = len(target_M), ExcitationMode(check=not self._checked)
        rows_RK, features_MCHW = self._run(images, owner_M, mode)
        positions = mode.positions or 1
        # Without adaptive pooling the network ran as it is.
        logits_MK = (rows_RK if mode.positions is None else rows_RK[m * positions :]).detach()
        if mode.check:
            self._check(mode, images[:1] if owner_M is None else images[owner_M[:1]], logits_MK[:1])
        with torch.enable_grad():
            scores_MPK = rows_RK[: m * positions].view(m, positions, -1)
            score_MP = scores_MPK.gather(2, target_M[:, None, None].expand(m, positions, 1))[..., 0]
        if mode.classifier is not None:
            mode.classifier.contrast = self.contrastive
        (relevance_MCHW,) = torch.autograd.grad(score_MP, features_MCHW, score_MP.detach().softmax(dim=1))
        return logits_MK, relevance_MCHW.sum(dim=1).clamp(min=0)

    def _run(self, images: Tensor, owner_M: Tensor | None, mode: ExcitationMode) -> tuple[Tensor, Tensor]:
        """What the classifier gives at every position and on the whole, (M·P + M, K), and the layer's output.

        The layers up to the explained one run once per image and without a graph.
        """
        caught: list[Tensor] = []
        with ExitStack() as after_the_layer:

            def catch(_module: nn.Module, _args: Any, output: Any) -> Tensor:
                if not isinstance(output, Tensor) or output.ndim != 4:
                    raise InputError(f"layer {self.layer!r} does not give features (N, C, h, w)")
                if not caught:
                    after_the_layer.enter_context(torch.enable_grad())
                    output = output if owner_M is None else output[owner_M]
                caught.append(output.detach().requires_grad_())
                return caught[-1].clone()

            hook = self.backbone.get_submodule(self.layer).register_forward_hook(catch)
            try:
                with mode:
                    rows_RK = classify(self.backbone, images)
            finally:
                hook.remove()
        if not (caught and rows_RK.requires_grad):
            raise InputError(f"layer {self.layer!r} has no part in the logits")
        return rows_RK, caught[-1]

    def _check(self, mode: ExcitationMode, images: Tensor, logits_NK: Tensor) -> None:
        """Once: whether the network taken apart gives its logits, and the rules hold."""
        kind = type(self.backbone).__name__
        expected_NK = classify(self.backbone, images)
        if not torch.isfinite(expected_NK).all():
            return  # nothing to compare; the next images may be better
        tolerance = 0.01 * float(expected_NK.abs().max())
        if expected_NK.shape != logits_NK.shape or not torch.allclose(
            logits_NK, expected_NK, rtol=0, atol=tolerance, equal_nan=True
        ):
            raise InputError(f"excitation backprop cannot follow how {kind} computes its logits")
        if mode.negative:
            raise InputError(
                f"excitation backprop needs layers that take what a ReLU gives: in {kind} one takes negative numbers"
            )
        self._checked = True
