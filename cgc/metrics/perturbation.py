"""What insertion and deletion share: blank images, the order of the pixels, and the scores of perturbed images.

Shapes: N images (C, H, W) as the network takes them (normalised), explanations (N, h, w) on any grid, K classes; B of
the perturbed images go through the network at once. Everything stays on the images' device; the host looks at values
once, to check them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from cgc.metrics.maps import bilinear, scaled_maps

Baseline = Literal["blur", "zero", "mean"]
Predict = Callable[[Tensor], Tensor]
KERNEL_SIDE, KERNEL_SIGMA = 11, 5.0


def pixel_ranks(explanations_Nhw: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(N, H, W) place of each pixel in decreasing order of its resized map; of equal ones the first in row-major order.

    The published evaluation also normalises the resized map to [0, 1], which changes no order and is left out: rounded,
    it could only create ties.
    """
    full_NHW = bilinear(scaled_maps(explanations_Nhw.detach()), image_size)
    order_NP = full_NHW.flatten(1).argsort(dim=1, descending=True, stable=True)
    places_NP = torch.arange(order_NP.shape[1], device=order_NP.device).expand_as(order_NP)
    return torch.empty_like(order_NP).scatter_(1, order_NP, places_NP).reshape(full_NHW.shape)


def blur_kernel() -> Tensor:
    """(11, 11), sums to 1: a Gaussian of σ 5 px on a unit impulse within 11×11, reflected at the edges (the edge pixel
    repeats), as in RISE's evaluation.
    """
    profile = _blur_profile()
    return torch.outer(profile, profile).float()


def blurred(images_NCHW: Tensor) -> Tensor:
    """Images under ``blur_kernel``, channel by channel, zeros around them; same shape and dtype.

    The kernel is an outer product: two passes of shifted sums, which no reduced-precision convolution mode touches.
    """
    profile, reach = _blur_profile().tolist(), KERNEL_SIDE // 2
    result = images_NCHW if images_NCHW.dtype == torch.float64 else images_NCHW.float()
    for dim, padding in ((-2, (0, 0, reach, reach)), (-1, (reach, reach))):
        padded, side = functional.pad(result, padding), result.shape[dim]
        result = torch.zeros_like(result)
        for shift, weight in enumerate(profile):
            result.add_(padded.narrow(dim, shift, side), alpha=weight)
    return result.to(images_NCHW.dtype)


