"""Time of a CGC training step: over plain cross-entropy on the same three views, and with what makes it fast.

First the ratio: both steps take the same uint8 views, make the augmented view, run the trunk three times, go backward
and update the weights; they share one network and one optimizer, and are timed in interleaved turns. What is left of
the ratio is the heatmaps and the consistency loss. The bound beside them is the bare network on the same three views,
forward and backward, without an update.

Then one thing after the other is switched on, each row with all above it: the algebra (heatmaps in closed form, no
S×S mask), the layout (channels last), the fused optimizer, bfloat16, torch.compile. On a GPU the first rows are the
direct path as published; on the CPU the first is the plain NCHW step, unless --direct is given, and the bound is the
time of the convolutions alone, which are a library's.

    python3 benchmarks/step.py [--device cuda] [--quick] [--amp bf16] [--compile] [--direct] [--only ladder]

On a GPU the sizes are ResNet-50, 224 px, batch 256 in bfloat16, compiled, and peak memory is printed; that of the CPU
is measured by benchmarks/memory.py.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import common
import torch
import torch.nn.functional as F
from convolutions import Convolutions
from published import DirectCGC
from torch import nn

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel
from cgc.methods.cgc import CGCMethod
from cgc.models.backbones import build_backbone
from cgc.spatial import SpatialTransform

VIEWS = 3
CLASSES = 1000
GPU_VIEW_RATE = 3000.0  # view-images/s of the published setting
GPU_SPEEDUP = 4.0  # over the direct path
CPU_SPEEDUP = 1.2  # over the plain NCHW step
MEMORY_BOUND = 1.05
DIRECT = "the direct path, as published"
NCHW = "the algebra, in plain NCHW"


@dataclass(frozen=True)
class Setting:
    """One size at which the step is measured."""

    arch: str
    side: int
    batch: int
    bound: float


SETTINGS = (Setting("resnet_tiny", 64, 256, 1.03), Setting("resnet18", 224, 16, 1.01))
GPU_SETTINGS = (Setting("resnet50", 224, 256, 1.03),)
QUICK = (Setting("resnet_tiny", 32, 4, 1.03),)


@dataclass(frozen=True)
class Form:
    """How a step is computed."""

    algebra: bool = True
    channels_last: bool = True
    fused: bool = True
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


def agreement(device: str) -> float:
    """Relative difference (norms) of the two ways' gradients, on a small network in float32."""
    gradients = []
    for form in (Form(algebra=False), Form()):
        problem = Problem(QUICK[0], replace(form, channels_last=False, fused=False, tf32=False), device)
        problem.gradients(problem.cgc)
        grads = [p.grad for p in problem.model.parameters() if p.grad is not None]
        gradients.append(torch.cat([grad.flatten() for grad in grads]))
    direct, ours = gradients
    return float((ours - direct).norm() / direct.norm())


def ladder(options: argparse.Namespace) -> list[tuple[str, Form]]:
    """The forms, each with what is above it."""
    form = Form(algebra=False, channels_last=False, fused=False)
    rows: list[tuple[str, Form]] = []
    if options.direct:
        if options.device.startswith("cuda"):
            rows.append(("the direct path in full float32", replace(form, tf32=False)))
        rows.append((DIRECT, form))
    form = replace(form, algebra=True)
    rows.append((NCHW, form))
    changes: list[tuple[str, dict[str, bool]]] = [
        ("+ channels last", {"channels_last": True}),
        ("+ fused optimizer", {"fused": True}),
    ]
    if options.amp == "bf16":
        changes.append(("+ bfloat16", {"bf16": True}))
    if options.compile:
        changes.append(("+ compile", {"compiled": True}))
    for name, change in changes:
        form = replace(form, **change)
        rows.append((name, form))
    return rows


def rates(setting: Setting, times: Sequence[float]) -> str:
    samples = setting.batch / common.quartiles(times)[1]
    return f"{samples:.1f} samples/s, {VIEWS * samples:.1f} view-images/s"


def report_ratio(setting: Setting, options: argparse.Namespace, repeats: int) -> int:
    """CGC over cross-entropy in the fastest form; returns how many forms could not run."""
    failed, problem = 0, None
    for _, form in reversed(ladder(options)):
        problem = Problem(setting, form, options.device)
        reason = common.failure(problem.cgc_step)
        if reason is None:
            break
        print(f"  cannot run here ({form}): {reason}")
        failed, problem = failed + 1, None
    if problem is None:
        return failed
    print(f"  {problem.form}, {repeats} interleaved turns")
    works: dict[str, Callable[[], object]] = {
        "bare forward + backward": problem.bare,
        "cross-entropy": problem.cross_entropy_step,
        "CGC": problem.cgc_step,
    }
    times = common.interleaved(works, repeats, options.device)
    for name, values in times.items():
        print(f"  {name:<24}{common.spread(values)}  {rates(setting, values)}")
    print(common.ratio_line("CGC over cross-entropy", times["CGC"], times["cross-entropy"], setting.bound))
    print(common.ratio_line("CGC over the bare network", times["CGC"], times["bare forward + backward"]))
    if options.device.startswith("cuda"):
        rate = VIEWS * setting.batch / common.quartiles(times["CGC"])[1]
        print(f"  view-images/s: {common.verdict(rate, GPU_VIEW_RATE, at_most=False)}")
        plain = common.peak_cuda_bytes(problem.cross_entropy_step, options.device)
        ours = common.peak_cuda_bytes(problem.cgc_step, options.device)
        said = common.verdict(ours / plain, MEMORY_BOUND)
        print(f"  peak memory {common.gib(ours)} over {common.gib(plain)}: {said}")
    return failed


