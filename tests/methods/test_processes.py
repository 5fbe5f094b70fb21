"""Two processes with half of a batch each give the loss and the gradients of one process with the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.data.presets import normalise
from cgc.engine.processes import Processes
from cgc.gradcam import GradCAMModel
from cgc.methods import (
    BaselineMethod,
    CGCMethod,
    EnergyMethod,
    GridConsistencyMethod,
    Method,
    SemiSupervisedCGC,
    SemiSupervisedSGC,
    SGCMethod,
)
from cgc.models.backbones import TinyResNet
from tests.methods.toy import FlatHead, blobs, frozen, gradients, in_double, relative, smooth_images
from tests.two_processes import SIZE, in_two_processes

CLASSES, IMAGE, LABELLED, UNLABELLED = 5, 48, 4, 3  # images of each process


def small(build: Callable[[int], nn.Module] = TinyResNet) -> GradCAMModel:
    layer = "layer3" if build is TinyResNet else "trunk"
    return in_double(partial(build, CLASSES), layer, frozen_norm=True)


class InSingle(TinyResNet):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.float())


def in_single() -> GradCAMModel:
    torch.manual_seed(0)
    return frozen(GradCAMModel(InSingle(CLASSES), "layer3"))


def adjust(setattr: Callable[[str, Any], None]) -> None:
    """Views in float64, whose rounding is too small to be seen; some maps of the untrained networks near zero."""
    for module in ("baseline", "cgc", "energy", "grid_consistency", "semi", "sgc"):
        setattr(f"cgc.methods.{module}.normalise", lambda images: normalise(images).double())
    setattr("cgc.methods.base.NEAR_ZERO", 0.9)


@pytest.fixture(autouse=True)
def adjusted(monkeypatch: pytest.MonkeyPatch) -> None:
    adjust(monkeypatch.setattr)


@dataclass(frozen=True)
class Case:
    """A method with its options and network, and how closely two processes have to agree with one."""

    build: Callable[..., Method]
    options: dict[str, Any]
    model: Callable[[], GradCAMModel] = small
    tolerance: float = 1e-10

    def method(self) -> Method:
        return self.build(self.model(), **self.options).eval()

    def batch(self) -> SimpleNamespace:
        """The whole batch: everything that any method reads."""
        generator = torch.Generator().manual_seed(1)
        n, m = SIZE * LABELLED, SIZE * UNLABELLED
        several = F.one_hot(torch.arange(n) % CLASSES, CLASSES).bool()
        corners = torch.randint(IMAGE // 2, (n, 1, 2), generator=generator)
        return SimpleNamespace(
            xe=smooth_images(n, IMAGE, generator),
            query=smooth_images(n, IMAGE, generator),
            unlabelled_query=smooth_images(m, IMAGE, generator),
            saliency=blobs(m if self.build is SemiSupervisedSGC else n, IMAGE, generator),
            labels=several | several.roll(1, 1) if "multi_label" in self.options else torch.arange(n) % 5,
            boxes=torch.cat([corners, corners + 20], dim=2),
        )

    def inputs(self, method: Method, rank: int | None = None) -> tuple[Tensor, ...]:
        """Of one process (of all without a rank); the composites are given, since distractors are a process's own."""
        whole = self.batch()
        if rank is None or self.build is GridConsistencyMethod:
            prepared = self.method().prepare(whole, torch.Generator().manual_seed(3))
            return prepared if rank is None else tuple(rows_of(rows, rank) for rows in prepared)
        own = {name: rows_of(rows, rank) for name, rows in vars(whole).items()}
        return method.prepare(SimpleNamespace(**own), torch.Generator().manual_seed(3))


def rows_of(rows: Tensor, rank: int) -> Tensor:
    return rows.chunk(SIZE)[rank]


