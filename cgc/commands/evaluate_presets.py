"""The evaluation commands: one program, and the defaults under which the papers' scripts are known.

Weightings are those of the released scripts; for a head of average pooling and one linear layer both are the same map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Weighting = Literal["elementwise", "channel"]


@dataclass(frozen=True)
class Preset:
    """Defaults of one command. ``metrics`` None: what suits the data. ``arch``: of --pretrained.

    ``other_head``: whether a checkpoint of another classifier is refused or only initialises the network, as in the
    published COCO and SwAV scripts. ``data_option``: the folder is named by --data or $IMAGENET_DIR.
    """

    prog: str
    description: str
    metrics: tuple[str, ...] | None = None
    explainer: str = "gradcam"
    weighting: Weighting = "elementwise"
    regions: Literal["boxes", "masks"] = "boxes"
    dataset: str | None = None
    arch: str | None = None
    other_head: Literal["refuse", "initialise"] = "refuse"
    data_option: bool = False


_BENCHMARK = "TorchRay/torchray/benchmark/"
_POINTING = "Pointing game of Grad-CAM heatmaps"
_ENERGY = "Content Heatmap of Grad-CAM heatmaps"

PRESETS: Mapping[str, Preset] = {
    "evaluate": Preset(
        "python -m cgc evaluate",
        "Score a checkpoint, or heatmaps of any model, in one pass: accuracy, heatmaps against regions, insertion and "
        "deletion; beside maps that know nothing of the image.",
    ),
    "energy": Preset(
        "evaluate_gradcam_energy_inside_bbox.py",
        "Score Grad-CAM heatmaps against boxes, in per cent, beside maps that know nothing.",
    ),
    "imagenet-energy": Preset(
        _BENCHMARK + "evaluate_imagenet_gradcam_energy_inside_bbox.py",
        f"{_ENERGY} on ImageNet.",
        ("ch", "top1"),
    ),
    "finegrained-energy": Preset(
        _BENCHMARK + "evaluate_finegrained_gradcam_energy_inside_bbox.py",
        f"{_ENERGY} on fine-grained data such as CUB (--dataset cub).",
        ("ch", "top1"),
        weighting="channel",
    ),
    "swav-energy": Preset(
        _BENCHMARK + "evaluate_swav_imagenet_gradcam_energy_inside_bbox.py",
        f"{_ENERGY} on ImageNet, of models trained from SwAV.",
        ("ch", "top1"),
        weighting="channel",
        other_head="initialise",
    ),
    "excitation-energy": Preset(
        _BENCHMARK + "evaluate_imagenet_excitation_backprop_energy_inside_bbox.py",
        "Content Heatmap of contrastive excitation backprop on ImageNet.",
        ("ch", "top1"),
        explainer="contrastive-excitation",
    ),
    "imagenet-pointing": Preset(
        _BENCHMARK + "evaluate_imagenet_gradcam_pointinggame.py", f"{_POINTING} on ImageNet.", ("pg", "top1")
    ),
    "imagenet-stochastic-pointing": Preset(
        _BENCHMARK + "evaluate_imagenet_gradcam_stochastic_pointinggame.py",
        f"Stochastic p{_POINTING[1:]} on ImageNet.",
        ("spg", "top1"),
    ),
    "coco-pointing-energy": Preset(
        _BENCHMARK + "evaluate_coco_gradcam_pointinggame_and_content_heatmap.py",
        f"{_POINTING}, and their Content Heatmap, on COCO: every category of every image.",
        ("ch", "pg", "f1"),
        weighting="channel",
        regions="masks",
        dataset="coco",
        other_head="initialise",
    ),
    "coco-stochastic-pointing": Preset(
        _BENCHMARK + "evaluate_coco_gradcam_stochastic_pointinggame.py",
        f"Stochastic p{_POINTING[1:]} on COCO: every category of every image.",
        ("spg", "f1"),
        weighting="channel",
        regions="masks",
        dataset="coco",
        other_head="initialise",
    ),
    "auc": Preset(
        "evaluate_auc_metrics.py",
        "Insertion and deletion AUC of Grad-CAM heatmaps on held-out images (RISE). The folder is DATA, --data or "
        "$IMAGENET_DIR.",
        ("insertion", "deletion"),
        weighting="channel",
        arch="resnet50",
        data_option=True,
    ),
}
