"""The benchmarks run from a checkout and print what they promise; what they measure is not tested."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def slow(script: str, promised: tuple[str, ...]) -> Any:
    """Run by `make test-all` only: several processes, or many seconds."""
    return pytest.param(script, promised, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("script", "promised"),
    [
        ("loss.py", ("N 8", "over copying:", "as published", "goal: at least 80", "N 4")),
        slow("evaluate.py", ("CH, PG, SPG and top-1", "insertion AUC", "bare forwards", "95 % interval")),
        slow(
            "methods.py", ("GC over two passes:", "SGC over CGC:", "energy over baseline:", "95 % interval")
        ),
        slow(
            "step.py",
            (
                "batch 4",
                "interleaved turns",
                "bare forward + backward",
                "CGC over cross-entropy:",
                "95 % interval",
                "view-images/s",
                "the direct path, as published",
                "+ freed memory kept",
                "+ channels last",
                "+ weight gradients as products",
                "+ fused optimizer",
                "all over the algebra, in plain NCHW:",
                "goal: at least 1.2",
            ),
        ),
        slow("memory.py", ("batch 4", "fresh process", "CGC over cross-entropy:", "goal: at most 1.05")),
        slow("scaling.py", ("gloo", "2 x local", "2 x gathered", "all-reduce", "MB per step", "cores")),
        slow(
            "cost_model.py",
            (
                "prediction",
                "decoding, measured here",
                "sustained",
                "data sheet",
                "hours of a run",
                "breaks first",
            ),
        ),
        (
            "loader.py",
            (
                "2 images",
                "Pillow decoding",
                "torchvision decoding",
                "views as published",
                "both views, auto, over Pillow decoding:",
                "goal: at most 1.6",
                "95 % interval",
                "windows and xe",
                "collate",
                "difference of the decoders' views in grey levels: xe 0.",
                "1 workers",
            ),
        ),
    ],
)
def test_quick_run(script: str, promised: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--quick", "--threads", "1"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "CPU threads" in run.stdout
    assert "torch " in run.stdout
    for words in promised:
        assert words in run.stdout


def test_the_two_ways_of_a_step_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ladder compares is one and the same computation."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    forms = importlib.import_module("forms")
    assert 0 < forms.agreement("cpu", algebra=False) < 1e-4
    assert 0 < forms.agreement("cpu", channels_last=True, products=True) < 1e-4


def test_make_bench_runs_every_benchmark() -> None:
    target = (ROOT / "Makefile").read_text().split("\nbench:")[1].split("\n\n")[0]
    listed = set(re.findall(r"benchmarks/(\w+\.py)", target))
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    assert listed == scripts - {"common.py", "convolutions.py", "elsewhere.py", "forms.py", "published.py"}


@pytest.mark.slow
def test_the_inputs_of_the_prediction_say_where_they_come_from() -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "benchmarks" / "cost_model.py"), "--quick", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    said = run("--decode-ms", "3", "--set", "sustained=0.5").stdout
    assert re.search(r"decode_ms +3  --decode-ms\n", said)
    assert re.search(r"sustained +0\.5  --set\n", said)
    refused = run("--set", "decode_ms=3")
    assert refused.returncode != 0
    assert "--decode-ms" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [["scaling.py"], ["saliency.py", "--workers", "1"]])
def test_cpu_time_of_other_processes_is_not_measured(command: list[str]) -> None:
    script, *options = command
    arguments = [str(ROOT / "benchmarks" / script), "--quick", "--threads", "1", "--cpu-time", *options]
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "error: --cpu-time" in run.stderr
