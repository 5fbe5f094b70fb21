"""One optimisation step: parts add up, and what a part is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cgc.engine.step import OptimizerStep, cut_batch

CPU = torch.device("cpu")


class _Method(nn.Module):
    """Linear regression of rows of 3, and, with ``contrast``, a term that depends on which rows meet."""

    def __init__(self, contrast: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1).double()
        self.contrast = contrast
        self.seen: list[int] = []

    def forward(self, x_N3: Tensor, y_N: Tensor) -> dict[str, Tensor]:
        self.seen.append(len(x_N3))
        out_N = self.linear(x_N3)[:, 0]
        loss = (out_N - y_N) ** 2 + self.contrast * (out_N - out_N.mean()) ** 2
        return {"loss": loss, "out": out_N.detach()}


def data(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return x, torch.randn(n, dtype=torch.float64, generator=generator)


def step_of(method: _Method, parts: int, **options: float) -> OptimizerStep:
    return OptimizerStep(
        method, method, torch.optim.SGD(method.parameters(), lr=0.1), CPU, parts=parts, **options
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 9])
def test_parts_of_any_size_add_up_to_the_whole_batch(parts: int) -> None:
    whole, cut = _Method(), _Method()
    outputs, norm = step_of(whole, 1)(data(7))
    outputs_cut, norm_cut = step_of(cut, parts)(data(7))
    assert sum(cut.seen) == 7
    assert len(cut.seen) == len(torch.empty(7).chunk(parts))
    torch.testing.assert_close(norm_cut, norm, rtol=1e-12, atol=0)
    torch.testing.assert_close(outputs_cut, outputs, rtol=1e-12, atol=0)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=0)


def test_a_parts_contrast_is_its_own() -> None:
    """As in DataParallel's replicas: the loss is the mean over chunks that do not know of each other."""
    cut, by_hand = _Method(0.5), _Method(0.5)
    x, y = data(6)
    step_of(cut, 2)((x, y))
    loss = torch.stack(
        [by_hand(*part)["loss"].mean() for part in zip(x.chunk(2), y.chunk(2), strict=True)]
    ).mean()
    loss.backward()
    for one, other in zip(by_hand.parameters(), cut.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(other, one - 0.1 * one.grad, rtol=1e-12, atol=0)
    whole = _Method(0.5)
    step_of(whole, 1)((x, y))
    assert not torch.allclose(whole.linear.weight, cut.linear.weight, rtol=1e-3)


def test_momentum_of_another_memory_layout_is_taken_up_cell_by_cell() -> None:
    """A file may hold it in the plain layout; the network's weights are channels-last, and the update is fused."""
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
    momentum = torch.randn(4, 3, 3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, fused=True)
    step = OptimizerStep(model, model, optimizer, CPU)
    step.load_state({0: {"momentum_buffer": momentum}}, optimizer.state_dict()["param_groups"])
    before = model.weight.detach().clone()
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    torch.testing.assert_close(before - model.weight, 0.9 * momentum)


def test_the_norm_is_that_before_clipping() -> None:
    free, clipped = _Method(), _Method()
    _, norm = step_of(free, 1)(data(5))
    _, before = step_of(clipped, 1, clip_grad_norm=1e-3)(data(5))
    assert float(before) == pytest.approx(float(norm))
    moved = torch.cat([p.flatten() for p in clipped.parameters()]) - torch.cat(
        [p.flatten() for p in _Method().parameters()]
    )
    assert float(moved.detach().norm()) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_tensors_that_cannot_be_cut_alike_are_refused() -> None:
    labelled, unlabelled = torch.zeros(4, 2), torch.zeros(6, 2)
    assert [[len(t) for t in part] for part in cut_batch((labelled, unlabelled), 2)] == [[2, 3], [2, 3]]
    with pytest.raises(ValueError, match=r"\[1, 6\] rows cannot all be cut into 2 parts"):
        cut_batch((labelled[:1], unlabelled), 2)
