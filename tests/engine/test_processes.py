"""Rows gathered from two real processes, and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cgc.engine.processes import Processes
from tests.two_processes import SIZE, in_two_processes

N = 3


def values(rank: int) -> dict[str, Tensor]:
    """Rows of every kind, different in each process."""
    numbers = torch.arange(24).view(N, 2, 4) + 100 * rank
    kinds = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64}
    return {
        **{name: numbers.to(dtype) for name, dtype in kinds.items()},
        "uint8": (numbers % 251).to(torch.uint8),
        "bool": numbers % 3 == rank,
        "not contiguous": numbers.permute(0, 2, 1).double(),
        "every other row": torch.cat([numbers, numbers + 50]).double()[::2],
        "one number each": numbers[:, 0, 0].double(),
    }


def weights() -> Tensor:
    """Of each process's loss on each row of all: (processes, rows)."""
    return torch.rand(SIZE, SIZE * N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def collect(processes: Processes) -> dict[str, Any]:
    gathered = {name: processes.gather_rows(rows) for name, rows in values(processes.rank).items()}
    leaf = values(processes.rank)["not contiguous"].requires_grad_()
    all_rows = processes.gather_rows(leaf)
    per_row = (all_rows**2).sum((1, 2))
    (weights()[processes.rank] @ per_row).backward()
    with torch.no_grad():
        untracked = processes.gather_rows(leaf)
    tracked = {name: rows.requires_grad for name, rows in gathered.items()}
    return {
        "gathered": gathered,
        "gradient": leaf.grad,
        "tracked": [all_rows.requires_grad, untracked.requires_grad, any(tracked.values())],
        "objects": processes.gather({"rank": processes.rank}),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_two_processes(collect, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", list(values(0)))
def test_every_process_has_all_rows_in_order_of_rank(found: list[dict[str, Any]], name: str) -> None:
    expected = torch.cat([values(rank)[name] for rank in range(SIZE)])
    for result in found:
        assert result["gathered"][name].dtype == expected.dtype
        assert torch.equal(result["gathered"][name], expected)


def test_the_gradient_is_the_sum_over_the_processes(found: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(found):
        own = slice(rank * N, (rank + 1) * N)
        expected = weights().sum(0)[own, None, None] * 2 * values(rank)["not contiguous"]
        torch.testing.assert_close(result["gradient"], expected, rtol=1e-14, atol=0)


def test_only_what_is_tracked_has_a_gradient(found: list[dict[str, Any]]) -> None:
    for result in found:
        assert result["tracked"] == [True, False, False]


def test_objects_are_gathered_in_order_of_rank(found: list[dict[str, Any]]) -> None:
    assert [result["objects"] for result in found] == [[{"rank": 0}, {"rank": 1}]] * SIZE
