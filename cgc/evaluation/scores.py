"""The scores of one batch, as columns on the device. NaN: does not count, or was not measured.

Legend: N images, M rows (image, class), G rows of a frame (H, W), K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cgc.data.boxes import BoxedImage
from cgc.data.views import mix_seed
from cgc.engine.transfer import to_device
from cgc.evaluation.loader import EvaluationBatch, Frame
from cgc.evaluation.options import LOCALISATION
from cgc.metrics.accuracy import label_ranks
from cgc.metrics.baselines import random_map
from cgc.metrics.maps import framed_maps, masses_inside, peaks, zero_maps
from cgc.metrics.pointing_game import stochastic_pointing_game

Columns = dict[str, Tensor]


def classification_columns(
    logits_NK: Tensor, target_M: Tensor, owner_M: Tensor, multi_label: bool
) -> Columns:
    """Predicted class with its probability (softmax; sigmoid where an image has several labels), rank of the target.

    ``finite`` is whether the logits are.
    """
    logits_NK = logits_NK.float()
    probability_NK = logits_NK.sigmoid() if multi_label else logits_NK.softmax(1)
    confidence_N, prediction_N = probability_NK.max(1)
    columns = {
        "prediction": prediction_N[owner_M],
        "confidence": confidence_N[owner_M],
        "rank": label_ranks(logits_NK[owner_M], target_M),
        "finite": torch.isfinite(logits_NK).all(1)[owner_M],
    }
    return columns | ({"predicted": (probability_NK > 0.5)[owner_M]} if multi_label else {})


def localisation_columns(
    batch: EvaluationBatch,
    maps: Tensor | Sequence[Tensor],
    images: Sequence[BoxedImage],
    device: torch.device,
    *,
    skip_zero_maps: bool,
    samples: int | None,
    seed: int,
) -> Columns:
    """Content Heatmap and both pointing games of every row, for its map and for maps that know nothing.

    ``maps``: (M, h, w), or one (h, w) per row. ``samples``: points drawn for the stochastic pointing game, None: exact.
    """
    m = len(batch.rows)
    scores_M3 = torch.full((m, 3), torch.nan, dtype=_precise(device), device=device)
    random_M3 = scores_M3.clone()
    uniform_M3, gaussian_M3 = torch.full((2, m, 3), torch.nan, dtype=torch.float64)
    if isinstance(maps, Tensor):
        zero_M, finite_M = zero_maps(maps), torch.isfinite(maps).flatten(1).all(1)
    else:
        maps = [to_device(map_hw, device) for map_hw in maps]
        zero_M = torch.stack([zero_maps(map_hw[None])[0] for map_hw in maps])
        finite_M = torch.stack([torch.isfinite(map_hw).all() for map_hw in maps])
    for frame in batch.frames(device):
        uniform_M3[frame.positions], gaussian_M3[frame.positions] = frame.uniform_G3, frame.gaussian_G3
        positions = to_device(torch.tensor(frame.positions), device)
        noise = random_maps([(tuple(maps[i].shape), batch.rows[i]) for i in frame.positions], seed, device)
        scores_M3[positions] = _scores([maps[i] for i in frame.positions], frame)
        random_M3[positions] = _scores(noise, frame)
    if samples is not None:
        scores_M3[:, 2] = _sampled(batch, maps, images, samples, seed).to(scores_M3)
    if skip_zero_maps:
        scores_M3 = scores_M3.masked_fill(zero_M[:, None], torch.nan)
    columns: Columns = {"zero": zero_M, "finite": finite_M}
    tables = {"model": scores_M3, "uniform": uniform_M3, "gaussian": gaussian_M3, "random": random_M3}
    for name, table_M3 in tables.items():
        columns |= {f"{metric}/{name}": table_M3[:, i] for i, metric in enumerate(LOCALISATION)}
    return columns


def random_maps(
    grids: Sequence[tuple[tuple[int, ...], int]], seed: int, device: torch.device
) -> list[Tensor]:
    """A random map for each (grid, row), a function of the seed and the row alone."""
    maps = [random_map((grid[0], grid[1]), mix_seed(seed, row)) for grid, row in grids]
    if len({grid for grid, _ in grids}) == 1:
        return list(to_device(torch.stack(maps), device))
    return [to_device(map_hw, device) for map_hw in maps]


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _scores(maps: Sequence[Tensor], frame: Frame) -> Tensor:
    """CH, PG and SPG, (G, 3)."""
    device = frame.inside_GHW.device
    sizes_G2 = to_device(torch.tensor(frame.sizes), device)
    if len({map_hw.shape for map_hw in maps}) == 1:
        full_GHW = framed_maps(torch.stack(list(maps)), sizes_G2, frame.size)
    else:
        each = zip(maps, sizes_G2[:, None], strict=True)
        full_GHW = torch.cat([framed_maps(map_hw[None], size, frame.size) for map_hw, size in each])
    peak_G2 = peaks(full_GHW)
    hit_G = frame.near_GHW[torch.arange(len(maps), device=device), peak_G2[:, 0], peak_G2[:, 1]]
    dtype = _precise(device)
    inside_G, near_G = (masses_inside(full_GHW, mask) for mask in (frame.inside_GHW, frame.near_GHW))
    return torch.stack([inside_G.to(dtype), hit_G.to(dtype), near_G.to(dtype)], dim=1)


def _sampled(
    batch: EvaluationBatch,
    maps: Tensor | Sequence[Tensor],
    images: Sequence[BoxedImage],
    samples: int,
    seed: int,
) -> Tensor:
    """The stochastic pointing game by drawn points, (M,); the draws of a row depend on the seed and its place alone."""
    values = torch.full((len(batch.rows),), torch.nan, dtype=torch.float64)
    for layout in batch.layouts:
        for i, size, tolerance in zip(layout.positions, layout.sizes, layout.tolerances, strict=True):
            if not torch.isfinite(maps[i]).all():
                continue
            values[i] = stochastic_pointing_game(
                maps[i].cpu(),
                images[batch.rows[i]].region,
                size,
                tolerance=tolerance,
                samples=samples,
                generator=torch.Generator().manual_seed(mix_seed(seed, batch.rows[i])),
            )
    return values
