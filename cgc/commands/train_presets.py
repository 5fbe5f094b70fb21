"""The training commands: one program, and the defaults under which the papers' scripts are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cgc.engine.optim import DECAY, DECAY_EPOCHS, Schedule

MethodName = Literal["cgc", "baseline", "l2", "grid", "sgc", "energy"]

# λ of each method, as published; the L2 loss is a mean over S² pixels of unit-norm maps: times S² a cosine counts as
# much as in CGC. That of supervised energy is ours.
WEIGHTS: Mapping[str, float] = {
    "cgc": 0.5,
    "baseline": 0.0,
    "l2": 0.5,
    "grid": 25.0,
    "sgc": 0.5,
    "energy": 1.0,
}


@dataclass(frozen=True)
class Preset:
    """Defaults of one command, from its paper's README.

    ``unlabelled``: images without labels are part of the method, by default those in DATA/unlabeled. ``other_head``:
    a checkpoint of another classifier starts the network instead of being refused. ``multi_label``: images show several
    categories, and DATA is in COCO's layout.
    """

    prog: str
    description: str
    method: MethodName = "cgc"
    batch_size: int = 256
    epochs: int = 90
    lr: float = 0.1
    lr_last_layer: float | None = None
    weight: float | None = None
    weight_decay: float = 1e-4
    schedule: Schedule = "step"
    decay_epochs: tuple[int, ...] = DECAY_EPOCHS
    gamma: float = DECAY
    unlabelled: bool = False
    other_head: Literal["refuse", "initialise"] = "refuse"
    multi_label: bool = False


_SGC = "Train a classifier with saliency-guided contrastive consistency (SGC), and validate it."


def _one_percent(prog: str, description: str, method: MethodName, weight: float) -> Preset:
    """From a SwAV backbone with 1 % of ImageNet's labels."""
    return Preset(
        prog,
        description,
        method=method,
        batch_size=128,
        epochs=50,
        lr=0.02,
        lr_last_layer=5.0,
        weight=weight,
        weight_decay=0.0,
        schedule="multistep",
        unlabelled=True,
        other_head="initialise",
    )


PRESETS: Mapping[str, Preset] = {
    "cgc": Preset(
        "train_eval_cgc.py", "Train a classifier with Contrastive Grad-CAM Consistency, and validate it."
    ),
    "semi-cgc": _one_percent(
        "train_imagenet_1pc_swav_cgc_unlabeled.py",
        "Train a classifier on few labels, and keep its heatmaps consistent on unlabelled images (CGC).",
        "cgc",
        0.25,
    ),
    "grid": Preset(
        "train_gcam_grid_consistency.py",
        "Train a classifier with Grad-CAM grid consistency (GC), and validate it.",
        method="grid",
    ),
    "multi-grid": Preset(
        "train_gcam_multiclass_grid_consistency.py",
        "Train a classifier of several labels with Grad-CAM grid consistency (GC on COCO), and validate it.",
        method="grid",
        epochs=36,
        lr=0.01,
        weight=1.0,
        weight_decay=5e-4,
        schedule="multistep",
        decay_epochs=(24, 30),
        gamma=0.1,
        other_head="initialise",
        multi_label=True,
    ),
    "sgc": Preset("train_eval_sgc.py", _SGC, method="sgc", batch_size=192, epochs=200, lr=0.01),
    "semi-sgc": _one_percent(
        "train_imagenet_1pc_swav_sgc_unlabeled.py",
        "Train a classifier on few labels, and saliency-guided on unlabelled images (SGC).",
        "sgc",
        0.5,
    ),
}
