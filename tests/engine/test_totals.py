"""What an epoch adds up."""

from __future__ import annotations

import pytest
import torch

from cgc.engine.totals import Totals, means_of

CPU = torch.device("cpu")


def test_totals_add_take_maxima_and_go_on_from_earlier_ones() -> None:
    totals = Totals(CPU, {})
    assert totals.read() == {}
    totals.add("loss", torch.tensor([1.0, 2.5]))
    totals.add("loss", torch.tensor([0.5]))
    totals.add("hits", torch.tensor([True, False, True]))
    totals.raise_to("peak", torch.tensor(2.0))
    totals.raise_to("peak", torch.tensor(1.0))
    assert totals.read() == {"loss": 4.0, "hits": 2.0, "peak": 2.0}
    later = Totals(CPU, totals.read())
    later.add("loss", torch.tensor([1.0]))
    later.raise_to("peak", torch.tensor(3.0))
    assert later.read() == {"loss": 5.0, "hits": 2.0, "peak": 3.0}


def test_small_terms_are_not_lost() -> None:
    totals = Totals(CPU, {"loss": 1e8})
    weight = torch.ones(1, requires_grad=True)
    for _ in range(100):
        totals.add("loss", weight * 0.25)  # would vanish in float32
    assert totals.read()["loss"] == 1e8 + 25


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stays_so(value: float) -> None:
    totals = Totals(CPU, {})
    for term in (1.0, value, 1.0):
        totals.add("loss", torch.tensor(term))
        totals.raise_to("peak", torch.tensor(term))
    assert not torch.tensor(list(totals.read().values())).isfinite().any()


def test_means_are_over_samples_or_over_steps() -> None:
    totals = {"samples": 8.0, "steps": 2.0, "loss": 4.0, "top1": 2.0, "near_zero": 1.0}
    totals |= {"grad_norm": 3.0, "grad_norm_max": 2.5, "clipped": 1.0, "spoilt": 0.0}
    assert means_of(totals) == {
        "loss": 0.5,
        "top1": 25.0,
        "near_zero": 12.5,
        "grad_norm": 1.5,
        "grad_norm_max": 2.5,
        "clipped": 50.0,
        "spoilt": 0.0,
    }
    # A spoilt step adds nothing to the sum of the norms and does not count in their mean.
    assert means_of(totals | {"spoilt": 1.0})["grad_norm"] == 3.0
    assert means_of(totals | {"spoilt": 1.0})["spoilt"] == 50.0
