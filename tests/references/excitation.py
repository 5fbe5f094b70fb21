"""Excitation backprop written out: dense matrices, one image, one window position at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-20


class TinyResidual(nn.Module):
    """Every kind of layer that has a rule; the layer explained is ``stem``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.conv1 = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(4, 4, 1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=1, padding=1)
        self.conv2 = nn.Conv2d(4, 5, 2)
        self.avgpool = nn.AvgPool2d(2, stride=1)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        out = self.bn1(self.conv1(x))
        out += self.shortcut(x)
        out = self.relu(self.conv2(self.maxpool(self.relu(out))))
        return self.fc(torch.flatten(self.gap(self.avgpool(out)), 1))


def dense_convolution(
    weight: Tensor, shape: tuple[int, ...], stride: int, padding: int, groups: int
) -> Tensor:
    """The matrix (outputs, inputs) of a convolution of images of ``shape`` (C, H, W)."""
    channels, height, width = shape
    outputs, per_group, kh, kw = weight.shape
    out_h, out_w = (height + 2 * padding - kh) // stride + 1, (width + 2 * padding - kw) // stride + 1
    matrix = torch.zeros(outputs * out_h * out_w, channels * height * width, dtype=weight.dtype)
    for o in range(outputs):
        group = o // (outputs // groups)
        for y in range(out_h):
            for x in range(out_w):
                for i in range(per_group):
                    for dy in range(kh):
                        for dx in range(kw):
                            row, column = y * stride - padding + dy, x * stride - padding + dx
                            if 0 <= row < height and 0 <= column < width:
                                source = ((group * per_group + i) * height + row) * width + column
                                matrix[(o * out_h + y) * out_w + x, source] += weight[o, i, dy, dx]
    return matrix


def dense_average_pool(shape: tuple[int, ...], kernel: tuple[int, int]) -> Tensor:
    """The matrix of an average pool with stride 1."""
    channels = shape[0]
    weight = torch.zeros(channels, channels, *kernel, dtype=torch.float64)
    for c in range(channels):
        weight[c, c] = 1 / (kernel[0] * kernel[1])
    return dense_convolution(weight, shape, 1, 0, 1)


def excite(matrix: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
    """x_i sum_j W+_ji r_j / (sum_k W+_jk x_k + 1e-20), without the bias."""
    positive = matrix.clamp(min=0)
    return (x.flatten() * (positive.T @ (relevance.flatten() / (positive @ x.flatten() + EPSILON)))).view_as(
        x
    )


def max_pool_relevance(x: Tensor, relevance: Tensor, kernel: int, padding: int) -> Tensor:
    """All of a window's relevance to its first largest cell."""
    result = torch.zeros_like(x)
    channels, height, width = x.shape
    for c in range(channels):
        for row in range(relevance.shape[1]):
            for column in range(relevance.shape[2]):
                cells = [
                    (y, z)
                    for y in range(max(row - padding, 0), min(row - padding + kernel, height))
                    for z in range(max(column - padding, 0), min(column - padding + kernel, width))
                ]
                y, z = max(cells, key=lambda cell: float(x[c, cell[0], cell[1]]))
                if x[c, y, z] > 0:
                    result[c, y, z] += relevance[c, row, column]
    return result


def explain(net: TinyResidual, image: Tensor, target: int, *, contrastive: bool, window: int = 7) -> Tensor:
    """The map (H, W) at ``stem`` for an image (3, H, W) in float64, batch norm in eval mode."""
    batch = image[None]
    x0 = net.stem(batch)
    a, b = net.bn1(net.conv1(x0)), net.shortcut(x0)
    x1 = torch.relu(a + b)
    x2 = net.maxpool(x1)
    x3 = torch.relu(net.conv2(x2))
    x4 = net.avgpool(x3)
    x0, a, b, x1, x2, x3, x4 = (each[0] for each in (x0, a, b, x1, x2, x3, x4))

    kernel = (min(window, x4.shape[1]), min(window, x4.shape[2]))
    pool = dense_average_pool(tuple(x4.shape), kernel)
    grid = (5, x4.shape[1] - kernel[0] + 1, x4.shape[2] - kernel[1] + 1)
    pooled = (pool @ x4.flatten()).view(grid)
    scores = torch.zeros(grid[1:], dtype=torch.float64)
    for row in range(grid[1]):
        for column in range(grid[2]):
            scores[row, column] = net.fc.weight[target] @ pooled[:, row, column] + net.fc.bias[target]
    start = torch.exp(scores) / torch.exp(scores).sum()

    r = torch.zeros(grid, dtype=torch.float64)
    for row in range(grid[1]):
        for column in range(grid[2]):
            unit = torch.zeros(4, dtype=torch.float64)
            unit[target] = start[row, column]
            r[:, row, column] = excite(net.fc.weight, pooled[:, row, column], unit)
            if contrastive:
                r[:, row, column] -= excite(-net.fc.weight, pooled[:, row, column], unit)
    r = excite(pool, x4, r)
    r = excite(dense_average_pool(tuple(x3.shape), (2, 2)), x3, r) * (x3 > 0)
    r = excite(dense_convolution(net.conv2.weight, tuple(x2.shape), 1, 0, 1), x2, r)
    r = max_pool_relevance(x1, r, 3, 1) * (x1 > 0)
    total = a + b + EPSILON
    through_conv = excite(dense_convolution(net.conv1.weight, tuple(x0.shape), 2, 1, 2), x0, r * a / total)
    through_shortcut = excite(
        dense_convolution(net.shortcut.weight, tuple(x0.shape), 2, 0, 1), x0, r * b / total
    )
    return (through_conv + through_shortcut).sum(dim=0).clamp(min=0)
