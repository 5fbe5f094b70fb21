"""What a method does as one of several processes, without any: draws, counts, and no word from the device."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cgc.gradcam import GradCAMModel
from cgc.methods import (
    BaselineMethod,
    CGCMethod,
    EnergyMethod,
    GridConsistencyMethod,
    Method,
    SemiSupervisedCGC,
    SemiSupervisedSGC,
    SGCMethod,
)
from cgc.models.backbones import TinyResNet
from tests.methods.toy import SYNCHRONISING, Recorder, blobs, smooth_images

CLASSES, N, IMAGE = 3, 4, 32
SEVERAL = torch.tensor([[True, True, False], [False, True, True]]).repeat(6, 1)


class Twins:
    """``size`` processes that all have the same rows."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.asked: list[Tensor] = []

    def gather_rows(self, rows: Tensor) -> Tensor:
        self.asked.append(rows)
        return torch.cat([rows] * self.size)


def small(kind: type[Method], across: Twins | None = None, **options: Any) -> Method:
    torch.manual_seed(0)
    method = kind(GradCAMModel(TinyResNet(CLASSES)), **options)
    method.across = across
    return method


def batch(n: int, labels: Tensor | None = None) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(1)
    images = smooth_images(n, IMAGE, generator)
    return SimpleNamespace(
        xe=images,
        query=images,
        unlabelled_query=images,
        saliency=blobs(n, IMAGE, generator),
        labels=torch.arange(n) % CLASSES if labels is None else labels,
    )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def rows(data: SimpleNamespace, rank: int) -> SimpleNamespace:
    own = slice(rank * N, (rank + 1) * N)
    return SimpleNamespace(**{name: value[own] for name, value in vars(data).items()})


@pytest.mark.parametrize(
    ("kind", "several", "drawn"),
    [
        (CGCMethod, False, [3]),
        (SemiSupervisedCGC, False, [3]),
        (GridConsistencyMethod, False, [3, 4]),  # category and quadrant; distractors are a process's own
        (GridConsistencyMethod, True, [3, 4]),
    ],
)
@pytest.mark.parametrize("size", [2, 3])
def test_together_the_processes_draw_what_one_would(
    kind: type[Method], several: bool, drawn: list[int], size: int
) -> None:
    options = {"multi_label": True} if several else {}
    data = batch(size * N, SEVERAL[: size * N] if several else None)
    whole = small(kind, **options).prepare(data, seeded())
    parts = [
        small(kind, Twins(rank, size), **options).prepare(rows(data, rank), seeded()) for rank in range(size)
    ]
    for index in drawn:
        assert torch.equal(torch.cat([part[index] for part in parts]), whole[index])
        assert not torch.equal(parts[0][index], parts[1][index])


def test_distractors_are_a_process_s_own_images_and_draws() -> None:
    """Both processes get the same images here, so that nothing but their draws can differ."""
    data = batch(8, torch.arange(8))
    found = []
    for rank in range(2):
        method = small(GridConsistencyMethod, Twins(rank, 2))
        images, composites, _, _, quadrant, usable = method.prepare(data, seeded())
        assert usable.all()
        cells = composites.unfold(2, IMAGE, IMAGE).unfold(3, IMAGE, IMAGE)  # (8, 3, 2, 2, S, S)
        cells = cells.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
        sources = (cells[:, :, None] == images).flatten(3).all(3).long().argmax(2)
        assert torch.equal(sources.gather(1, quadrant[:, None])[:, 0], torch.arange(8))
        found.append(sources.sort(dim=1).values)
    assert not torch.equal(*found)


@pytest.mark.parametrize(
    ("kind", "options", "gathered", "local"),
    [
        (CGCMethod, {}, 11, 3),
        (CGCMethod, {"consistency": "l2"}, None, None),
        (SGCMethod, {}, 11, 3),
        (SemiSupervisedCGC, {}, 11, 3),
        (SemiSupervisedSGC, {}, 11, 3),
        (GridConsistencyMethod, {}, None, None),
        (EnergyMethod, {}, None, None),
        (BaselineMethod, {}, None, None),
    ],
)
def test_effective_negatives_are_counted(
    kind: type[Method], options: dict[str, Any], gathered: int | None, local: int | None
) -> None:
    method = small(kind, Twins(1, 3), **options)
    assert method.negatives(4) == gathered
    method.gathered = False
    assert method.negatives(4) == local
    assert small(kind, **options).negatives(4) == local


@pytest.mark.parametrize("kind", [CGCMethod, SGCMethod, SemiSupervisedCGC, SemiSupervisedSGC])
def test_what_travels_is_small_and_local_negatives_send_nothing(kind: type[Method]) -> None:
    twins = Twins(0, 2)
    method = small(kind, twins)
    inputs = method.prepare(batch(N), seeded())
    method(*inputs)
    maps = [rows for rows in twins.asked if rows.is_floating_point()]
    others = [rows for rows in twins.asked if not rows.is_floating_point()]
    assert [tuple(each.shape) for each in maps] == [(N, 2, 4, 4)]
    assert [each.requires_grad for each in maps] == [True]
    saliency = kind in (SGCMethod, SemiSupervisedSGC)
    assert [(each.dtype, tuple(each.shape)) for each in others] == [
        (torch.uint8, (N, IMAGE * IMAGE // 8)) if saliency else (torch.int64, (N, 5))
    ]
    twins.asked.clear()
    method.gathered = False
    method(*inputs)
    method.gathered, method.weight = True, 0.0
    method(*inputs)
    assert not twins.asked


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("kind", [CGCMethod, SGCMethod, SemiSupervisedCGC, SemiSupervisedSGC])
def test_nothing_is_read_back_from_the_device(
    kind: type[Method], floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on the meta device have no values, so whoever asks for one fails."""
    # Autocast does not know the meta device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    method = small(kind, Twins(1, 2), floor=floor).to("meta")
    on_meta = {name: tensor.to("meta") for name, tensor in vars(batch(N)).items()}
    inputs = method.prepare(SimpleNamespace(**on_meta), seeded())
    with Recorder() as recorder:
        method(*inputs)["loss"].mean().backward()
    assert "convolution_backward" in recorder.names
    assert not recorder.names & SYNCHRONISING
