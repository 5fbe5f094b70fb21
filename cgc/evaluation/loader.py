"""What loading processes prepare for the evaluation: views, regions and the scores of trivial maps.

Legend: a batch has N images of one resized size and M rows (image, class), M ≥ N; ``owners`` maps rows to images. G
rows whose images are alike in size share a frame (H, W), and are scored together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cgc.data.boxed_views import ImageViews, ViewSizes, check_size, decode_views, resized, size_batches
from cgc.data.boxes import BoxedImage
from cgc.data.decode import UnreadableImage
from cgc.data.workers import worker_options
from cgc.engine.transfer import to_device
from cgc.explainers.stored import MapProblem
from cgc.metrics.baselines import centre_gaussian_map
from cgc.metrics.maps import mass_inside, near_region, peak, region_mask
from cgc.metrics.pointing_game import scaled_tolerance

_PIXELS_AT_ONCE = 2**25

# A map from elsewhere for one row, (h, w); raises MapProblem.
LoadMap = Callable[[BoxedImage], Tensor]


class Failure(NamedTuple):
    """A row that cannot be scored."""

    row: int
    reason: str
    what: str


class Frame(NamedTuple):
    """Rows whose images are scored together, each top left in a frame (H, W) that holds the largest of them.

    Positions in the batch; ``sizes`` (height, width) of the images; regions (G, H, W) bool, false outside of the image;
    ``uniform_G3`` and ``gaussian_G3``, CH, PG and SPG of the trivial maps, float64; ``tolerances`` in pixels.
    """

    size: tuple[int, int]
    positions: list[int]
    sizes: list[tuple[int, int]]
    inside_GHW: Tensor
    near_GHW: Tensor
    uniform_G3: Tensor
    gaussian_G3: Tensor
    tolerances: list[float]


class _Layout(NamedTuple):
    """A frame in a packed batch."""

    size: tuple[int, int]
    positions: list[int]
    sizes: list[tuple[int, int]]
    tolerances: list[float]


class EvaluationBatch(NamedTuple):
    """Views (N, 3, h, w) uint8 in channels_last, or None; see the legend above for the rest.

    Regions and stored maps of all sizes lie one after the other in one tensor each: every tensor that comes from
    another process is a file of its own, and files are few.
    """

    views: ImageViews
    images: int
    rows: list[int]
    owners: list[int]
    failed: list[Failure]
    layouts: list[_Layout]
    regions: Tensor  # bool: of each frame the insides (G, H, W), then what is near (G, H, W)
    trivial_M23: Tensor  # float64: uniform and Gaussian, CH, PG and SPG; in the order of the frames
    maps: Tensor  # float32
    map_sizes: list[tuple[int, int]]

    def frames(self, device: torch.device | None = None) -> list[Frame]:
        """The rows that are scored together, their regions on the device."""
        regions = self.regions if device is None else to_device(self.regions, device)
        frames, start, row = [], 0, 0
        for size, positions, sizes, tolerances in self.layouts:
            count, area = len(positions), size[0] * size[1]
            inside, near = regions[start : start + 2 * count * area].view(2, count, *size)
            uniform, gaussian = self.trivial_M23[row : row + count].unbind(1)
            frames.append(Frame(size, positions, sizes, inside, near, uniform, gaussian, tolerances))
            start, row = start + 2 * count * area, row + count
        return frames

    def stored(self) -> list[Tensor]:
        """The rows' maps from elsewhere, if there are any."""
        ends = list(accumulate(h * w for h, w in self.map_sizes))
        starts = [0, *ends[:-1]]
        return [
            self.maps[start:end].view(size)
            for start, end, size in zip(starts, ends, self.map_sizes, strict=False)
        ]


class _Region(NamedTuple):
    inside_HW: Tensor
    near_HW: Tensor
    uniform_3: Tensor
    gaussian_3: Tensor
    tolerance: float


