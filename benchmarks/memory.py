"""Peak memory of a CGC training step over plain cross-entropy on the same three views.

On the CPU the largest resident size of a fresh process that takes a few steps, everything included; the part above what
it held before its first step stands beside it. On a GPU the allocator's own peak (torch.cuda.max_memory_allocated). The
direct way, as published, is measured as well. The bound is the cross-entropy step.

    python3 benchmarks/memory.py [--device cuda] [--quick] [--amp bf16]
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import common
import torch
from forms import GPU_SETTINGS, MEMORY_BOUND, QUICK, Form, Problem, Setting

CPU_SETTINGS = (Setting("resnet18", 224, 16, MEMORY_BOUND), Setting("resnet50", 224, 8, MEMORY_BOUND))
KINDS = ("cross-entropy", "CGC", "direct")
STEPS = 3  # the first one allocates momentum


def problem_of(setting: Setting, kind: str, device: str, amp: str) -> Problem:
    return Problem(setting, Form(algebra=kind != "direct", bf16=amp == "bf16"), device)


def take_steps(problem: Problem, kind: str) -> None:
    step = problem.cross_entropy_step if kind == "cross-entropy" else problem.cgc_step
    for _ in range(STEPS):
        step()


def peak_resident() -> int:
    """Largest resident size of this process so far, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        # Not ru_maxrss, which a process inherits from the one that started it.
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_here(setting: Setting, kind: str, amp: str) -> dict[str, int]:
    """What a fresh process holds before and after its steps."""
    problem = problem_of(setting, kind, "cpu", amp)
    before = peak_resident()
    take_steps(problem, kind)
    return {"before": before, "peak": peak_resident()}


def measure_apart(setting: Setting, kind: str, options: argparse.Namespace) -> dict[str, int]:
    """The same in a process of its own."""
    size = f"{setting.arch},{setting.side},{setting.batch}"
    command = [sys.executable, __file__, "--one", f"{size},{kind}", "--amp", options.amp]
    command += ["--threads", str(options.threads)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"the measuring process failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def report_cpu(setting: Setting, options: argparse.Namespace, repeats: int) -> None:
    found: dict[str, list[dict[str, int]]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind in KINDS:
            found[kind].append(measure_apart(setting, kind, options))
    peaks = {kind: [float(one["peak"]) for one in ones] for kind, ones in found.items()}
    for kind, ones in found.items():
        low, middle, high = common.quartiles(peaks[kind])
        above = common.quartiles([one["peak"] - one["before"] for one in ones])[1]
        spread = f"[{common.gib(low)}, {common.gib(high)}]"
        print(f"  {kind:<16}{common.gib(middle)}  {spread}, of which {common.gib(above)} by the steps")
    for kind in KINDS[1:]:
        bound = MEMORY_BOUND if kind == "CGC" else None
        print(common.ratio_line(f"{kind} over cross-entropy", peaks[kind], peaks["cross-entropy"], bound))


def report_cuda(setting: Setting, options: argparse.Namespace) -> None:
    peaks: dict[str, int] = {}
    for kind in KINDS:
        problem = problem_of(setting, kind, options.device, options.amp)
        take_steps(problem, kind)
        peaks[kind] = common.peak_cuda_bytes(lambda p=problem, k=kind: take_steps(p, k), options.device)
        print(f"  {kind:<16}{common.gib(peaks[kind])}")
        del problem
        gc.collect()
        torch.cuda.empty_cache()
    for kind in KINDS[1:]:
        ratio = peaks[kind] / peaks["cross-entropy"]
        said = common.verdict(ratio, MEMORY_BOUND) if kind == "CGC" else f"{ratio:.3g}"
        print(f"  {kind} over cross-entropy: {said}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--amp", choices=("off", "bf16"), help="(bf16 on a GPU, off on the CPU)")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # ARCH,SIDE,BATCH,KIND: measure this process


def main(argv: Sequence[str] | None = None) -> int:
    options = common.parse_arguments(__doc__, argv, add_options)
    on_gpu = options.device.startswith("cuda")
    options.amp = options.amp or ("bf16" if on_gpu else "off")
    if options.one:
        arch, side, batch, kind = options.one.split(",")
        setting = Setting(arch, int(side), int(batch), MEMORY_BOUND)
        print(json.dumps(measure_here(setting, kind, options.amp)))
        return 0
    repeats = options.repeats or (1 if options.quick else 5)
    print(f"{common.machine(options.device)}, amp {options.amp}")
    for setting in QUICK if options.quick else GPU_SETTINGS if on_gpu else CPU_SETTINGS:
        print(
            f"{setting.arch}, {setting.side} px, batch {setting.batch}, {STEPS} steps"
            + (", tensors on the GPU" if on_gpu else f", {repeats} fresh processes each")
        )
        if on_gpu:
            report_cuda(setting, options)
        else:
            report_cpu(setting, options, repeats)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
