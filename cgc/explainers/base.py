"""What every explainer shares: how it is called, and that the model is left as it was found.

Shapes: N images, K classes, M maps (N unless several maps of an image are asked for), h×w the explainer's own grid.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.gradcam_probe import find_target_layer
from cgc.modes import evaluating


class Explainer(ABC):
    """``logits, maps = explainer(images, target)``: heatmaps ≥ 0 of a classifier, on the explainer's own grid.

    The classifier is in eval mode meanwhile, autocast is off, nothing is differentiable afterwards; parameters, their
    gradients and flags, buffers, hooks and modes are as before.

    ``batch_size``: most images that are explained at once; None: all that are given.
    """

    def __init__(self, backbone: nn.Module, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be positive, not {batch_size}")
        self.backbone = backbone
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(
        self, images: Tensor, target: Tensor | None = None, owner: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, K) of normalised images (N, 3, H, W), and maps (N, h, w) for the classes ``target`` (N,).

        Without ``target`` the predicted classes are explained. ``owner`` (M,) asks for several maps of an image: map m
        of (M, h, w) is for class ``target[m]`` of image ``owner[m]``. An image that no map belongs to may get logits
        of NaN.

        Raises:
            ValueError: shapes that do not fit.
            InputError: the classifier has a layer that the method cannot explain.
        """
        rows = len(images) if owner is None else len(owner)
        if (
            images.ndim != 4
            or rows == 0
            or len(images) == 0
            or (target is not None and target.shape != (rows,))
        ):
            shape = None if target is None else tuple(target.shape)
            raise ValueError(f"images {tuple(images.shape)}, targets {shape} and {rows} maps do not fit")
        if target is None and owner is not None:
            raise ValueError("maps of chosen images need a target each")
        with evaluating(self.backbone), torch.autocast(images.device.type, enabled=False):
            if target is None:
                target = classify(self.backbone, images).argmax(1)
            logits: list[Tensor] = []
            found: list[Tensor] = []
            for first, step, target_M, owner_M in self._batches(len(images), target, owner):
                batch = images[first : first + step]
                if len(target_M) == 0:  # nothing is asked about these images
                    logits.append(classify(self.backbone, batch))
                    continue
                logits_NK, maps = self._explain(batch, target_M, owner_M)
                logits.append(logits_NK)
                found.append(maps)
        logits_NK, maps = torch.cat(logits), torch.cat(found)
        if owner is not None and len(logits) > 1:
            # Maps came image by image: put them back in the order asked for.
            maps = maps[owner.sort(stable=True).indices.argsort()]
        return logits_NK.detach(), maps.detach()

    def _batches(
        self, n: int, target_M: Tensor, owner_M: Tensor | None
    ) -> Iterator[tuple[int, int, Tensor, Tensor | None]]:
        step = n if self.batch_size is None else self.batch_size
        if owner_M is not None and step < n:
            owner_M, order = owner_M.sort(stable=True)
            target_M = target_M[order]
        for first in range(0, n, step):
            if owner_M is None:
                yield first, step, target_M[first : first + step], None
            elif step >= n:
                yield first, step, target_M, owner_M
            else:
                here = (owner_M >= first) & (owner_M < first + step)
                yield first, step, target_M[here], owner_M[here] - first

    @abstractmethod
    def _explain(self, images: Tensor, target_M: Tensor, owner_M: Tensor | None) -> tuple[Tensor, Tensor]:
        """As ``__call__``, in eval mode and without gradients; without ``owner_M`` M is N."""


def classify(backbone: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K); of an output with auxiliary logits the main ones."""
    output = backbone(images)
    return getattr(output, "logits", output)


def target_layer(backbone: nn.Module, layer: str | None) -> str:
    """``layer``, or by default the last convolutional stage.

    Raises InputError if the classifier has no such layer, or no convolutional stage.
    """
    if layer is None:
        try:
            return find_target_layer(backbone)
        except ValueError as error:
            raise InputError(str(error)) from error
    if layer not in dict(backbone.named_modules()):
        raise InputError(f"{type(backbone).__name__} has no layer {layer!r}")
    return layer


def working_copy(backbone: nn.Module) -> nn.Module:
    """A copy that a library may put hooks on and run backward through, in eval mode, without parameter gradients.

    In-place ReLUs are made ordinary ones: backward hooks cannot follow them.
    """
    copied = copy.deepcopy(backbone).eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False  # type: ignore[assignment]
    return copied
