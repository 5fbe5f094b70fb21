"""Ways to explain a classifier, all called alike, by name.

Shapes: images (N, 3, H, W), classes (N,), maps (N, h, w) ≥ 0 on the explainer's own grid.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from cgc.errors import InputError
from cgc.explainers.base import Explainer, target_layer
from cgc.explainers.excitation import ExcitationBackprop
from cgc.explainers.libraries import CaptumGradCAM, GuidedBackprop, IntegratedGradients, PytorchGradCAM
from cgc.explainers.rise import RISE
from cgc.gradcam import GradCAMModel, Weighting

__all__ = ["EXPLAINERS", "Explainer", "build_explainer"]


class GradCAM(Explainer):
    """Our Grad-CAM of ``layer``, see :class:`cgc.gradcam.GradCAMModel`."""

    def __init__(
        self,
        backbone: nn.Module,
        *,
        layer: str | None = None,
        weighting: Weighting = "elementwise",
        batch_size: int | None = None,
    ) -> None:
        super().__init__(backbone, batch_size)
        if weighting not in ("elementwise", "channel"):
            raise InputError(f'weighting must be "elementwise" or "channel", not {weighting!r}')
        self.model = GradCAMModel(backbone, target_layer(backbone, layer))
        self.weighting = weighting

    def _explain(self, images: Tensor, target_M: Tensor, owner_M: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.model.explain(images, target_M, owner_M, weighting=self.weighting)


EXPLAINERS: Mapping[str, Callable[..., Explainer]] = MappingProxyType(
    {
        "gradcam": GradCAM,
        "excitation": ExcitationBackprop,
        "contrastive-excitation": partial(ExcitationBackprop, contrastive=True),
        "rise": RISE,
        "gradcam++": partial(PytorchGradCAM, method="GradCAMPlusPlus"),
        "scorecam": partial(PytorchGradCAM, method="ScoreCAM"),
        "layercam": partial(PytorchGradCAM, method="LayerCAM"),
        "integrated-gradients": IntegratedGradients,
        "guided-backprop": GuidedBackprop,
        "captum-gradcam": CaptumGradCAM,
        "pytorch-gradcam": partial(PytorchGradCAM, method="GradCAM"),
    }
)


def build_explainer(
    name: str,
    backbone: nn.Module,
    *,
    layer: str | None = None,
    weighting: str = "elementwise",
    seed: int = 0,
    batch_size: int | None = None,
    **options: Any,
) -> Explainer:
    """The explainer ``name`` of :data:`EXPLAINERS` for a classifier from images (N, 3, H, W) to logits (N, K).

    Each takes what it knows of the options: ``layer`` (by default the method's own choice), ``weighting`` (gradcam),
    ``seed``, ``masks``, ``cells`` and ``p1`` (rise), ``steps`` (integrated-gradients), ``batch_size`` (the most images
    that are explained at once, or masked images that the network gets at once).

    Options of other explainers are passed over. Raises InputError for an unknown name, layer or option, a ``layer``
    where none is explained, a network that the method does not serve, or a library that is not installed.
    """
    if name not in EXPLAINERS:
        raise InputError(f"unknown explainer {name!r}; {_hint(name, EXPLAINERS)}")
    takes = _options_of(EXPLAINERS[name])
    known = {option for builder in EXPLAINERS.values() for option in _options_of(builder)}
    for option in options:
        if option not in known:
            raise InputError(f"unknown option {option!r} of explainers; {_hint(option, known)}")
    if layer is not None and "layer" not in takes:
        raise InputError(f"{name} explains no layer, but layer {layer!r} is asked for")
    given = {"layer": layer, "weighting": weighting, "seed": seed, "batch_size": batch_size, **options}
    return EXPLAINERS[name](backbone, **{option: value for option, value in given.items() if option in takes})


def _options_of(builder: Callable[..., Explainer]) -> set[str]:
    fixed = builder.keywords if isinstance(builder, partial) else {}
    return set(inspect.signature(builder).parameters) - {"backbone", *fixed}


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"