def _blur_profile() -> Tensor:
    """(11,) float64: the kernel's one-dimensional factor. The Gaussian ends at 4 σ."""
    offsets = torch.arange(-int(4 * KERNEL_SIGMA), int(4 * KERNEL_SIGMA) + 1)
    weights = torch.exp(-0.5 * (offsets.double() / KERNEL_SIGMA) ** 2)
    # Reflected at both edges, places repeat every two sides, and the second side runs backwards.
    places = (KERNEL_SIDE // 2 + offsets) % (2 * KERNEL_SIDE)
    places = torch.minimum(places, 2 * KERNEL_SIDE - 1 - places)
    return torch.zeros(KERNEL_SIDE, dtype=torch.float64).index_add_(0, places, weights / weights.sum())


def blank_images(images_NCHW: Tensor, baseline: Baseline) -> Tensor:
    """What images are without their pixels, broadcastable to them: blurred, zero, or each channel's mean."""
    if baseline == "blur":
        return blurred(images_NCHW)
    if baseline == "mean":
        return images_NCHW.mean(dim=(2, 3), keepdim=True)
    return images_NCHW.new_zeros(len(images_NCHW), 1, 1, 1)


@torch.no_grad()
def perturbation_curve(
    predict: Predict,
    images_NCHW: Tensor,
    explanations_Nhw: Tensor,
    *,
    inserting: bool,
    target: Tensor | None,
    steps: int,
    baseline: Baseline,
    intact: Tensor | None,
    batch_size: int | None,
) -> Tensor:
    """``insertion_curve`` or ``deletion_curve``: see there."""
    _check_shapes(images_NCHW, explanations_Nhw, target, intact)
    _check_options(steps, baseline, batch_size)
    device, n, (height, width) = images_NCHW.device, len(images_NCHW), images_NCHW.shape[-2:]
    if n == 0:
        return torch.zeros(steps + 1, 0, device=device)
    at_once = batch_size or n
    if intact is None:
        intact = torch.cat([_probabilities(predict, part, 0) for part in torch.split(images_NCHW, at_once)])
    highest = _check_values(explanations_Nhw, target, intact)
    intact = intact.to(device)
    target_N = intact.argmax(dim=1) if target is None else target.to(device)
    intact_N = intact if intact.ndim == 1 else intact.gather(1, target_N[:, None])[:, 0]
    ranks_NHW = pixel_ranks(explanations_Nhw.to(device), (height, width))
    blank_NCHW = blank_images(images_NCHW, baseline)
    scores = []
    # Every step of every image, but for the one that leaves it intact, is one line of work cut into batches.
    for work_B in torch.split(torch.arange(n * steps, device=device), at_once):
        owner_B, step_B = work_B % n, work_B // n + (0 if inserting else 1)
        count_B = (2 * step_B * height * width + steps) // (2 * steps)
        first_B1HW = (ranks_NHW[owner_B] < count_B[:, None, None])[:, None]
        perturbed_BCHW = torch.where(
            first_B1HW if inserting else ~first_B1HW, images_NCHW[owner_B], blank_NCHW[owner_B]
        )
        probabilities_BK = _probabilities(predict, perturbed_BCHW, highest).to(device)
        scores.append(probabilities_BK.gather(1, target_N[owner_B][:, None])[:, 0])
    perturbed_SN = torch.cat(scores).reshape(steps, n)
    intact_1N = intact_N[None].to(perturbed_SN)
    return torch.cat((perturbed_SN, intact_1N) if inserting else (intact_1N, perturbed_SN))


def _probabilities(predict: Predict, images_BCHW: Tensor, highest_class: int) -> Tensor:
    found = predict(images_BCHW)
    if found.ndim != 2 or len(found) != len(images_BCHW):
        raise ValueError(f"predict made {tuple(found.shape)} of {len(images_BCHW)} images, not (B, K)")
    if highest_class >= found.shape[1]:
        raise ValueError(f"target {highest_class} is none of {found.shape[1]} classes")
    return found if found.dtype == torch.float64 else found.float()


def _check_shapes(
    images_NCHW: Tensor, explanations_Nhw: Tensor, target: Tensor | None, intact: Tensor | None
) -> None:
    n, shape = len(images_NCHW), tuple(explanations_Nhw.shape)
    if images_NCHW.ndim != 4 or not images_NCHW.is_floating_point():
        raise ValueError(
            f"images are floats (N, C, H, W), not {images_NCHW.dtype} {tuple(images_NCHW.shape)}"
        )
    if len(shape) != 3 or shape[0] != n or 0 in shape[1:]:
        raise ValueError(f"explanations of {n} images are ({n}, h, w), not {shape}")
    if target is not None and tuple(target.shape) != (n,):
        raise ValueError(f"targets of {n} images are ({n},), not {tuple(target.shape)}")
    if intact is not None and (intact.ndim not in (1, 2) or len(intact) != n):
        raise ValueError(f"intact of {n} images is ({n}, K) or ({n},), not {tuple(intact.shape)}")
    if intact is not None and intact.ndim == 1 and target is None:
        raise ValueError("intact (N,) holds the probabilities of the targets: give the targets too")


def _check_options(steps: int, baseline: str, batch_size: int | None) -> None:
    if baseline not in get_args(Baseline):
        raise ValueError(f"baseline must be one of {', '.join(get_args(Baseline))}, not {baseline!r}")
    if steps < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"steps and batch_size must be at least 1, not {steps} and {batch_size}")


def _check_values(explanations_Nhw: Tensor, target: Tensor | None, intact: Tensor) -> int:
    """What only the values tell, fetched at once; returns the highest target class."""
    # NaN of a network passes, it is a finding: the image's scores are NaN.
    improbable = ((intact < 0) | (intact > 1 + 1e-3)).any()
    lowest, highest = (intact.new_zeros(()),) * 2 if target is None else torch.aminmax(target)
    finite = torch.isfinite(explanations_Nhw).all()
    found = [each.to(intact.device, torch.int64) for each in (finite, improbable, lowest, highest)]
    is_finite, is_improbable, low, high = torch.stack(found).tolist()
    if not is_finite:
        raise ValueError("an explanation is not finite")
    if is_improbable:
        raise ValueError("predict must return probabilities, in [0, 1]")
    if low < 0 or (intact.ndim == 2 and high >= intact.shape[1]):
        raise ValueError(f"target {low if low < 0 else high} is none of {intact.shape[-1]} classes")
    return int(high)
