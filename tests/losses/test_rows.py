"""The loss of some rows among all: what a process with its own rows of the gathered maps takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from cgc.losses import cgc_loss, l2_consistency_loss
from cgc.losses.sgc import sgc_loss
from cgc.spatial import SpatialTransform
from tests.methods.toy import Recorder

N, SIZE = 7, 24
Loss = Callable[..., Tensor]


def transforms(n: int = N) -> SpatialTransform:
    return SpatialTransform.sample(n, SIZE, generator=torch.Generator().manual_seed(1))


def contrastive(query: Tensor, second: Tensor, **options: Any) -> Tensor:
    return cgc_loss(query, second, transforms(len(query)), temperature=0.1, **options)


def l2(query: Tensor, second: Tensor, **options: Any) -> Tensor:
    return l2_consistency_loss(query, second, transforms(len(query)), **options)


def saliency(n: int = N) -> Tensor:
    return torch.rand(n, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) < 0.4


def guided(query: Tensor, second: Tensor, **options: Any) -> Tensor:
    return sgc_loss(query, second, saliency(len(query)), temperature=0.1, **options)


LOSSES: dict[str, Loss] = {
    "augmented": contrastive,
    "query": partial(contrastive, anchor="query"),
    "l2": l2,
    "sgc": guided,
    **{f"{name}, floor": partial(loss, floor=0.3) for name, loss in (("cgc", contrastive), ("l2", l2))},
    "sgc, floor": partial(guided, floor=0.3),
}


def maps(n: int = N) -> tuple[Tensor, Tensor]:
    """Of sizes that differ, so that the floor's mean norm is not that of some of them."""
    generator = torch.Generator().manual_seed(0)
    both = torch.rand(2, n, 4, 5, generator=generator, dtype=torch.float64)
    query, second = both * torch.logspace(-1, 1, n, dtype=torch.float64)[:, None, None]
    return query.requires_grad_(), second.requires_grad_()


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("cuts", [(0, 3, 7), (0, 1, 2, 7), (0, 7)])
def test_rows_add_up_to_the_whole(name: str, cuts: tuple[int, ...]) -> None:
    """Each part's losses are the whole's, and the parts' gradients add up to the whole's."""
    loss, leaves = LOSSES[name], maps()
    whole = loss(*leaves, reduction="none")
    expected = torch.autograd.grad(whole.sum(), leaves)
    slices = [slice(start, stop) for start, stop in pairwise(cuts)]
    parts = [loss(*leaves, reduction="none", rows=rows) for rows in slices]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-15)
    found = torch.autograd.grad(torch.cat(parts).sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    means = [loss(*leaves, rows=rows).item() for rows in slices]
    assert means == pytest.approx([part.mean().item() for part in parts])


def test_rows_go_with_negatives_from_elsewhere() -> None:
    query, second = maps()
    others = torch.rand(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    masks = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    given: tuple[tuple[Loss, Any], ...] = ((contrastive, others), (guided, (others, masks)))
    for loss, negatives in given:
        whole = loss(query, second, reduction="none", negatives=negatives)
        part = loss(query, second, reduction="none", negatives=negatives, rows=slice(2, 5))
        torch.testing.assert_close(part, whole[2:5])
        assert (whole > loss(query, second, reduction="none")).all()


@pytest.mark.parametrize("loss", [contrastive, guided])
def test_no_similarity_of_all_with_all_is_made(loss: Loss) -> None:
    """n × N numbers for n of N rows: all else grows with N alone."""
    n = 2 * SIZE**2
    leaves = [torch.rand(n, 2, 2, requires_grad=True) for _ in range(2)]
    with Recorder() as recorder:
        loss(*leaves, rows=slice(8, 24)).backward()
    assert recorder.largest <= n * SIZE**2 < n**2


@pytest.mark.parametrize("rows", [slice(3, 3), slice(5, 2), slice(0, 6, 2), slice(9, 12)])
def test_rows_that_are_none_or_no_neighbours_are_refused(rows: slice) -> None:
    for loss in (contrastive, l2, guided):
        with pytest.raises(ValueError, match="rows"):
            loss(*maps(), rows=rows)
