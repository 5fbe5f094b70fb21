"""Weight gradients of convolutions as matrix products, for training on a CPU without AVX-512.

There oneDNN's kernels for them reach half the speed of its other passes, and take half of the time of a training step;
matrix products over unrolled windows are faster (docs/performance.md).

For output positions p of all images, output channels o, and k over the kernel's cells and input channels,

    dW[o, k] = Σ_p dY[p, o] · X[p, k]

with X the input's windows, unrolled (im2col: Chellapilla, Puri and Simard, IWFHR 2006) for a few images at a time.

Shapes: N images, C input and O output channels, H×W input, h×w output, K×L kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Where the products were measured to pay: channels on both sides, and cells of the input, or that many channels.
_CHANNELS, _CELLS, _MANY_CHANNELS = 64, 28 * 28, 192
_UNROLLED = 2**20  # numbers unrolled at a time: 4 MB stay in the cache for the product

Pair = tuple[int, int]


def use_matrix_products(network: nn.Module) -> int:
    """Let those convolutions of a network whose weight gradients gain by it compute them as matrix products, in place.

    Parameters, their names and the forward pass are untouched; gradients agree up to rounding. It concerns dense
    convolutions of at least 64 channels on both sides, and of them the passes over float32 images in channels-last on
    the CPU, 28×28 at least unless there are 192 channels, outside autocast and torch.compile; all others stay as they
    are. Returns how many layers were changed: none where the processor has AVX-512, for which oneDNN has better
    kernels, or is none of x86-64.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return 0
    chosen = [part for part in network.modules() if type(part) is nn.Conv2d and _gains(part)]
    for part in chosen:
        part.__class__ = Conv2d
    return len(chosen)


def _gains(part: nn.Conv2d) -> bool:
    dense = part.groups == 1 and part.padding_mode == "zeros" and not isinstance(part.padding, str)
    return dense and min(part.in_channels, part.out_channels) >= _CHANNELS


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` whose weight gradient is a matrix product where :func:`use_matrix_products` says so."""

    def forward(self, input: Tensor) -> Tensor:
        if not self._is_suitable(input):
            return super().forward(input)
        return _Convolution.apply(input, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def _is_suitable(self, input: Tensor) -> bool:
        large = input.shape[2:].numel() >= _CELLS
        return (
            (large or min(self.in_channels, self.out_channels) >= _MANY_CHANNELS)
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and input.device.type == "cpu"
            and input.dtype == self.weight.dtype == torch.float32
            and input.dim() == 4
            and input.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NCHW: Tensor,
        weight_OCKL: Tensor,
        bias_O: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
    ) -> Tensor:
        ctx.save_for_backward(x_NCHW, weight_OCKL)
        ctx.geometry = stride, padding, dilation
        ctx.biased = bias_O is not None
        return F.conv2d(x_NCHW, weight_OCKL, bias_O, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, grad_NOhw: Tensor) -> tuple[Tensor | None, ...]:
        x_NCHW, weight_OCKL = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        # To be differentiated once more, a gradient has to come from torch's own operator.
        own = wanted[1] and not torch.is_grad_enabled()
        sizes = [weight_OCKL.shape[0]] if ctx.biased else None
        stride, padding, dilation = ctx.geometry
        theirs = [wanted[0], wanted[1] and not own, wanted[2] and not own]
        gradients: list[Tensor | None] = [None, None, None]
        if any(theirs):
            gradients = list(
                torch.ops.aten.convolution_backward(
                    grad_NOhw, x_NCHW, weight_OCKL, sizes, stride, padding, dilation, False, [0, 0], 1, theirs
                )
            )
        if own:
            gradients[1] = weight_gradient(x_NCHW, grad_NOhw, weight_OCKL.shape[2:], *ctx.geometry)
            if wanted[2]:
                gradients[2] = grad_NOhw.sum((0, 2, 3))
        return (*gradients, None, None, None)


def weight_gradient(
    x_NCHW: Tensor,
    grad_NOhw: Tensor,
    kernel: tuple[int, ...],
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> Tensor:
    """Gradient of a dense convolution's weight: (O, C, K, L), in channels-last.

    ``grad_NOhw`` is that of its output. Any floating dtype and layout; fastest in channels-last.
    """
    x_NHWC = F.pad(
        x_NCHW.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0])
    ).contiguous()
    grad_NhwO = grad_NOhw.permute(0, 2, 3, 1).contiguous()
    (n, height, width, out), channels = grad_NhwO.shape, x_NHWC.shape[3]
    image, row, column, _ = x_NHWC.stride()
    windows = x_NHWC.as_strided(
        (n, height, width, *kernel, channels),
        (image, stride[0] * row, stride[1] * column, dilation[0] * row, dilation[1] * column, 1),
    )
    depth = channels * kernel[0] * kernel[1]
    step = max(1, min(n, _UNROLLED // (height * width * depth)))
    unrolled = x_NHWC.new_empty(step, *windows.shape[1:])
    total = x_NHWC.new_zeros(out, depth)
    for first in range(0, n, step):
        some = slice(first, first + step)
        part = unrolled[: min(step, n - first)].copy_(windows[some])
        total.addmm_(grad_NhwO[some].reshape(-1, out).t(), part.reshape(-1, depth))
    return total.view(out, *kernel, channels).permute(0, 3, 1, 2)
