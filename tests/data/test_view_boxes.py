"""Boxes of views, against the pixels that they touch."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgc.data.view_boxes import boxes_in_view
from cgc.spatial import SpatialTransform

EMPTY = [0, 0, -1, -1]
BOX = st.tuples(*[st.integers(-8, 45)] * 4).map(list)
QUARTERS = (1 / 4).__mul__  # no edge comes near another one without meeting it


def test_worked_out_by_hand() -> None:
    """The window 10 to 30 × 4 to 12 on 8×8 pixels: a column is 2½ wide, a row 1 high."""
    boxes = torch.tensor([[[12, 5, 19, 6], [0, 0, 9, 20], [0, 0, 50, 50], EMPTY]]).expand(2, 4, 4)
    window = torch.tensor([[10.0, 4.0, 30.0, 12.0]]).expand(2, 4)
    views = boxes_in_view(boxes, window, torch.tensor([False, True]), 8)
    # 12 to 20 lie 2 to 10 from the window's left: columns 0.8 to 4, that is 0 to 3, mirrored 4 to 7.
    assert views.tolist() == [
        [[0, 1, 3, 2], EMPTY, [0, 0, 7, 7], EMPTY],
        [[4, 1, 7, 2], EMPTY, [0, 0, 7, 7], EMPTY],
    ]


@settings(max_examples=60, deadline=None)
@given(
    box=BOX,
    left=st.integers(0, 80).map(QUARTERS),
    top=st.integers(0, 80).map(QUARTERS),
    width=st.integers(4, 80).map(QUARTERS),
    height=st.integers(4, 80).map(QUARTERS),
    hflip=st.booleans(),
)
def test_boxes_of_a_view_hold_every_pixel_they_touch(
    box: list[int], left: float, top: float, width: float, height: float, hflip: bool
) -> None:
    size, window = 16, torch.tensor([[left, top, left + width, top + height]], dtype=torch.float64)
    found = boxes_in_view(torch.tensor([[box]]), window, torch.tensor([hflip]), size)[0, 0].tolist()

    def touched(first: int, last: int, start: float, extent: float) -> set[int]:
        step = extent / size
        return {
            pixel
            for pixel in range(size)
            if last >= first
            and min(start + (pixel + 1) * step, last + 1) - max(start + pixel * step, first) > 1e-9
        }

    columns, rows = touched(box[0], box[2], left, width), touched(box[1], box[3], top, height)
    columns = {size - 1 - c for c in columns} if hflip else columns
    x0, y0, x1, y1 = found
    if not columns or not rows:
        assert found == EMPTY
        return
    assert set(range(x0, x1 + 1)) == columns
    assert set(range(y0, y1 + 1)) == rows


def test_boxes_follow_their_pixels_through_a_transform() -> None:
    """A white box on black, cropped and flipped as an image: the box of the view holds all that is white there."""
    transform = SpatialTransform.sample(40, 64, generator=torch.Generator().manual_seed(5))
    boxes = torch.tensor([[[10, 20, 40, 47]]]).expand(40, 1, 4)
    image = torch.zeros(40, 1, 64, 64)
    image[:, :, 20:48, 10:41] = 1
    window = torch.stack(
        [transform.left, transform.top, transform.left + transform.width, transform.top + transform.height],
        dim=1,
    )
    views = boxes_in_view(boxes, window, transform.hflip, 64)[:, 0]
    for white, (x0, y0, x1, y1), height, width in zip(
        transform(image)[:, 0] > 0.5, views.tolist(), transform.height, transform.width, strict=True
    ):
        rows, columns = white.any(1).nonzero().flatten(), white.any(0).nonzero().flatten()
        if not len(rows):
            continue
        # A pixel of the view stands for less than one of the image, so half-white is at most a pixel's width off.
        slack = (math.ceil(64 / width), math.ceil(64 / height))
        for low, high, first, last, most in (
            (x0, x1, columns.min(), columns.max(), slack[0]),
            (y0, y1, rows.min(), rows.max(), slack[1]),
        ):
            assert 0 <= first - low <= most
            assert 0 <= high - last <= most


def test_images_without_a_box() -> None:
    none = torch.zeros(2, 0, 4, dtype=torch.int64)
    window = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(2, 4)
    assert boxes_in_view(none, window, torch.tensor([False, True]), 8).shape == (2, 0, 4)


def test_nothing_is_read_back_from_the_device() -> None:
    """Tensors on the meta device have no values, so whoever asks for one fails."""
    boxes, window = torch.zeros(3, 2, 4, dtype=torch.int64, device="meta"), torch.zeros(3, 4, device="meta")
    hflip = torch.zeros(3, dtype=torch.bool, device="meta")
    assert boxes_in_view(boxes, window, hflip, 64).shape == (3, 2, 4)
