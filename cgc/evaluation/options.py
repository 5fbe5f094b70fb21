"""What can be measured, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cgc.engine.runtime import Precision

LOCALISATION = ("ch", "pg", "spg")
PERTURBATION = ("insertion", "deletion")
CONSISTENCY = ("consistency", "cosine")
CLASSIFICATION = ("top1", "top5", "f1")
METRICS = (*LOCALISATION, *PERTURBATION, *CONSISTENCY, *CLASSIFICATION)

# Whose maps are scored: the model's, and three that know nothing of the image.
MAPS = ("model", "uniform", "gaussian", "random")

Baseline = Literal["blur", "zero", "mean"]


@dataclass(frozen=True)
class PerturbationOptions:
    """Insertion and deletion: side of the square images, where insertion starts and deletion ends, equal steps."""

    side: int = 224
    insertion_baseline: Baseline = "blur"
    deletion_baseline: Baseline = "zero"
    steps: int = 28


@dataclass(frozen=True)
class EvaluationOptions:
    """How an evaluation runs.

    ``input_resize``: shorter side in pixels, no crop. ``tolerance``: pixels of the pointing games, None: by the size of
    each image. ``zero_maps``: "skip" leaves rows whose raw map is all zero out of every score of the map, "uniform"
    counts them as uniform maps. ``spg_samples``: None for the exact expectation. ``perturbation``: of insertion and
    deletion. ``trivial_images``: on so many rows, evenly spread, the trivial maps' insertion and deletion are measured.
    """

    metrics: Sequence[str] = (*LOCALISATION, "top1")
    input_resize: int = 448
    batch_size: int = 16
    workers: int = 0
    tolerance: float | None = None
    zero_maps: str = "skip"
    spg_samples: int | None = None
    perturbation: PerturbationOptions = field(default_factory=PerturbationOptions)
    trivial_images: int = 100
    crop: tuple[int, int] = (256, 224)
    temperature: float = 0.5
    precision: Precision = "off"
    seed: int = 0

    @property
    def localises(self) -> bool:
        return any(metric in LOCALISATION for metric in self.metrics)

    @property
    def perturbs(self) -> bool:
        return any(metric in PERTURBATION for metric in self.metrics)

    @property
    def compares_views(self) -> bool:
        return any(metric in CONSISTENCY for metric in self.metrics)

    @property
    def needs_full_view(self) -> bool:
        """Everything but insertion, deletion and consistency is measured on the uncropped image."""
        return any(metric not in (*PERTURBATION, *CONSISTENCY) for metric in self.metrics)
