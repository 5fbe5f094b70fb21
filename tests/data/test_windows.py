from __future__ import annotations

import pytest
import torch

from cgc.data.windows import draw_window
from cgc.spatial import crop_parameters


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (64, 64), (1, 1), (2, 3), (1, 300), (3000, 40), (31, 97), (1025, 769)]
)
def test_windows_are_those_of_crop_parameters_and_leave_the_generator_alike(size: tuple[int, int]) -> None:
    width, height = size
    flips = set()
    for seed in range(200):
        one, other = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
        window, hflip = draw_window(size, one)
        top, left, h, w = (int(v) for v in crop_parameters(1, height, width, generator=other))
        assert window == (left, top, left + w, top + h)
        assert hflip == bool(torch.rand((), generator=other) < 0.5)
        assert torch.equal(one.get_state(), other.get_state())
        flips.add(hflip)
    assert flips == {True, False}
