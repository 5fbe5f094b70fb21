"""CGC's consistency as a measure of held-out images, in the same pass as the other scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cgc.data.presets import normalise
from cgc.engine.validation import held_out_transforms
from cgc.errors import InputError
from cgc.evaluation.rows import Row
from cgc.evaluation.subject import Subject
from cgc.metrics.consistency import consistency
from cgc.metrics.maps import zero_maps
from cgc.spatial import SpatialTransform

_MOST_CELLS = 64 * 64  # the maps of all images are kept


class ConsistencyPass:
    """Grid maps of centre crops and of their augmented views; scored at the end, since the loss of an image depends
    on the others. The augmented view of an image depends on its place in the list alone.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.rows: list[int] = []
        self.packed: list[Tensor] = []
        self.queries: list[Tensor] = []
        self.augmented: list[Tensor] = []

    def add(self, subject: Subject, crops_u8: Tensor, rows: Sequence[int]) -> None:
        """Crops (N, 3, side, side) uint8 on the device, and the first row of each image."""
        packed_N5 = held_out_transforms(rows, self.side)
        transform = SpatialTransform.unpack(packed_N5.to(crops_u8.device), self.side)
        query_NCHW = normalise(crops_u8)
        assert subject.explain is not None
        logits_NK, query_maps = subject.explain(query_NCHW)
        if query_maps[0].numel() > _MOST_CELLS:
            raise InputError(
                "consistency compares maps of a feature grid; this explainer's have the image's size"
            )
        _, augmented_maps = subject.explain(transform(query_NCHW), logits_NK.argmax(1))
        self.rows += rows
        self.packed.append(packed_N5)
        self.queries.append(query_maps.float())
        self.augmented.append(augmented_maps.float())

    def on_cpu(self) -> ConsistencyPass:
        """A copy to hand to another process."""
        copy = ConsistencyPass(self.side)
        copy.rows, copy.packed = self.rows, self.packed
        copy.queries = [maps.cpu() for maps in self.queries]
        copy.augmented = [maps.cpu() for maps in self.augmented]
        return copy

    @staticmethod
    def score(
        parts: Sequence[ConsistencyPass],
        rows: Sequence[Row],
        temperature: float,
        *,
        skip_zero_maps: bool = True,
    ) -> set[int]:
        """Write loss and cosine into the rows: of an image with several classes, into its first one.

        An image one of whose maps is zero is left out, as a negative too, and its row says so, unless zero maps count
        as uniform ones. Returns the rows whose maps are not finite, which are left out as well.
        """
        indices = torch.tensor([row for part in parts for row in part.rows], dtype=torch.long)
        if not len(indices):
            return set()
        order = indices.argsort()
        packed, queries, augmented = (
            torch.cat([t for part in parts for t in getattr(part, name)])[order]
            for name in ("packed", "queries", "augmented")
        )
        indices = indices[order]
        finite, zero = (torch.stack([test(queries), test(augmented)]) for test in (_finite, zero_maps))
        finite_N, zero_N = finite.all(0), zero.any(0)
        by_index = {row.index: row for row in rows}
        for index in indices[finite_N & zero_N].tolist():
            if index in by_index:
                by_index[index].zero_map = True
        kept = finite_N & ~zero_N if skip_zero_maps else finite_N
        if kept.any():
            scores = consistency(
                _zeros_as_uniform(queries[kept]),
                _zeros_as_uniform(augmented[kept]),
                SpatialTransform.unpack(packed[kept], parts[0].side),
                temperature=temperature,
            )
            for index, loss, cosine in zip(
                indices[kept].tolist(), scores.loss_N.tolist(), scores.cosine_N.tolist(), strict=True
            ):
                if index in by_index:
                    by_index[index].scores |= {"consistency": {"model": loss}, "cosine": {"model": cosine}}
        return set(indices[~finite_N].tolist())


def _finite(maps_Nhw: Tensor) -> Tensor:
    return torch.isfinite(maps_Nhw).flatten(1).all(1)


def _zeros_as_uniform(maps_Nhw: Tensor) -> Tensor:
    return maps_Nhw.masked_fill(zero_maps(maps_Nhw)[:, None, None], 1)
