"""Decoded images that torch resizes: faster than Pillow, and equal to within rounding but at the border of a crop.

Views ask little of an image (:class:`Picture`): Pillow's images and :class:`Pixels` both answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_T = TypeVar("_T", bound="Picture")
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

# A part of an image, with sides below this, is resized by Pillow. Pillow filters across the part's border and torch
# does not; the fewer pixels, the more of the view that is.
_SMALL = 32

_WHOLE = 1e-6  # of a pixel of the view


class Picture(Protocol):
    """What views ask of a decoded image; names and meanings are Pillow's."""

    @property
    def size(self) -> tuple[int, int]: ...  # width, height

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def resize(self: _T, size: tuple[int, int], resample: Image.Resampling, box: Box | None = None) -> _T: ...

    def transpose(self: _T, method: Image.Transpose) -> _T: ...


def to_tensor(image: Picture) -> Tensor:
    """(H, W, 3) uint8; of grey Pillow images (H, W)."""
    return image.rgb_HW3 if isinstance(image, Pixels) else torch.from_numpy(np.array(image))


def resizes_fast() -> bool:
    """Whether torch has vector instructions for uint8 images here; without them Pillow is faster."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")


@dataclass(frozen=True, eq=False)
class Pixels:
    """An RGB image, (H, W, 3) uint8."""

    rgb_HW3: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def width(self) -> int:
        return self.rgb_HW3.shape[1]

    @property
    def height(self) -> int:
        return self.rgb_HW3.shape[0]

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling = Image.Resampling.BILINEAR,
        box: Box | None = None,
    ) -> Pixels:
        """The part ``box`` of the image, of ``size`` (width, height): bilinear, and filtered where it shrinks.

        As a rule a box of whole pixels is cut out first, as by torchvision's ``resized_crop``.
        """
        assert resample == Image.Resampling.BILINEAR
        left, top, right, bottom = (0, 0, *self.size) if box is None else box
        columns = _grid(left, right, size[0], self.width)
        rows = _grid(top, bottom, size[1], self.height)
        if columns is None or rows is None:
            image = Image.fromarray(self.rgb_HW3.cpu().numpy())
            return Pixels(to_tensor(image.resize(size, resample, box=box)).to(self.rgb_HW3.device))
        part_HW3 = self.rgb_HW3[rows.first : rows.stop, columns.first : columns.stop]
        # The batch dimension comes before the permutation: strides as of a batch, else torch does not see that
        # the channels lie together, and converts back and forth for twice the time.
        part_13HW = part_HW3[None].permute(0, 3, 1, 2)
        resized_13hw = _resized(part_13HW, rows, columns, as_bytes=part_HW3.device.type == "cpu")
        top, left = rows.before, columns.before
        view_3hw = resized_13hw[0, :, top : top + size[1], left : left + size[0]]
        return Pixels(view_3hw.permute(1, 2, 0))

    def transpose(self, method: Image.Transpose) -> Pixels:
        assert method == Image.Transpose.FLIP_LEFT_RIGHT
        return Pixels(self.rgb_HW3.flip(1))


def _resized(part_13HW: Tensor, rows: _Grid, columns: _Grid, *, as_bytes: bool) -> Tensor:
    """``as_bytes``: by the kernel for uint8, which only CPUs have; else in float32, rounded."""
    resized: Tensor = torch.ops.aten._upsample_bilinear2d_aa(
        part_13HW if as_bytes else part_13HW.float(),
        [rows.made, columns.made],
        False,  # align_corners
        1 / rows.step,
        1 / columns.step,
    )
    return resized if as_bytes else resized.round_().clamp_(0, 255).to(torch.uint8)


class _Grid(NamedTuple):
    """Along one axis: resize pixels ``first`` to ``stop``, ``step`` of them to one, to ``made`` pixels, of which those
    wanted come after ``before`` others.
    """

    first: int
    stop: int
    step: float
    before: int
    made: int


def _grid(start: float, stop: float, out: int, extent: int) -> _Grid | None:
    """How to get ``out`` pixels of ``start`` to ``stop``; None: that is for Pillow.

    torch begins at whole pixels only. A part that begins between two is had from the whole axis, if it begins at
    a whole pixel of that one's result: so it is with a centre crop of a resized image.
    """
    step = (stop - start) / out
    before = round(start / step)
    if abs(start / step - before) < _WHOLE and before <= out:
        # Nothing beyond has a share in the result.
        last = min(math.ceil(stop + max(step, 1)) + 1, extent)
        # Where as many pixels are made as there are, torch takes them as they are, whatever the step.
        as_they_are = last == before + out and step != 1
        return _Grid(0, last, step, before, before + out + as_they_are)
    cut = start == int(start) and stop == int(stop) and stop - start >= _SMALL
    return _Grid(int(start), int(stop), step, 0, out) if cut else None