class _Row(NamedTuple):
    row: int
    region: _Region | None
    stored: Tensor | None


class _Item(NamedTuple):
    size: tuple[int, int]
    views: ImageViews
    rows: list[_Row]
    failed: list[Failure]


@dataclass(frozen=True)
class Preparation:
    """What a worker does for an image. ``tolerance`` None: by the image's size; ``load_map`` None: no stored maps."""

    views: ViewSizes
    localise: bool = True
    tolerance: float | None = None
    load_map: LoadMap | None = None


class EvaluationSet(Dataset[_Item]):
    """Item i: the i-th image of the list with all of its rows, which stand next to each other."""

    def __init__(self, images: Sequence[BoxedImage], preparation: Preparation) -> None:
        self.images, self.preparation = images, preparation
        self.starts = image_starts(images)

    def __len__(self) -> int:
        return len(self.starts)

    def sizes(self) -> list[tuple[int, int]]:
        """Size of each image, as the network sees it if it sees the full view."""
        side = self.preparation.views.shorter_side
        found = [self.images[start].size for start, _ in self.starts]
        return [(0, 0)] * len(found) if side is None else [resized(size, side) for size in found]

    def __getitem__(self, index: int) -> _Item:
        start, stop = self.starts[index]
        first = self.images[start]
        nothing = ImageViews(None, None, None)
        try:
            views = nothing
            if self.preparation.views == ViewSizes():
                check_size(first.path, first.size)
            else:
                views = decode_views(first.path, first.size, self.preparation.views)
        except UnreadableImage as error:
            failed = [Failure(row, "unreadable image", str(error)) for row in range(start, stop)]
            return _Item(first.size, nothing, [], failed)
        rows = [self._row(row) for row in range(start, stop)]
        return _Item(
            first.size,
            views,
            [row for row in rows if isinstance(row, _Row)],
            [row for row in rows if isinstance(row, Failure)],
        )

    def _row(self, row: int) -> _Row | Failure:
        image, preparation = self.images[row], self.preparation
        try:
            stored = None if preparation.load_map is None else preparation.load_map(image).float()
            region = _region(image, preparation.tolerance) if preparation.localise else None
        except MapProblem as error:
            return Failure(row, error.reason, error.what)
        except (ValueError, OSError) as error:
            return Failure(row, "unusable region", f"{image.path}: {error}")
        return _Row(row, region, stored)


def image_starts(images: Sequence[BoxedImage]) -> list[tuple[int, int]]:
    """(first row, one past the last) of each image: rows of one path that stand next to each other."""
    starts = [i for i in range(len(images)) if i == 0 or images[i].path != images[i - 1].path]
    return list(pairwise([*starts, len(images)]))


def _region(image: BoxedImage, tolerance: float | None) -> _Region:
    """Region, what lies within reach of it, and what the uniform and the Gaussian map score there."""
    size = image.size
    tolerance = scaled_tolerance(size) if tolerance is None else tolerance
    region = image.region
    inside_HW, near_HW = region_mask(region, size), near_region(region, size, tolerance)
    # A uniform map's first largest pixel is the first one.
    uniform = [inside_HW.double().mean(), near_HW[0, 0].double(), near_HW.double().mean()]
    full_HW = centre_gaussian_map(size)
    gaussian = [mass_inside(full_HW, inside_HW), float(near_HW[peak(full_HW)]), mass_inside(full_HW, near_HW)]
    return _Region(inside_HW, near_HW, torch.stack(uniform), torch.tensor(gaussian).double(), tolerance)


