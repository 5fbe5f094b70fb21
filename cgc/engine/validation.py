"""Top-1 accuracy and consistency of a model on held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from cgc.data.shares import plan_of
from cgc.data.views import Batch, ViewLoader, mix_seed
from cgc.engine.processes import Processes
from cgc.engine.runtime import Stopped, StopRequest
from cgc.engine.together import StopTogether
from cgc.errors import InputError
from cgc.metrics.accuracy import label_ranks
from cgc.metrics.consistency import consistency
from cgc.modes import evaluating
from cgc.spatial import SpatialTransform

_AGREE = 10  # batches between two looks at whether the other processes were asked to stop
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
    processes: Processes | None = None,
) -> tuple[dict[str, float], list[str]]:
    """Figures of one pass: ``val_top1`` and ``val_top5`` in percent, ``val_consistency`` (the CGC loss against 63
    negatives) and ``val_cosine`` (mean cosine of the two masks, 1 is best); and the unreadable images.

    ``step`` maps uint8 queries and packed transforms to logits and the two heatmaps
    (:class:`cgc.methods.validation.ValidationStep`). The augmented view of an image depends on its index alone. Images
    that stand in for unreadable ones are counted once. ``val_zero_maps`` is the percentage of images one of whose maps
    is zero: such a pair counts as consistent. Modes are left as they were found. Of several ``processes`` each brings
    its share of the images, and all have the figures of one.

    Raises InputError for an unreadable image under ``strict``, Stopped once ``stop`` is set.
    """
    unreadable: list[str] = []
    parts: list[dict[str, Tensor]] = []
    with evaluating(step):
        for batch in watched(loader, strict, stop):
            unreadable += batch.unreadable
            transform_N5 = held_out_transforms(batch.indices.tolist(), image_size)
            query = batch.query.to(device, non_blocking=True)
            outputs = step(query, transform_N5.to(device, non_blocking=True))
            parts.append(
                {
                    "index": batch.indices,
                    "transform": transform_N5,
                    "rank": label_ranks(outputs["logits"].float().cpu(), batch.labels),
                    "query": outputs["query_maps"].float().cpu(),
                    "augmented": outputs["augmented_maps"].float().cpu(),
                }
            )
    rows, unreadable = joined(parts, unreadable, processes)
    transform = SpatialTransform.unpack(rows["transform"], image_size)
    agreement = consistency(rows["query"], rows["augmented"], transform, temperature=temperature, seed=_SEED)
    zero_N = torch.stack([rows[name].flatten(1).amax(1) == 0 for name in ("query", "augmented")]).any(0)
    figures = {
        "val_top1": 100 * float((rows["rank"] < 1).double().mean()),
        "val_top5": 100 * float((rows["rank"] < 5).double().mean()),
        "val_consistency": float(agreement.loss_N.mean()),
        "val_cosine": float(agreement.cosine_N.mean()),
        "val_zero_maps": 100 * float(zero_N.double().mean()),
    }
    return figures, unreadable


def watched(loader: ViewLoader, strict: bool, stop: StopRequest | None) -> Iterator[Batch]:
    """The batches, until ``stop`` is set (Stopped) or, under ``strict``, an image cannot be read (InputError)."""
    order, batch_size, *_ = plan_of(loader)
    for number, batch in enumerate(loader if stop is None else stop.while_awaited(loader)):
        # All processes have these batches; of the last one some may have no part.
        if isinstance(stop, StopTogether) and number % _AGREE == 0 and number < len(order) // batch_size:
            stop.agree()
        if stop:
            raise Stopped
        if strict and batch.unreadable:
            raise InputError(f"unreadable image (--strict): {batch.unreadable[0]}")
        yield batch


def joined(
    parts: Sequence[Mapping[str, Tensor]], unreadable: list[str], processes: Processes | None
) -> tuple[dict[str, Tensor], list[str]]:
    """The rows of all batches and processes in order of their ``index``, each image once; and every line once."""
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
    if processes is not None:
        shares = [share for share in processes.gather((rows, unreadable)) if share[0]]
        rows = {name: torch.cat([share[name] for share, _ in shares]) for name in shares[0][0]}
        unreadable = [line for _, lines in shares for line in lines]
    order = rows["index"].argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = rows["index"][order].diff() != 0
    return {name: value[order[first]] for name, value in rows.items()}, list(dict.fromkeys(unreadable))


def held_out_transforms(indices: Sequence[int], size: int) -> Tensor:
    """The augmented view of each held-out image, packed (N, 5): a function of its index alone."""
    rows = [
        SpatialTransform.sample(1, size, generator=torch.Generator().manual_seed(mix_seed(_SEED, i))).pack()
        for i in indices
    ]
    return torch.cat(rows)
