"""Every loss and metric on the values that break arithmetic; the same seed, the same numbers.

The published arithmetic (CGC's with ``floor=0``, GC's) divides by a map's size + 1e-8: its gradient at a zero map is
10^8, which float16 does not hold; everywhere else everything must stay finite. Training hands the losses maps in
float32, and a zero map hands no gradient on, whatever the precision of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cgc.losses import cgc_loss, l2_consistency_loss
from cgc.losses.energy import energy_loss
from cgc.losses.grid_consistency import grid_consistency_loss
from cgc.losses.sgc import sgc_loss
from cgc.metrics.consistency import consistency
from cgc.metrics.content_heatmap import content_heatmap
from cgc.metrics.insertion import area_under_curve, deletion_curve, insertion_curve
from cgc.metrics.pointing_game import pointing_game_hit, stochastic_pointing_game
from cgc.spatial import SpatialTransform
from tests.commands.runs import rows, train, training_differences, training_folder

SIZE = 64
BOXES = torch.tensor([[[3, 4, 3, 4], [0, 0, -1, -1]]])  # one pixel, and padding

Loss = Callable[[Tensor, Tensor], Tensor]


def _transform(n: int) -> SpatialTransform:
    return SpatialTransform.sample(n, size=SIZE, generator=torch.Generator().manual_seed(5))


def _saliency(n: int) -> Tensor:
    saliency = torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
    saliency[:, 10, 20] = True  # one pixel
    return saliency


LOSSES: dict[str, Loss] = {
    "cgc": lambda q, a: cgc_loss(q, a, _transform(len(q)), temperature=0.5, floor=0.1),
    "cgc, as published": lambda q, a: cgc_loss(q, a, _transform(len(q)), temperature=0.5),
    "l2": lambda q, a: l2_consistency_loss(q, a, _transform(len(q)), floor=0.1),
    "sgc": lambda q, a: sgc_loss(q, a, _saliency(len(q)), temperature=0.5, floor=0.1),
    "grid": lambda q, a: grid_consistency_loss(
        q, a.repeat_interleave(2, 1).repeat_interleave(2, 2), torch.arange(len(q)) % 4
    ),
    "energy": lambda q, a: energy_loss(q + 0 * a, BOXES.expand(len(q), -1, -1), (SIZE, SIZE)),
}

PUBLISHED = ("cgc, as published", "grid")


def _random(n: int) -> Tensor:
    return torch.rand(n, 7, 7, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def _one_cell(n: int) -> Tensor:
    maps = torch.zeros(n, 7, 7, dtype=torch.float64)
    maps[:, 2, 3] = 1
    return maps


def _one_of(scale: float) -> Callable[[int], Tensor]:
    def maps(n: int) -> Tensor:
        found = _random(n)
        found[0] *= scale
        return found

    return maps


MAPS: dict[str, Callable[[int], Tensor]] = {
    "ordinary": _random,
    "zero": lambda n: torch.zeros(n, 7, 7, dtype=torch.float64),
    "one zero map": _one_of(0.0),
    "constant": lambda n: torch.full((n, 7, 7), 0.5, dtype=torch.float64),
    "one cell": _one_cell,
    "one tiny map": _one_of(1e-4),
    "one huge map": _one_of(1e4),
    "all tiny": lambda n: _random(n) * 1e-5,
    "all huge": lambda n: _random(n) * 3e4,
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_finite(name: str, kind: str, dtype: torch.dtype, n: int) -> None:
    maps = [MAPS[kind](n).to(dtype).requires_grad_() for _ in range(2)]
    loss = LOSSES[name](*maps)
    assert loss.dtype in (torch.float32, torch.float64)
    assert loss.isfinite()
    too_large = name in PUBLISHED and dtype == torch.float16 and ("tiny" in kind or "zero" in kind)
    for gradient in torch.autograd.grad(loss, maps, allow_unused=True) if not too_large else ():
        assert gradient is None or (gradient.dtype == dtype and gradient.isfinite().all())


REGIONS = {
    "one pixel": torch.tensor([[20, 30, 20, 30]]),
    "a corner": torch.tensor([[0, 0, 0, 0]]),
    "all of it": torch.tensor([[0, 0, 59, 49]]),
    "beyond the border": torch.tensor([[50, 40, 900, 900]]),
    "a mask": torch.ones(50, 60, dtype=torch.bool),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("kind", MAPS)
def test_localisation_is_a_share(kind: str, region: str, dtype: torch.dtype) -> None:
    map_hw, place = MAPS[kind](2)[0].to(dtype), REGIONS[region]
    energy = content_heatmap(map_hw, place, (50, 60))
    spg = stochastic_pointing_game(map_hw, place, (50, 60), tolerance=2)
    assert 0 <= energy <= spg + 1e-6 <= 1 + 2e-6
    assert pointing_game_hit(map_hw, place, (50, 60), tolerance=2) in (True, False)
    drawn = stochastic_pointing_game(
        map_hw, place, (50, 60), samples=10, generator=torch.Generator().manual_seed(1)
    )
    assert 0 <= drawn <= 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", MAPS)
def test_insertion_deletion_and_consistency_are_finite(kind: str, dtype: torch.dtype) -> None:
    def predict(images_NCHW: Tensor) -> Tensor:
        mean_N = images_NCHW.float().mean((1, 2, 3))
        return torch.stack([mean_N.sigmoid(), 1 - mean_N.sigmoid()], 1)

    maps, images = MAPS[kind](3).to(dtype), torch.rand(3, 3, 16, 16)
    for curve in (insertion_curve, deletion_curve):
        area_N = area_under_curve(curve(predict, images, maps, steps=4))
        assert ((area_N >= 0) & (area_N <= 1)).all()
    found = consistency(maps, maps, _transform(3))
    assert all(torch.as_tensor(each).isfinite().all() for each in found)


@pytest.mark.parametrize("workers", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2, 4))])
def test_the_same_seed_gives_the_same_numbers(
    workers: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two runs, whatever the number of loading processes."""
    data = training_folder(tmp_path / "data")
    assert train(data, save_dir=tmp_path / "one") == 0
    assert train(data, "-j", workers, save_dir=tmp_path / "two") == 0
    last = "checkpoint_002.pth.tar"
    assert training_differences(tmp_path / "one" / last, tmp_path / "two" / last) == []
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