SHARP = {"weight": 0.7, "temperature": 0.1}
CONTRASTIVE = {
    "cgc": Case(CGCMethod, SHARP),
    "cgc, floor": Case(CGCMethod, {**SHARP, "floor": 0.1}),
    "cgc, query": Case(CGCMethod, {**SHARP, "anchor": "query"}),
    "cgc, query, floor": Case(CGCMethod, {**SHARP, "anchor": "query", "floor": 0.1}),
    "cgc, flat head": Case(CGCMethod, SHARP, partial(small, FlatHead)),
    "cgc, single": Case(CGCMethod, SHARP, in_single, 1e-5),
    "sgc": Case(SGCMethod, SHARP),
    "sgc, floor": Case(SGCMethod, {**SHARP, "floor": 0.1}),
    "sgc, flat head": Case(SGCMethod, SHARP, partial(small, FlatHead)),
    "semi-cgc": Case(SemiSupervisedCGC, SHARP),
    "semi-cgc, query, floor": Case(SemiSupervisedCGC, {**SHARP, "anchor": "query", "floor": 0.1}),
    "semi-sgc": Case(SemiSupervisedSGC, SHARP),
    "semi-sgc, floor": Case(SemiSupervisedSGC, {**SHARP, "floor": 0.1}),
}
CASES = {
    **CONTRASTIVE,
    "l2": Case(CGCMethod, {"weight": 2000.0, "consistency": "l2"}),
    "l2, floor": Case(CGCMethod, {"weight": 2000.0, "consistency": "l2", "floor": 0.1}),
    "grid": Case(GridConsistencyMethod, {}),
    "grid, several labels": Case(GridConsistencyMethod, {"multi_label": True}),
    "grid, flat head": Case(GridConsistencyMethod, {}, partial(small, FlatHead)),
    "energy": Case(EnergyMethod, {}),
    "energy, flat head": Case(EnergyMethod, {}, partial(small, FlatHead)),
    "baseline": Case(BaselineMethod, {}),
}
LOCAL_DIFFERS = [*CONTRASTIVE, "l2, floor"]  # where the whole batch matters to a sample


def train(processes: Processes) -> dict[str, dict[str, Any]]:
    """Every case in this process: mean outputs and gradients, with the negatives of all and with its own."""
    adjust(pytest.MonkeyPatch().setattr)
    found: dict[str, dict[str, Any]] = {}
    for name, case in CASES.items():
        for gathered in (True, False):
            method = case.method()
            method.across, method.gathered = processes, gathered
            parallel = nn.parallel.DistributedDataParallel(method)
            outputs = parallel(*case.inputs(method, processes.rank))
            outputs["loss"].mean().backward()
            key = name if gathered else f"{name}, local"
            found[key] = {"outputs": means(outputs), "gradient": gradients(method)}
    return found


def means(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().double().mean() for name, value in outputs.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_two_processes(train, tmp_path_factory.mktemp("processes"))


def check(found: list[dict[str, Any]], key: str, outputs: Any, gradient: Tensor, tolerance: float) -> None:
    together = [result[key] for result in found]
    for name in ("loss", "cross_entropy", "consistency", *(["near_zero"] if key in CONTRASTIVE else [])):
        if name in outputs:
            mean = torch.stack([each["outputs"][name] for each in together]).mean()
            close = 1e-6 if name == "near_zero" else tolerance  # counted in float32
            torch.testing.assert_close(mean, outputs[name], rtol=close, atol=0)
    for each in together:
        assert relative(each["gradient"], gradient) < tolerance


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_equal_one(found: list[dict[str, Any]], name: str) -> None:
    case = CASES[name]
    method = case.method()
    outputs = method(*case.inputs(method))
    outputs["loss"].mean().backward()
    check(found, name, means(outputs), gradients(method), case.tolerance)
    if name in LOCAL_DIFFERS:
        assert all(relative(each[f"{name}, local"]["gradient"], gradients(method)) > 1e-4 for each in found)


@pytest.mark.parametrize("name", list(CASES))
def test_local_negatives_are_those_of_replicas(found: list[dict[str, Any]], name: str) -> None:
    """The chunks in one process: what the papers' DataParallel did."""
    case = CASES[name]
    method = case.method()
    inputs = case.inputs(method)
    chunks = [method(*(rows_of(rows, rank) for rows in inputs)) for rank in range(SIZE)]
    outputs = {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}
    outputs["loss"].mean().backward()
    check(found, f"{name}, local", means(outputs), gradients(method), case.tolerance)
