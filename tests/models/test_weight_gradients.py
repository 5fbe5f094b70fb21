"""Weight gradients as matrix products: torch's own, wherever they stand in for it, and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cgc.gradcam import GradCAMModel
from cgc.methods.cgc import CGCMethod
from cgc.models import weight_gradients
from cgc.models.backbones import build_backbone
from cgc.models.weight_gradients import use_matrix_products, weight_gradient
from cgc.spatial import SpatialTransform


@pytest.fixture(autouse=True)
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor of this machine has."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def images(n: int = 2, channels: int = 64, size: tuple[int, int] = (29, 28), **kinds: Any) -> Tensor:
    x = torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(1), **kinds)
    return x.contiguous(memory_format=torch.channels_last)


def layer(*arguments: Any, **options: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*(arguments or (64, 72, 3)), **options).to(memory_format=torch.channels_last)


def by_products(part: nn.Module, x: Tensor) -> bool:
    name = type(part(x).grad_fn).__name__
    assert name.startswith(("_ConvolutionBackward", "ConvolutionBackward")), name
    return name.startswith("_")


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    channels_last=st.booleans(),
    unrolled=st.sampled_from([1, 500, 2**20]),
)
def test_the_gradient_is_torchs(
    n: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    channels_last: bool,
    unrolled: int,
) -> None:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 3, 8, 9, dtype=torch.float64, generator=generator)
    weight = torch.randn(2, 3, *kernel, dtype=torch.float64, generator=generator, requires_grad=True)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = F.conv2d(x.contiguous(memory_format=layout), weight, None, stride, padding, dilation)
    gradient = torch.randn(out.shape, dtype=torch.float64, generator=generator).contiguous(
        memory_format=layout
    )
    (expected,) = torch.autograd.grad(out, weight, gradient)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_gradients, "_UNROLLED", unrolled)
        found = weight_gradient(x, gradient, kernel, stride, padding, dilation)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wants_input", [True, False])
def test_a_layer_agrees_in_all_its_gradients(bias: bool, wants_input: bool) -> None:
    plain = layer(64, 72, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(2, 1), bias=bias)
    ours = copy.deepcopy(plain)
    assert use_matrix_products(ours) == 1
    assert by_products(ours, images())
    results = []
    for part in (plain, ours):
        x = images().requires_grad_(wants_input)
        out = part(x)
        out.square().sum().backward()
        results.append((out.detach(), x.grad, *(p.grad for p in part.parameters())))
    (out, given, *gradients), (our_out, our_given, *our_gradients) = results
    assert torch.equal(our_out, out)
    assert given is our_given is None if not wants_input else torch.equal(our_given, given)
    assert len(our_gradients) == 1 + bias
    for mine, theirs in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    assert our_gradients[0].stride() == ours.weight.stride()  # else the optimizer would copy it


def test_gradients_of_gradients() -> None:
    """Heatmaps of a head without a closed form are differentiated twice."""
    plain = layer(padding=1)
    ours = copy.deepcopy(plain)
    use_matrix_products(ours)
    seconds = []
    for part in (plain, ours):
        x = images().requires_grad_()
        first = torch.autograd.grad(part(x).pow(3).sum(), [x, part.weight], create_graph=True)
        seconds.append(torch.autograd.grad(sum(each.square().sum() for each in first), [x, part.weight]))
    for mine, theirs in zip(seconds[1], seconds[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    "part",
    [
        layer(63, 64, 3),
        layer(64, 63, 3),
        layer(64, 64, 3, groups=2),
        layer(64, 64, 3, padding="same"),
        layer(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(64, 64, 3),
        nn.Conv1d(64, 64, 3),
    ],
    ids=["few in", "few out", "groups", "same", "reflect", "transposed", "1d"],
)
def test_layers_that_are_left_alone(part: nn.Module) -> None:
    before = type(part)
    assert use_matrix_products(part) == 0
    assert type(part) is before


@pytest.mark.parametrize("capability", ["AVX512", "DEFAULT", "NO AVX"])
def test_other_processors_are_left_alone(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert use_matrix_products(layer()) == 0


def test_passes_that_are_left_alone() -> None:
    part = layer()
    use_matrix_products(part)
    assert by_products(part, images())
    assert not by_products(part, images(size=(27, 28)))
    many = layer(192, 192, 3)
    use_matrix_products(many)
    assert by_products(many, images(channels=192, size=(4, 4)))
    assert not by_products(part, images().contiguous())  # NCHW
    with torch.autocast("cpu", torch.bfloat16):
        assert part(images()).dtype == torch.bfloat16
    with torch.no_grad():
        assert part(images()).grad_fn is None
    part.weight.requires_grad_(False)
    assert not by_products(part, images().requires_grad_())
    assert not by_products(part.double(), images(dtype=torch.float64).requires_grad_())


def test_no_images_give_no_gradient() -> None:
    part = layer()
    use_matrix_products(part)
    part(images(0)).sum().backward()
    assert part.weight.grad is not None
    assert not part.weight.grad.any()


def test_a_whole_step_has_the_same_gradients_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_gradients, "_CELLS", 1)
    torch.manual_seed(0)
    plain = (
        GradCAMModel(build_backbone("resnet_tiny", 5)).to(memory_format=torch.channels_last).double().float()
    )
    ours = copy.deepcopy(plain)
    assert use_matrix_products(ours) == 4
    assert list(ours.state_dict()) == list(plain.state_dict())
    generator = torch.Generator().manual_seed(1)
    views = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    packed = SpatialTransform.sample(4, 32, generator=generator).pack()
    for model in (plain, ours):
        CGCMethod(model)(views, views, torch.arange(4), packed)["loss"].mean().backward()
    for (name, mine), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None, name
        assert theirs.grad is not None, name
        torch.testing.assert_close(
            mine.grad, theirs.grad, rtol=1e-4, atol=1e-4 * float(theirs.grad.abs().max())
        )