def lone_peak(setting: Setting, form: Form, device: str) -> str:
    """Peak memory of a step with nothing else on the GPU."""
    gc.collect()
    torch.cuda.empty_cache()
    problem = Problem(setting, form, device)
    return common.failure(problem.cgc_step) or common.gib(common.peak_cuda_bytes(problem.cgc_step, device))


def report_ladder(setting: Setting, options: argparse.Namespace, repeats: int) -> int:
    """One thing after the other; returns how many forms could not run."""
    print(f"  what each thing adds, {repeats} interleaved turns; every row has all above it")
    works: dict[str, Callable[[], object]] = {}
    failed, rows = 0, ladder(options)
    for name, form in rows:
        problem = Problem(setting, form, options.device)
        reason = common.failure(problem.cgc_step)
        if reason is None:
            works[name] = problem.cgc_step
        else:
            print(f"  {name:<34}cannot run here: {reason}")
            failed += 1
    if not works:
        return failed
    on_gpu = options.device.startswith("cuda")
    alone = {} if on_gpu else convolutions(setting, options.device)
    times = common.interleaved({**works, **alone}, repeats, options.device, warmup=1)
    bounds = {name: times.pop(name) for name in alone}
    alone.clear()
    del problem
    works.clear()  # and with it all networks, so that each row's peak is its own
    peaks = {
        name: lone_peak(setting, form, options.device) for name, form in rows if on_gpu and name in times
    }
    before = None
    for name, values in times.items():
        line = f"  {name:<34}{common.spread(values)}  {rates(setting, values)}"
        if before is not None:
            gain = common.ratio_interval(before, values)
            line += f"  x {gain[0]:.2f} [{gain[1]:.2f}, {gain[2]:.2f}]"
        if on_gpu:
            line += f"  peak {peaks[name]}"
        print(line)
        before = values
    *_, (last, _) = ((name, form) for name, form in rows if name in times)
    for first, bound in ((DIRECT, GPU_SPEEDUP if on_gpu else None), (NCHW, None if on_gpu else CPU_SPEEDUP)):
        if first in times:
            gain, low, high = common.ratio_interval(times[first], times[last])
            said = f"{gain:.3g}" if bound is None else common.verdict(gain, bound, at_most=False)
            print(f"  all over {first}: {said}, 95 % interval [{low:.3f}, {high:.3f}]")
    for name, values in bounds.items():
        print(f"  {name:<34}{common.spread(values)}")
    if bounds and NCHW in times:
        least = min(bounds.values(), key=lambda values: common.quartiles(values)[1])
        print(common.ratio_line(f"{NCHW}, over the faster of these: were all else free", times[NCHW], least))
    return failed


def convolutions(setting: Setting, device: str) -> dict[str, Callable[[], object]]:
    """The bound: those of the three views' passes in both layouts."""
    works: dict[str, Callable[[], object]] = {}
    for name, channels_last in (("NCHW", False), ("channels last", True)):
        problem = Problem(setting, Form(channels_last=channels_last), device)
        works[f"its convolutions alone, {name}"] = Convolutions(
            problem.model.backbone, normalise(problem.xe), VIEWS
        )
    return works


def add_options(parser: argparse.ArgumentParser) -> None:
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--amp", choices=("off", "bf16"), help="(bf16 on a GPU, off on the CPU)")
    parser.add_argument("--compile", action=flag, help="torch.compile of the trunk (on a GPU)")
    parser.add_argument("--direct", action=flag, help="begin with the direct path as published (on a GPU)")
    parser.add_argument("--only", choices=("ratio", "ladder"), help="one of the two parts")
    parser.add_argument("--arch", help="another network, with --image-size and --batch-size")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--cudnn-benchmark", action="store_true", help="let cuDNN try its algorithms, in all rows"
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = common.parse_arguments(__doc__, argv, add_options)
    on_gpu = options.device.startswith("cuda")
    options.amp = options.amp or ("bf16" if on_gpu else "off")
    options.compile = on_gpu if options.compile is None else options.compile
    options.direct = on_gpu or options.quick if options.direct is None else options.direct
    repeats = options.repeats or (2 if options.quick else 20)
    settings = QUICK if options.quick else GPU_SETTINGS if on_gpu else SETTINGS
    if options.arch:
        settings = (Setting(options.arch, options.image_size, options.batch_size, 1.03),)
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    print(f"{common.machine(options.device)}, amp {options.amp}")
    if on_gpu:
        print(f"cuDNN {torch.backends.cudnn.version()}, cudnn.benchmark {options.cudnn_benchmark}")
    if options.direct:
        print(f"gradients differ from the direct path's by {agreement(options.device):.1e} (float32)")
    failed = 0
    for setting in settings:
        print(f"{setting.arch}, {setting.side} px, batch {setting.batch}, {CLASSES} classes")
        if options.only != "ladder":
            failed += report_ratio(setting, options, repeats)
        gc.collect()
        if options.only != "ratio":
            failed += report_ladder(setting, options, max(2, repeats // 2))
        gc.collect()
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
