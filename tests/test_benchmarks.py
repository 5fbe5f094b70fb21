"""The benchmarks run from a checkout and print what they promise; what they measure is not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("script", "promised"),
    [
        ("loss.py", ("N 8", "over copying:", "as published", "goal: at least 80", "N 4")),
        ("evaluate.py", ("CH, PG, SPG and top-1", "insertion AUC", "bare forwards", "95 % interval")),
        ("methods.py", ("GC over two passes:", "SGC over CGC:", "95 % interval")),
        ("step.py", ("batch 4", "interleaved pairs", "CGC over cross-entropy:", "95 % interval")),
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
