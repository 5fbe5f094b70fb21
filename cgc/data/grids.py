"""Composite images: a 2×2 grid of an image and three distractors, made on the device for the whole batch at once.

Shapes: N batch, S image side, K categories, M images whose distractors come from elsewhere. Cells of a grid are
numbered 0..3 row-major; distractors fill the free ones in order.

Source: Explainable Models with Consistent Interpretations (GC, AAAI 2021): three images of other categories, each with
a random crop and flip of its own. Ours: the other images of the batch serve as distractors, so that nothing is decoded
twice.

Everything that is drawn comes from a CPU generator, and nothing is read back from the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DISTRACTORS = 3


def of_other_classes(labels: Tensor) -> Tensor:
    """(N, N) bool for labels (N,): whether image m (column) may be a distractor of image n (row)."""
    return labels[:, None] != labels


def without_category(labels: Tensor, category: Tensor) -> Tensor:
    """(N, N) bool for labels (N, K) bool: whether image m (column) lacks the ``category`` (N,) of image n (row)."""
    return ~labels.bool()[:, category].T


def draw_categories(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For labels (N, K) bool: one of each image's categories, drawn evenly, (N,); and whether it has any, (N,) bool.

    The category of an image without any is 0.
    """
    draws_NK = torch.rand(labels.shape, generator=generator).to(labels.device, non_blocking=True)
    largest, category_N = draws_NK.masked_fill(~labels.bool(), -1.0).max(dim=1)
    labelled_N = largest >= 0
    return category_N * labelled_N, labelled_N


def draw_quadrants(n: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """(N,) int64 in 0..3."""
    return torch.randint(4, (n,), generator=generator).to(device, non_blocking=True)


def lacking_distractors(admissible: Tensor) -> Tensor:
    """(N,) bool: which images the batch cannot give three distractors, so that they must come from elsewhere.

    The same for every draw, so a loader that knows the labels of a batch can tell beforehand.
    """
    return admissible.sum(dim=1) < DISTRACTORS


def choose_distractors(admissible: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Three different images of the batch for each image, evenly among the admissible ones and in random order.

    ``admissible`` (N, N) bool: see :func:`of_other_classes` and :func:`without_category`.

    Returns indices (N, 3) and (N,) bool: whether there were three. Where there were fewer, one of them is repeated, and
    where there was none, the image itself: such a grid can be looked at, not learnt from.
    """
    n, device = len(admissible), admissible.device
    draws_NN = torch.rand(n, n, generator=generator).to(device, non_blocking=True)
    scores_NN = draws_NN.masked_fill(~admissible, -1.0)
    best_N3, index_N3 = F.pad(scores_NN, (0, max(0, DISTRACTORS - n)), value=-1.0).topk(DISTRACTORS, dim=1)
    found_N3 = best_N3 >= 0
    own_N1 = torch.arange(n, device=device)[:, None]
    fallback_N1 = torch.where(found_N3[:, :1], index_N3[:, :1], own_N1)
    return torch.where(found_N3, index_N3, fallback_N1), found_N3[:, -1]


def compose_grids(
    images: Tensor,
    distractors: Tensor,
    quadrant: Tensor,
    *,
    given: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Composites (N, C, 2S, 2S) of ``images`` (N, C, S, S), in their dtype, memory format and on their device.

    Args:
        distractors: (N, 3) indices of images of the batch.
        quadrant: (N,) the cell of the image itself, 0..3.
        given: (M, 3, C, S, S) distractors from elsewhere, which replace those of images ``rows``.
        rows: (M,) images that have given distractors; None: all of them, in order.

    Raises ValueError for shapes that do not fit and, on the CPU, for a quadrant outside 0..3.
    """
    _check(images, distractors, quadrant, given, rows)
    n, c, s, _ = images.shape
    device = images.device
    pool = images
    if given is not None:
        pool = torch.cat([images, given.flatten(0, 1)])
        numbers_M3 = torch.arange(n, len(pool), device=device).view(-1, DISTRACTORS)
        distractors = numbers_M3 if rows is None else distractors.index_copy(0, rows, numbers_M3)
    sources_N4 = torch.cat([torch.arange(n, device=device)[:, None], distractors], dim=1)
    # Column of `sources` that goes into a cell: 0 into the quadrant, 1, 2 and 3 into the others in order.
    cells, own_N1 = torch.arange(4, device=device), quadrant[:, None]
    column_N4 = (cells != own_N1) * (cells + (cells < own_N1))
    image_N4 = sources_N4.gather(1, column_N4)
    nhwc = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    layout = torch.channels_last if nhwc else torch.contiguous_format
    grids = torch.empty((n, c, 2 * s, 2 * s), dtype=images.dtype, device=device, memory_format=layout)
    for cell in range(4):
        top, left = s * (cell // 2), s * (cell % 2)
        grids[:, :, top : top + s, left : left + s] = pool[image_N4[:, cell]]
    return grids


def _check(
    images: Tensor, distractors: Tensor, quadrant: Tensor, given: Tensor | None, rows: Tensor | None
) -> None:
    n, shape = len(images), tuple(images.shape)
    if images.dim() != 4 or shape[2] != shape[3]:
        raise ValueError(f"images must be (N, C, S, S), got {shape}")
    if tuple(distractors.shape) != (n, DISTRACTORS) or tuple(quadrant.shape) != (n,):
        raise ValueError(
            f"{n} images need distractors ({n}, {DISTRACTORS}) and quadrants ({n},), "
            f"got {tuple(distractors.shape)} and {tuple(quadrant.shape)}"
        )
    if quadrant.device.type == "cpu" and bool(((quadrant < 0) | (quadrant > 3)).any()):
        raise ValueError(f"quadrants are 0..3, got {quadrant.tolist()}")
    if given is None:
        if rows is not None:
            raise ValueError("rows name images with given distractors, but none are given")
        return
    wanted = (n if rows is None else len(rows), DISTRACTORS, *shape[1:])
    if tuple(given.shape) != wanted or given.dtype != images.dtype:
        raise ValueError(
            f"given distractors must be {images.dtype} {wanted}, got {given.dtype} {tuple(given.shape)}"
        )
