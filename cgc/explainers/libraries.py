"""Explainers of other libraries, captum and pytorch-grad-cam, on one footing with ours.

Shapes: N images, M maps, C channels, h×w the grid that the library computes on, before it resizes or rescales.

The libraries put hooks on a network and run backward through it, so they get a copy. They are imported when an
explainer is built.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.explainers.base import Explainer, classify, target_layer, working_copy
from cgc.optional_packages import optional_package


def feature_grid(layer: str, output: Any) -> Tensor:
    """The output; raises InputError unless it is (N, C, h, w)."""
    if not isinstance(output, Tensor) or output.dim() != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"layer {layer!r} gives {shape}, not features (N, C, h, w)")
    return output


class _OnACopy(Explainer):
    """Images of several maps are repeated, and each call gets a fresh copy of the network with its weights of now."""

    def _explain(self, images: Tensor, target_M: Tensor, owner_M: Tensor | None) -> tuple[Tensor, Tensor]:
        logits_NK = classify(self.backbone, images)
        copied = working_copy(self.backbone)
        repeated = (images if owner_M is None else images[owner_M]).detach().clone()
        with torch.enable_grad():
            maps = self._maps(_LogitsOnly(copied), copied, repeated, target_M)
        return logits_NK, maps.detach().to(images.device, torch.float32)

    @abstractmethod
    def _maps(self, model: nn.Module, copied: nn.Module, images: Tensor, target_M: Tensor) -> Tensor:
        """Maps (M, h, w) ≥ 0 of ``images`` (M, 3, H, W); ``model`` gives the logits of ``copied``."""


class _LogitsOnly(nn.Module):
    """The network without its auxiliary outputs."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return classify(self.backbone, images)


class IntegratedGradients(_OnACopy):
    """captum's integrated gradients (Sundararajan, Taly, Yan, ICML 2017) of the logit, from the mean colour.

    Maps have the image's size: ``Σ_channels |a|``, how much a pixel matters, for or against the class. Of the ``steps``
    points for each image at most ``batch_size`` (None: 32) are run at once, at least one for each image.
    """

    def __init__(self, backbone: nn.Module, *, steps: int = 50, batch_size: int | None = None) -> None:
        super().__init__(backbone, batch_size)
        if steps < 1:
            raise InputError(f"steps must be positive, not {steps}")
        self._method = optional_package("captum.attr", "captum", "captum's explainers").IntegratedGradients
        self.steps = steps

    def _maps(self, model: nn.Module, copied: nn.Module, images: Tensor, target_M: Tensor) -> Tensor:
        at_once = max(len(images), self.batch_size or 32)
        attribution = self._method(model).attribute(
            images, target=target_M, n_steps=self.steps, internal_batch_size=at_once
        )
        return attribution.abs().sum(dim=1)


class GuidedBackprop(_OnACopy):
    """captum's guided backprop (Springenberg et al., ICLR workshop 2015): through ``nn.ReLU`` modules only what is
    positive flows back; ReLUs called as functions stay ordinary ones.

    Maps have the image's size: ``Σ_channels |a|``, as for integrated gradients.
    """

    def __init__(self, backbone: nn.Module, *, batch_size: int | None = None) -> None:
        super().__init__(backbone, batch_size)
        self._method = optional_package("captum.attr", "captum", "captum's explainers").GuidedBackprop

    def _maps(self, model: nn.Module, copied: nn.Module, images: Tensor, target_M: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU activations")
            attribution = self._method(model).attribute(images.requires_grad_(), target=target_M)
        return attribution.abs().sum(dim=1)


class CaptumGradCAM(_OnACopy):
    """captum's ``LayerGradCam`` with its ReLU: the channel-weighted Grad-CAM of ``layer``.

    Here and in :class:`PytorchGradCAM` features are what the layer gave. Where the network then changes them in place
    (DenseNet's last ReLU), our Grad-CAM explains them after the change, and differs.
    """

    def __init__(
        self, backbone: nn.Module, *, layer: str | None = None, batch_size: int | None = None
    ) -> None:
        super().__init__(backbone, batch_size)
        self.layer = target_layer(backbone, layer)
        self._method = optional_package("captum.attr", "captum", "captum's explainers").LayerGradCam

    def _maps(self, model: nn.Module, copied: nn.Module, images: Tensor, target_M: Tensor) -> Tensor:
        layer = copied.get_submodule(self.layer)
        layer.register_forward_hook(lambda _module, _args, output: feature_grid(self.layer, output))
        method = self._method(model, layer)
        return method.attribute(images, target=target_M, relu_attributions=True)[:, 0]


class PytorchGradCAM(_OnACopy):
    """A CAM of pytorch-grad-cam for ``layer``: ``method`` is the name of its class.

    The library resizes maps to the image and stretches each to [0, 1]; taken here is what it has before that, cut at 0.
    "ScoreCAM" runs the network once per channel, ``batch_size`` (None: 16) at once, and holds an image's masked copies
    for all channels in memory (5 GB for 2048 channels at 448 px), so it gets one image at a time.
    """

    def __init__(
        self, backbone: nn.Module, method: str, *, layer: str | None = None, batch_size: int | None = None
    ) -> None:
        super().__init__(backbone, batch_size)
        self.layer = target_layer(backbone, layer)
        self._library = optional_package("pytorch_grad_cam", "grad-cam", "pytorch-grad-cam's explainers")
        self._method = method

    def _maps(self, model: nn.Module, copied: nn.Module, images: Tensor, target_M: Tensor) -> Tensor:
        layer = copied.get_submodule(self.layer)
        layer.register_forward_hook(
            lambda _module, _args, output: feature_grid(self.layer, output).detach().requires_grad_()
        )
        step = 1 if self._method == "ScoreCAM" else len(images)
        with _without_bars(self._library):
            maps = [
                self._raw_maps(model, layer, images[first : first + step], target_M[first : first + step])
                for first in range(0, len(images), step)
            ]
        return torch.cat(maps).clamp(min=0)

    def _raw_maps(self, model: nn.Module, layer: nn.Module, images: Tensor, target_M: Tensor) -> Tensor:
        """What the library's map is before it is resized and rescaled."""
        targets = [self._library.utils.model_targets.ClassifierOutputTarget(t) for t in target_M.tolist()]
        cam = getattr(self._library, self._method)(model, [layer])
        cam.batch_size = self.batch_size or 16
        # After the library's own hooks: what follows may change its features in place.
        own_features = layer.register_forward_hook(lambda _module, _args, output: output.clone())
        get_raw, caught = cam.get_cam_image, []

        def get_and_catch(*args: Any, **kwargs: Any) -> Any:
            cam.activations_and_grads.release()  # or it would keep the features of every further run
            maps = get_raw(*args, **kwargs)
            caught.append(torch.as_tensor(maps))
            return maps

        cam.get_cam_image = get_and_catch
        try:
            cam(images, targets)
        finally:
            # These tie the copy into circles of references, which would outlive the call.
            cam.activations_and_grads.release()
            own_features.remove()
            del cam.get_cam_image
        return caught[0]


@contextmanager
def _without_bars(package: ModuleType) -> Iterator[None]:
    """ScoreCAM draws a progress bar per image."""
    module = package.score_cam
    drawn = getattr(module, "tqdm", None)
    module.tqdm = SimpleNamespace(tqdm=lambda values: values)
    try:
        yield
    finally:
        module.tqdm = drawn