def _collate(items: Sequence[_Item]) -> EvaluationBatch:
    kept = [item for item in items if item.rows]
    rows = [row for item in kept for row in item.rows]
    owners = [owner for owner, item in enumerate(kept) for _ in item.rows]
    stored = [row.stored for row in rows if row.stored is not None]
    layouts, regions, trivial_M23 = _packed(rows, [kept[owner].size for owner in owners])
    return EvaluationBatch(
        views=ImageViews(
            *(_stacked([getattr(item.views, name) for item in kept]) for name in ImageViews._fields)
        ),
        images=len(items),
        rows=[row.row for row in rows],
        owners=owners,
        layouts=layouts,
        regions=regions,
        trivial_M23=trivial_M23,
        maps=torch.cat([map_hw.flatten() for map_hw in stored]) if stored else torch.empty(0),
        map_sizes=[(map_hw.shape[0], map_hw.shape[1]) for map_hw in stored],
        failed=[failure for item in items for failure in item.failed],
    )


def _stacked(views: Sequence[Tensor | None]) -> Tensor | None:
    present = [view for view in views if view is not None]
    return torch.stack(present).permute(0, 3, 1, 2) if present else None


def _packed(rows: Sequence[_Row], sizes: Sequence[tuple[int, int]]) -> tuple[list[_Layout], Tensor, Tensor]:
    layouts, masks, trivial = [], [], []
    for size, positions in _framed([None if row.region is None else sizes[m] for m, row in enumerate(rows)]):
        regions = [region for m in positions if (region := rows[m].region) is not None]
        own = [sizes[m] for m in positions]
        layouts.append(_Layout(size, positions, own, [region.tolerance for region in regions]))
        framed = torch.zeros(2, len(positions), *size, dtype=torch.bool)
        for g, (region, (height, width)) in enumerate(zip(regions, own, strict=True)):
            framed[0, g, :height, :width] = region.inside_HW
            framed[1, g, :height, :width] = region.near_HW
        masks.append(framed.flatten())
        trivial += [torch.stack([region.uniform_3, region.gaussian_3]) for region in regions]
    if not layouts:
        return [], torch.empty(0, dtype=torch.bool), torch.empty(0, 2, 3, dtype=torch.float64)
    return layouts, torch.cat(masks), torch.stack(trivial)


def _framed(
    sizes: Sequence[tuple[int, int] | None],
) -> list[tuple[tuple[int, int], list[int]]]:
    """Positions in frames: few, as each costs a device as many calls as any other, but none much larger than its
    images nor larger than memory likes.

    >>> _framed([(30, 40), (300, 400), None, (40, 30), (28, 40)])
    [((300, 400), [1]), ((40, 40), [0, 3, 4])]
    """
    ordered = sorted(
        ((size, m) for m, size in enumerate(sizes) if size is not None),
        key=lambda each: -each[0][0] * each[0][1],
    )
    frames: list[tuple[tuple[int, int], list[int]]] = []
    for (height, width), m in ordered:
        if frames:
            (frame_height, frame_width), members = frames[-1]
            frame = (max(frame_height, height), max(frame_width, width))
            area = frame[0] * frame[1]
            if area <= 2 * height * width and area * (len(members) + 1) <= _PIXELS_AT_ONCE:
                frames[-1] = (frame, [*members, m])
                continue
        frames.append(((height, width), [m]))
    return frames


def evaluation_loader(
    images: Sequence[BoxedImage],
    preparation: Preparation,
    *,
    batch_size: int,
    workers: int = 0,
    pin_memory: bool = False,
    share: slice = slice(None),
) -> DataLoader[_Item]:
    """Loader of `EvaluationBatch`: every image once, batches of one resized size; of these the ``share``.

    Whole batches are shared between processes, not images: in a batch of another size a network's arithmetic may round
    otherwise, and a map that differs in its last digit can change the order in which insertion shows its pixels.
    """
    dataset = EvaluationSet(images, preparation)
    originals = [images[start].size for start, _ in dataset.starts]
    return DataLoader(
        dataset,
        batch_sampler=size_batches(dataset.sizes(), batch_size, originals)[share],
        **worker_options(workers),
        collate_fn=_collate,
        pin_memory=pin_memory,
    )
