"""Random crop, resize and flip: drawn once, replayed on images and on heatmaps.

Shapes: N batch, C channels, S side of the square training image, h×w feature grid.

A view is augmented by ``x -> flip(resize(crop(x)))``. Bilinear resizing is linear and separable, so the same
transform of an *upsampled heatmap* ``U_r M U_cᵀ`` (M on the h×w grid, U the S×h and S×w bilinear upsampling
matrices) is ``P_r M P_cᵀ`` with small matrices P. Images and heatmaps read their sampling positions from the same
place (:meth:`SpatialTransform.positions`), so they cannot disagree, and the losses never build an S×S map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

_TRIES = (
    10  # as many rejected draws as torchvision's RandomResizedCrop before it falls back to a central crop
)


def crop_parameters(
    n: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw ``n`` random-resized crops of a ``height``×``width`` image.

    The rule is RandomResizedCrop's: area uniform in ``scale`` (share of the image), aspect ratio log-uniform in
    ``ratio``, the first of ten draws that fits, else the largest central crop within ``ratio``.

    Returns ``(top, left, height, width)``, int64 tensors of shape (n,) on the CPU, in pixels.

    >>> top, left, h, w = crop_parameters(5, 30, 40, generator=torch.Generator().manual_seed(0))
    >>> bool(((top >= 0) & (left >= 0) & (top + h <= 30) & (left + w <= 40)).all())
    True
    """
    if n < 0 or height < 1 or width < 1:
        raise ValueError(f"crop_parameters needs n >= 0 and a non-empty image, got {n}, {height}x{width}")
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(
            f"scale must lie in (0, 1] and ratio be positive, both increasing: got {scale}, {ratio}"
        )
    draws = torch.rand(4, n, _TRIES, dtype=torch.float64, generator=generator)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(log_low + (log_high - log_low) * draws[1])
    w_tries = torch.sqrt(area * aspect).round().long()
    h_tries = torch.sqrt(area / aspect).round().long()
    fits = (w_tries > 0) & (w_tries <= width) & (h_tries > 0) & (h_tries <= height)
    first = fits.long().argmax(dim=1, keepdim=True)
    any_fits = fits.any(dim=1)

    fallback_h, fallback_w = height, width
    if width / height < ratio[0]:
        fallback_h = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        fallback_w = min(width, round(height * ratio[1]))
    h = torch.where(any_fits, h_tries.gather(1, first)[:, 0], fallback_h)
    w = torch.where(any_fits, w_tries.gather(1, first)[:, 0], fallback_w)
    top = (draws[2].gather(1, first)[:, 0] * (height - h + 1)).long()
    left = (draws[3].gather(1, first)[:, 0] * (width - w + 1)).long()
    top = torch.where(any_fits, top, (height - fallback_h) // 2)
    left = torch.where(any_fits, left, (width - fallback_w) // 2)
    return top, left, h, w


def upsampling_matrix(size: int, cells: int, like: Tensor) -> Tensor:
    """The (size, cells) matrix of bilinear interpolation with ``align_corners=False``; its rows sum to 1.

    ``like`` gives device and dtype.
    """
    step = torch.arange(size, device=like.device, dtype=like.dtype)
    position = ((step + 0.5) * (cells / size) - 0.5).clamp(0, cells - 1)
    cell = torch.arange(cells, device=like.device, dtype=like.dtype)
    return (1 - (position[:, None] - cell).abs()).clamp(min=0)


@dataclass(frozen=True)
class SpatialTransform:
    """Crop ``[top, top+height) × [left, left+width)`` of a size×size image, resize it back to size×size, flip.

    ``top, left, height, width`` (N,) integers in pixels, ``hflip`` (N,) bool, one entry per sample; ``size`` the side
    of the square image. The resize is bilinear with ``align_corners=False`` and reads nothing outside the crop.

    Source: CGC (CVPR 2022), section 3; the released code draws the flips of image and map apart, here they share one.

    Raises ValueError for shapes that differ and for crops that leave the image. Values are checked on the CPU only,
    since reading them back from a GPU would stall it.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    hflip: Tensor
    size: int

    def __post_init__(self) -> None:
        tensors = [getattr(self, f.name) for f in fields(self) if f.name != "size"]
        shapes = {tuple(t.shape) for t in tensors}
        if len(shapes) != 1 or self.top.dim() != 1:
            raise ValueError(f"SpatialTransform takes tensors of one shape (N,), got {sorted(shapes)}")
        if self.size < 1:
            raise ValueError(f"SpatialTransform needs size >= 1, got {self.size}")
        if self.top.device.type == "cpu":
            for start, extent, name in ((self.top, self.height, "rows"), (self.left, self.width, "columns")):
                if bool(((start < 0) | (extent < 1) | (start + extent > self.size)).any()):
                    raise ValueError(f"a crop's {name} leave the {self.size}×{self.size} image")

    @classmethod
    def sample(
        cls,
        n: int,
        size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        generator: torch.Generator | None = None,
    ) -> SpatialTransform:
        """Draw ``n`` transforms on the CPU: a crop by :func:`crop_parameters`, a flip with probability ½."""
        crops = crop_parameters(n, size, size, scale=scale, ratio=ratio, generator=generator)
        return cls(*crops, hflip=torch.rand(n, generator=generator) < 0.5, size=size)

    @classmethod
    def identity(cls, n: int, size: int) -> SpatialTransform:
        """``n`` transforms that change nothing."""
        zero, full = torch.zeros(n, dtype=torch.int64), torch.full((n,), size)
        return cls(zero, zero, full, full, torch.zeros(n, dtype=torch.bool), size)

    def pack(self) -> Tensor:
        """The parameters as one int64 tensor (N, 5): one copy to the device, and DataParallel can scatter it."""
        return torch.stack([self.top, self.left, self.height, self.width, self.hflip], dim=1).long()

    @classmethod
    def unpack(cls, packed_N5: Tensor, size: int) -> SpatialTransform:
        """Inverse of :meth:`pack`."""
        top, left, height, width, hflip = packed_N5.unbind(dim=1)
        return cls(top, left, height, width, hflip.bool(), size)

    def positions(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Where each output row and column reads the image: two (N, S) tensors of fractional pixel indices."""
        step = torch.arange(self.size, device=self.top.device, dtype=dtype) + 0.5

        def along(start_N: Tensor, extent_N: Tensor) -> Tensor:
            extent_N1 = extent_N[:, None].to(dtype)
            within = (step * (extent_N1 / self.size) - 0.5).clamp(min=0)
            return start_N[:, None] + torch.minimum(within, extent_N1 - 1)

        rows, columns = along(self.top, self.height), along(self.left, self.width)
        return rows, torch.where(self.hflip[:, None], columns.flip(1), columns)

    def __call__(self, x: Tensor) -> Tensor:
        """Transform images (N, C, S, S) or maps (N, S, S), floating point; the result has the same shape and dtype."""
        if x.dim() == 3:
            return self(x[:, None])[:, 0]
        n, size = len(self.top), self.size
        if x.dim() != 4 or x.shape[0] != n or x.shape[-2:] != (size, size):
            raise ValueError(f"the transform is for ({n}, ..., {size}, {size}), got {tuple(x.shape)}")
        rows_NS, columns_NS = self.positions(torch.float64 if x.dtype == torch.float64 else torch.float32)
        # grid_sample counts from -1 to 1 between the outer edges of the outer pixels.
        grid_NSS2 = torch.stack(
            [
                ((columns_NS * 2 + 1) / size - 1)[:, None, :].expand(n, size, size),
                ((rows_NS * 2 + 1) / size - 1)[:, :, None].expand(n, size, size),
            ],
            dim=-1,
        )
        grid_NSS2 = grid_NSS2.to(x.dtype)
        return F.grid_sample(x, grid_NSS2, mode="bilinear", padding_mode="border", align_corners=False)

    def map_matrices(self, h: int, w: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """``P_r`` (N, S, h) and ``P_c`` (N, S, w): transform(upsample(M)) = P_r M P_cᵀ for a map M on the h×w grid."""
        rows_NS, columns_NS = self.positions(like.dtype)
        last = self.size - 1

        def replay(positions_NS: Tensor, up_SK: Tensor) -> Tensor:
            below = positions_NS.floor()
            first = below.long()
            return torch.lerp(
                up_SK[first], up_SK[(first + 1).clamp(max=last)], (positions_NS - below)[..., None]
            )

        return (
            replay(rows_NS, upsampling_matrix(self.size, h, like)),
            replay(columns_NS, upsampling_matrix(self.size, w, like)),
        )
