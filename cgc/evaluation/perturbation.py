"""Insertion and deletion in the evaluation: the model's maps, and on some rows maps that know nothing.

Legend: M rows (image, class), K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cgc.engine.transfer import to_device
from cgc.evaluation.options import EvaluationOptions
from cgc.evaluation.scores import Columns, random_maps
from cgc.evaluation.subject import Subject
from cgc.metrics.baselines import centre_gaussian_map, uniform_map
from cgc.metrics.insertion import area_under_curve, deletion_curve, insertion_curve
from cgc.metrics.maps import bilinear, zero_maps

_CURVES = {"insertion": insertion_curve, "deletion": deletion_curve}


def spread_rows(rows: int, wanted: int) -> frozenset[int]:
    """At most ``wanted`` of ``rows`` indices, evenly spread.

    >>> sorted(spread_rows(10, 3)), spread_rows(5, 0)
    ([0, 4, 9], frozenset())
    """
    return frozenset(torch.linspace(0, rows - 1, min(wanted, rows)).long().tolist())


class Perturbation:
    """Areas under the curves of one evaluation.

    The class scored is the top prediction on the intact image (RISE); with several labels, the row's own class.
    """

    def __init__(self, subject: Subject, options: EvaluationOptions, rows: int) -> None:
        self.subject, self.options = subject, options
        self.trivial_rows = spread_rows(rows, options.trivial_images)

    def columns(
        self,
        images_MCHW: Tensor,
        logits_MK: Tensor,
        maps: Tensor | Sequence[Tensor],
        target_M: Tensor,
        rows: Sequence[int],
    ) -> Columns:
        """The areas for every row's map, and those of trivial maps where the row is one of the chosen.

        ``images_MCHW`` and ``logits_MK``: a row's normalised image, and what the model says of it.
        """
        device, options = images_MCHW.device, self.options
        maps_Mhw = _one_grid([map_hw.to(device).float() for map_hw in maps], _side(images_MCHW))
        finite_M, zero_M = torch.isfinite(maps_Mhw).flatten(1).all(1), zero_maps(maps_Mhw)
        maps_Mhw = maps_Mhw.masked_fill(~finite_M[:, None, None], 0)
        scored_M = target_M if self.subject.multi_label else logits_MK.argmax(1)
        chosen = [m for m, row in enumerate(rows) if row in self.trivial_rows]
        chosen_T = to_device(torch.tensor(chosen, dtype=torch.long), device)
        trivial = self._trivial_maps(maps_Mhw.shape[1:], _side(images_MCHW), [rows[m] for m in chosen])
        columns: Columns = {"zero": zero_M, "finite": finite_M & torch.isfinite(logits_MK).all(1)}
        for metric in (metric for metric in _CURVES if metric in options.metrics):
            own_M = self._areas(metric, images_MCHW, logits_MK, maps_Mhw, scored_M)
            skipped = zero_M if options.zero_maps == "skip" else torch.zeros_like(zero_M)
            columns[f"{metric}/model"] = own_M.masked_fill(skipped, torch.nan)
            for name, maps_THW in trivial.items():
                columns[f"{metric}/{name}"] = column_M = torch.full_like(own_M, torch.nan)
                if chosen:
                    column_M[chosen_T] = self._areas(
                        metric,
                        images_MCHW[chosen_T],
                        logits_MK[chosen_T],
                        to_device(maps_THW, device),
                        scored_M[chosen_T],
                    )
        return columns

    def _areas(
        self, metric: str, images_MCHW: Tensor, logits_MK: Tensor, maps_Mhw: Tensor, scored_M: Tensor
    ) -> Tensor:
        options, settings = self.options, self.options.perturbation
        assert self.subject.predict is not None
        predict = self.subject.predict
        scores = _CURVES[metric](
            lambda images: self._probabilities(predict(images)),
            images_MCHW,
            maps_Mhw,
            target=scored_M,
            steps=settings.steps,
            baseline=settings.insertion_baseline if metric == "insertion" else settings.deletion_baseline,
            intact=self._probabilities(logits_MK),
            batch_size=options.batch_size,
        )
        return area_under_curve(scores).double()

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid() if self.subject.multi_label else logits.float().softmax(1)

    def _trivial_maps(
        self, grid: Sequence[int], side: tuple[int, int], rows: Sequence[int]
    ) -> dict[str, Tensor]:
        if not rows:
            return {name: torch.empty(0) for name in ("uniform", "gaussian", "random")}
        noise = random_maps([(tuple(grid), row) for row in rows], self.options.seed, torch.device("cpu"))
        return {
            "uniform": uniform_map(side).expand(len(rows), *side),
            "gaussian": centre_gaussian_map(side).expand(len(rows), *side),
            "random": torch.stack(noise),
        }


def _side(images_MCHW: Tensor) -> tuple[int, int]:
    return images_MCHW.shape[2], images_MCHW.shape[3]


def _one_grid(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Maps as one tensor: on their own grid where they share it, so that equal cells stay equal, else at ``size``."""
    if len({map_hw.shape for map_hw in maps}) == 1:
        return torch.stack(list(maps))
    return torch.stack([bilinear(map_hw, size) for map_hw in maps])
