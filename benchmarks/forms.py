"""A CGC training step in the forms that the benchmarks compare, and the sizes they do it at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import common  # noqa: F401  makes the repository importable
import torch
import torch.nn.functional as F
from published import DirectCGC
from torch import nn

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel
from cgc.methods.cgc import CGCMethod
from cgc.models.backbones import build_backbone
from cgc.models.weight_gradients import use_matrix_products
from cgc.spatial import SpatialTransform

CLASSES = 1000
VIEWS = 3
MEMORY_BOUND = 1.05


@dataclass(frozen=True)
class Setting:
    """One size at which the step is measured."""

    arch: str
    side: int
    batch: int
    bound: float
    turns: int = 20


SETTINGS = (Setting("resnet_tiny", 64, 256, 1.03, turns=40), Setting("resnet18", 224, 16, 1.01))
GPU_SETTINGS = (Setting("resnet50", 224, 256, 1.03),)
QUICK = (Setting("resnet_tiny", 32, 4, 1.03),)


@dataclass(frozen=True)
class Form:
    """How a step is computed."""

    algebra: bool = True
    channels_last: bool = True
    fused: bool = True
    products: bool = True  # weight gradients as matrix products, where they are faster (CPU)
    kept: bool = True  # freed memory is kept for the next tensors (CPU)
    bf16: bool = False
    compiled: bool = False
    tf32: bool = torch.backends.cudnn.allow_tf32  # torch's default for convolutions

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "NCHW"
        parts = (layout, self.fused and "fused optimizer", "bfloat16" if self.bf16 else "float32")
        return ", ".join([part for part in (*parts, self.compiled and "compiled") if part])


class Problem:
    """A network in one form, its optimizer, and a batch of views."""

    def __init__(self, setting: Setting, form: Form, device: str) -> None:
        torch.manual_seed(0)
        self.form, self.device = form, torch.device(device)
        layout = torch.channels_last if form.channels_last else torch.contiguous_format
        model = GradCAMModel(build_backbone(setting.arch, CLASSES)).to(device).train()
        self.model = model.to(memory_format=layout)
        if form.compiled:
            self.model.compile_trunk()
        elif form.products and self.device.type == "cpu":
            use_matrix_products(self.model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=1e-3,
            momentum=0.9,
            weight_decay=1e-4,
            fused=form.fused or None,  # None: torch chooses, and it does not choose this one
        )
        shape = (setting.batch, 3, setting.side, setting.side)
        self.xe, self.query = (
            torch.randint(256, shape, dtype=torch.uint8).to(device, memory_format=layout) for _ in range(2)
        )
        self.labels = torch.randint(CLASSES, (setting.batch,)).to(device)
        self.packed = SpatialTransform.sample(setting.batch, setting.side).pack().to(device)
        self.cgc = CGCMethod(self.model) if form.algebra else DirectCGC(self.model)
        self.cross_entropy = CGCMethod(self.model, weight=0)

    def gradients(self, method: nn.Module) -> None:
        torch.backends.cudnn.allow_tf32 = self.form.tf32
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.form.bf16):
            loss = method(self.xe, self.query, self.labels, self.packed)["loss"].mean()
        loss.backward()

    def cgc_step(self) -> None:
        self.gradients(self.cgc)
        self.optimizer.step()

    def cross_entropy_step(self) -> None:
        self.gradients(self.cross_entropy)
        self.optimizer.step()

    def bare(self) -> None:
        """The network alone on as many views."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.form.bf16):
            views = (self.xe, self.query, self.query)
            loss = sum(F.cross_entropy(self.model.backbone(normalise(view)), self.labels) for view in views)
        loss.backward()


def cgc_step(setting: Setting, form: Form, device: str) -> Callable[[], object]:
    """For a process of its own."""
    return Problem(setting, form, device).cgc_step


def agreement(device: str, **change: bool) -> float:
    """Relative difference (norms) of a changed form's gradients from the plain one's, on a small network in float32."""
    plain = Form(channels_last=False, fused=False, products=False, tf32=False)
    gradients = []
    for form in (plain, replace(plain, **change)):
        problem = Problem(QUICK[0], form, device)
        problem.gradients(problem.cgc)
        grads = [p.grad for p in problem.model.parameters() if p.grad is not None]
        gradients.append(torch.cat([grad.flatten() for grad in grads]))
    before, after = gradients
    return float((after - before).norm() / before.norm())
