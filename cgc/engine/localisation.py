"""How well a model's heatmaps sit on the objects: one forward per image, every localisation score from its
map.

Per image rows are the truth; `summarise` only averages them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from cgc.data.boxed_views import SizedBatch, boxed_loader
from cgc.data.boxes import BoxedImage
from cgc.data.presets import normalise
from cgc.engine.runtime import bar_interval
from cgc.metrics.baselines import centre_gaussian_map, uniform_map
from cgc.metrics.maps import (
    full_size_map,
    is_zero_map,
    mass_inside,
    near_region,
    normalise_map,
    peak,
    region_mask,
)
from cgc.metrics.pointing_game import mean_over_classes, scaled_tolerance

METRICS = ("ch", "pg", "spg")
MAPS = ("model", "uniform", "gaussian")


class Explainer(Protocol):
    """Anything that explains: normalised images (N, 3, H, W), classes (N,) -> logits (N, K), maps (N, h,
    w) >= 0.
    """

    def __call__(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class MapScore:
    """One map on one image, in [0, 1]; None where the image does not count for the metric."""

    ch: float | None
    pg: float | None
    spg: float | None


@dataclass(frozen=True)
class ImageScore:
    """One row: what the model said of an image, and where it looked. `tolerance` in pixels of the original
    image.
    """

    index: int
    label: int
    prediction: int
    confidence: float
    zero_map: bool
    all_difficult: bool
    tolerance: float
    model: MapScore
    uniform: MapScore
    gaussian: MapScore


@dataclass
class Evaluation:
    """Rows in the order of the images, and what could not be scored: (index, reason)."""

    scores: list[ImageScore] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """Means in [0, 1]; NaN-free: None where nothing counted. `values[metric][map]`; `counted[metric]`
    images.
    """

    images: int
    zero_maps: int
    all_difficult: int
    top1: float | None
    values: dict[str, dict[str, float | None]]
    counted: dict[str, int]


def evaluate_localisation(
    explain: Explainer,
    images: Sequence[BoxedImage],
    *,
    input_resize: int = 448,
    batch_size: int = 16,
    workers: int = 0,
    device: torch.device | str = "cpu",
    tolerance: float | None = None,
    zero_maps: str = "skip",
    on_map: Callable[[ImageScore, Tensor], None] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Score every image in one pass; memory holds one batch and the rows.

    Args:
        explain: called under no special mode, with normalised images on `device`; see `evaluating` for
        modules.
        input_resize: shorter side in pixels, no crop.
        tolerance: pixels of the pointing games; None: `scaled_tolerance` of each image.
        zero_maps: "skip" leaves images whose raw map is all zero out of every score, "uniform" counts them as
            uniform maps.
        on_map: gets each row and its raw map (h, w), on the CPU.

    Raises:
        ValueError: `zero_maps` is neither.
    """
    if zero_maps not in ("skip", "uniform"):
        raise ValueError(f"zero_maps must be 'skip' or 'uniform', not {zero_maps!r}")
    device = torch.device(device)
    loader = boxed_loader(
        images, input_resize, batch_size=batch_size, workers=workers, pin_memory=device.type == "cuda"
    )
    result = Evaluation()
    interval = bar_interval()
    with tqdm(total=len(images), unit="image", disable=not progress, mininterval=interval) as bar:
        for batch in loader:
            result.failed.extend(batch.unreadable)
            for index, logits_K, map_hw in _explained(explain, batch, images, device):
                if not (torch.isfinite(map_hw).all() and torch.isfinite(logits_K).all()):
                    result.failed.append((index, "logits or map not finite"))
                    continue
                row = _score(index, images[index], logits_K, map_hw, tolerance, zero_maps)
                result.scores.append(row)
                if on_map is not None:
                    on_map(row, map_hw)
            bar.update(len(batch.indices) + len(batch.unreadable))
    result.scores.sort(key=lambda row: row.index)
    result.failed.sort()
    return result


def _explained(
    explain: Explainer, batch: SizedBatch, images: Sequence[BoxedImage], device: torch.device
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Index, logits (K,) and map (h, w) of each image of a batch, on the CPU."""
    if not batch.indices:
        return
    labels = torch.tensor([images[index].label for index in batch.indices], device=device)
    logits, maps = explain(normalise(batch.images.to(device, non_blocking=True)), labels)
    yield from zip(batch.indices, logits.detach().float().cpu(), maps.detach().float().cpu(), strict=True)


def _score(
    index: int, image: BoxedImage, logits_K: Tensor, map_hw: Tensor, tolerance: float | None, zero_maps: str
) -> ImageScore:
    size = image.size
    pixels = scaled_tolerance(size) if tolerance is None else tolerance
    inside_HW, near_HW = region_mask(image.boxes, size), near_region(image.boxes, size, pixels)
    zero = is_zero_map(map_hw)
    counts = not (zero and zero_maps == "skip")

    def score(full_HW: Tensor) -> MapScore:
        hit = None if image.all_difficult else float(near_HW[peak(full_HW)])
        return MapScore(mass_inside(full_HW, inside_HW), hit, mass_inside(full_HW, near_HW))

    confidence, prediction = logits_K.softmax(0).max(0)
    # A zero map is the uniform one exactly: resizing would move its peak by rounding.
    full_HW = uniform_map(size) if zero else full_size_map(normalise_map(map_hw), size)
    return ImageScore(
        index=index,
        label=image.label,
        prediction=int(prediction),
        confidence=float(confidence),
        zero_map=zero,
        all_difficult=image.all_difficult,
        tolerance=pixels,
        model=score(full_HW) if counts else MapScore(None, None, None),
        uniform=score(uniform_map(size)),
        gaussian=score(centre_gaussian_map(size)),
    )


def summarise(scores: Sequence[ImageScore]) -> Summary:
    """Means over the images that count for the model, so that its score and the trivial maps' are of the
    same images.

    Pointing game: mean over the classes seen of each class's hit rate; every other score: mean over images.
    """
    values: dict[str, dict[str, float | None]] = {}
    counted = {}
    for metric in METRICS:
        rows = [row for row in scores if getattr(row.model, metric) is not None]
        counted[metric] = len(rows)
        values[metric] = {}
        labels = torch.tensor([row.label for row in rows], dtype=torch.int64)
        for name in MAPS:
            each = torch.tensor([getattr(getattr(row, name), metric) for row in rows], dtype=torch.float64)
            values[metric][name] = None if not rows else _mean(each, labels, per_class=metric == "pg")
    correct = [row.prediction == row.label for row in scores]
    return Summary(
        images=len(scores),
        zero_maps=sum(row.zero_map for row in scores),
        all_difficult=sum(row.all_difficult for row in scores),
        top1=sum(correct) / len(correct) if correct else None,
        values=values,
        counted=counted,
    )


def _mean(each: Tensor, labels: Tensor, *, per_class: bool) -> float:
    if not per_class:
        return float(each.mean())
    return float(mean_over_classes(torch.bincount(labels, weights=each), torch.bincount(labels)))
