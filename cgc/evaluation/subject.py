"""What an evaluation looks at: a model with its explainer, or heatmaps from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from cgc.evaluation.loader import LoadMap
from cgc.gradcam import GradCAMModel, Weighting


class Explain(Protocol):
    """Normalised images (N, 3, H, W) to logits (N, K) and maps ≥ 0, not normalised.

    With ``owner`` (M,) map m of (M, h, w) is for class ``target[m]`` of image ``owner[m]``; without, there is one map
    per image, for its ``target`` (N,) or, where that is None too, for the predicted class.
    """

    def __call__(
        self, images: Tensor, target: Tensor | None = None, owner: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Subject:
    """``predict`` maps normalised images to logits; ``load_map`` gives a row's map instead of ``explain``.

    ``multi_label``: an image may show several classes; probabilities are sigmoids then.
    """

    explain: Explain | None = None
    predict: Callable[[Tensor], Tensor] | None = None
    load_map: LoadMap | None = None
    multi_label: bool = False


def gradcam_subject(
    model: GradCAMModel,
    *,
    weighting: Weighting = "elementwise",
    load_map: LoadMap | None = None,
    multi_label: bool = False,
) -> Subject:
    """A model explained by its own Grad-CAM: several classes of an image cost one forward pass."""

    def predict(images: Tensor) -> Tensor:
        logits = model.backbone(images)
        return getattr(logits, "logits", logits)

    return Subject(partial(model.explain, weighting=weighting), predict, load_map, multi_label)
