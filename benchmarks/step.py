"""Time of a CGC training step: over plain cross-entropy on the same three views, and with what makes it fast.

First the ratio: both steps take the same uint8 views, make the augmented view, run the trunk three times, go backward
and update the weights; they share one network and one optimizer, and are timed in interleaved turns. What is left of
the ratio is the heatmaps and the consistency loss. The bound beside them is the bare network on the same three views,
forward and backward, without an update.

Then one thing after the other is switched on, each row with all above it: the algebra (heatmaps in closed form, no
S×S mask), freed memory that is kept, the layout (channels last), the fused optimizer, weight gradients as matrix
products, bfloat16, torch.compile. On a GPU the first rows are the direct path as published. On the CPU the first is the
plain NCHW step in a process with torch's and the C library's defaults, unless --direct is given, and the bound is the
time of the convolutions alone.

    python3 benchmarks/step.py [--device cuda] [--quick] [--amp bf16] [--compile] [--direct] [--only ladder]

On a GPU the sizes are ResNet-50, 224 px, batch 256 in bfloat16, compiled, and peak memory is printed; that of the CPU
is measured by benchmarks/memory.py.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

import common
import torch
from convolutions import Convolutions
from elsewhere import elsewhere
from forms import (
    CLASSES,
    GPU_SETTINGS,
    MEMORY_BOUND,
    QUICK,
    SETTINGS,
    VIEWS,
    Form,
    Problem,
    Setting,
    agreement,
    cgc_step,
)

from cgc.data.presets import normalise

GPU_VIEW_RATE = 3000.0  # view-images/s of the published setting
GPU_SPEEDUP = 4.0  # over the direct path
CPU_SPEEDUP = 1.2  # over the plain NCHW step
DIRECT = "the direct path, as published"
NCHW = "the algebra, in plain NCHW"


def ladder(options: argparse.Namespace) -> list[tuple[str, Form]]:
    """The forms, each with what is above it."""
    on_gpu = options.device.startswith("cuda")
    form = Form(algebra=False, channels_last=False, fused=False, products=False, kept=on_gpu)
    rows: list[tuple[str, Form]] = []
    if options.direct:
        if on_gpu:
            rows.append(("the direct path in full float32", replace(form, tf32=False)))
        rows.append((DIRECT, form))
    form = replace(form, algebra=True)
    rows.append((NCHW, form))
    changes = [
        (not on_gpu, "+ freed memory kept", {"kept": True}),
        (True, "+ channels last", {"channels_last": True}),
        (True, "+ fused optimizer", {"fused": True}),
        (not on_gpu, "+ weight gradients as products", {"products": True}),
        (options.amp == "bf16", "+ bfloat16", {"bf16": True}),
        (options.compile, "+ compile", {"compiled": True}),
    ]
    for wanted, name, change in changes:
        if wanted:
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
    rows, on_gpu = ladder(options), options.device.startswith("cuda")
    with contextlib.ExitStack() as processes:
        works: dict[str, Callable[[], object]] = {}
        for name, form in rows:
            if form.kept:
                work: Callable[[], object] = Problem(setting, form, options.device).cgc_step
            else:
                make = functools.partial(cgc_step, setting, form, options.device)
                work = processes.enter_context(elsewhere(make))
            reason = common.failure(work)
            if reason is None:
                works[name] = work
            else:
                print(f"  {name:<34}cannot run here: {reason}")
        if not works:
            return len(rows)
        alone = {} if on_gpu else convolutions(setting, options.device)
        times = common.interleaved({**works, **alone}, repeats, options.device, warmup=1)
        bounds = {name: times.pop(name) for name in alone}
        del work, alone
        works.clear()  # and with it all networks, so that each row's peak is its own
    before = None
    for name, form in rows:
        if name not in times:
            continue
        line = f"  {name:<34}{common.spread(times[name])}  {rates(setting, times[name])}"
        if before is not None:
            gain = common.ratio_interval(before, times[name])
            line += f"  x {gain[0]:.2f} [{gain[1]:.2f}, {gain[2]:.2f}]"
        if on_gpu:
            line += f"  peak {lone_peak(setting, form, options.device)}"
        print(line)
        before = times[name]
    report_whole(times, bounds, on_gpu)
    return len(rows) - len(times)


def report_whole(times: dict[str, list[float]], bounds: dict[str, list[float]], on_gpu: bool) -> None:
    """The last row over the first ones, and how far it could have been from them."""
    last = list(times.values())[-1]
    for first, bound in ((DIRECT, GPU_SPEEDUP if on_gpu else None), (NCHW, None if on_gpu else CPU_SPEEDUP)):
        if first in times:
            gain, low, high = common.ratio_interval(times[first], last)
            said = f"{gain:.3g}" if bound is None else common.verdict(gain, bound, at_most=False)
            print(f"  all over {first}: {said}, 95 % interval [{low:.3f}, {high:.3f}]")
    for name, values in bounds.items():
        print(f"  {name:<34}{common.spread(values)}")
    if bounds and NCHW in times:
        least = min(bounds.values(), key=lambda values: common.quartiles(values)[1])
        print(common.ratio_line(f"{NCHW}, over the faster of these: were all else free", times[NCHW], least))


def convolutions(setting: Setting, device: str) -> dict[str, Callable[[], object]]:
    """The bound: those of the three views' passes, in both layouts and as they are computed by default."""
    works: dict[str, Callable[[], object]] = {}
    forms = {
        "NCHW": Form(channels_last=False, products=False),
        "channels last": Form(products=False),
        "by default": Form(),
    }
    for name, form in forms.items():
        problem = Problem(setting, form, device)
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
    settings = QUICK if options.quick else GPU_SETTINGS if on_gpu else SETTINGS
    if options.arch:
        settings = (Setting(options.arch, options.image_size, options.batch_size, 1.03),)
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    print(f"{common.machine(options.device)}, amp {options.amp}")
    if on_gpu:
        print(f"cuDNN {torch.backends.cudnn.version()}, cudnn.benchmark {options.cudnn_benchmark}")
    if options.direct:
        difference = agreement(options.device, algebra=False)
        print(f"gradients differ from the direct path's by {difference:.1e} (float32)")
    if not on_gpu:
        difference = agreement(options.device, channels_last=True, products=True)
        print(f"gradients differ from plain NCHW's by {difference:.1e} (float32)")
    failed = 0
    for setting in settings:
        print(f"{setting.arch}, {setting.side} px, batch {setting.batch}, {CLASSES} classes")
        repeats = options.repeats or (2 if options.quick else setting.turns)
        if options.only != "ladder":
            failed += report_ratio(setting, options, repeats)
        gc.collect()
        if options.only != "ratio":
            failed += report_ladder(setting, options, max(2, repeats // 2))
        gc.collect()
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
