"""Top-1 accuracy and consistency of a model on held-out images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cgc.data.views import ViewLoader, mix_seed
from cgc.engine.runtime import Stopped, StopRequest
from cgc.errors import InputError
from cgc.metrics.accuracy import label_ranks
from cgc.metrics.consistency import consistency
from cgc.modes import evaluating
from cgc.spatial import SpatialTransform

_SEED = 0  # of the augmented views and the negatives: the same for every model, run and epoch


@torch.no_grad()
def validate(
    step: nn.Module,
    loader: ViewLoader,
    device: torch.device,
    *,
    image_size: int,
    temperature: float,
    strict: bool = False,
    stop: StopRequest | None = None,
) -> tuple[dict[str, float], list[str]]:
    """Figures of one pass: ``val_top1`` and ``val_top5`` in percent, ``val_consistency`` (the CGC loss against 63
    negatives) and ``val_cosine`` (mean cosine of the two masks, 1 is best); and the unreadable images.

    ``step`` maps uint8 queries and packed transforms to logits and the two heatmaps
    (:class:`cgc.methods.validation.ValidationStep`). The augmented view of an image depends on its index alone. Images
    that stand in for unreadable ones are counted once. ``val_zero_maps`` is the percentage of images one of whose maps
    is zero: such a pair counts as consistent. Modes are left as they were found.

    Raises InputError for an unreadable image under ``strict``, Stopped once ``stop`` is set.
    """
    unreadable: list[str] = []
    seen: set[int] = set()
    queries: list[Tensor] = []
    augmented: list[Tensor] = []
    packed: list[Tensor] = []
    ranks: list[Tensor] = []
    with evaluating(step):
        for batch in loader:
            if stop:
                raise Stopped
            unreadable += batch.unreadable
            if strict and unreadable:
                raise InputError(f"unreadable image (--strict): {unreadable[0]}")
            keep = _not_seen_before(batch.indices, seen)
            transform_N5 = held_out_transforms(batch.indices.tolist(), image_size)
            query = batch.query.to(device, non_blocking=True)
            outputs = step(query, transform_N5.to(device, non_blocking=True))
            packed.append(transform_N5[keep])
            ranks.append(label_ranks(outputs["logits"].float().cpu(), batch.labels)[keep])
            queries.append(outputs["query_maps"].float().cpu()[keep])
            augmented.append(outputs["augmented_maps"].float().cpu()[keep])
    transform = SpatialTransform.unpack(torch.cat(packed), image_size)
    agreement = consistency(
        torch.cat(queries), torch.cat(augmented), transform, temperature=temperature, seed=_SEED
    )
    rank_N = torch.cat(ranks)
    zero_N = torch.stack([torch.cat(maps).flatten(1).amax(1) == 0 for maps in (queries, augmented)]).any(0)
    figures = {
        "val_top1": 100 * float((rank_N < 1).double().mean()),
        "val_top5": 100 * float((rank_N < 5).double().mean()),
        "val_consistency": float(agreement.loss_N.mean()),
        "val_cosine": float(agreement.cosine_N.mean()),
        "val_zero_maps": 100 * float(zero_N.double().mean()),
    }
    return figures, list(dict.fromkeys(unreadable))


def _not_seen_before(indices_N: Tensor, seen: set[int]) -> Tensor:
    """Which indices (N,) are new; ``seen`` takes them up."""
    new = []
    for index in indices_N.tolist():
        new.append(index not in seen)
        seen.add(index)
    return torch.tensor(new)


def held_out_transforms(indices: Sequence[int], size: int) -> Tensor:
    """The augmented view of each held-out image, packed (N, 5): a function of its index alone."""
    rows = [
        SpatialTransform.sample(1, size, generator=torch.Generator().manual_seed(mix_seed(_SEED, i))).pack()
        for i in indices
    ]
    return torch.cat(rows)
