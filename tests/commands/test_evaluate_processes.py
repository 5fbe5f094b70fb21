"""Two processes, as torchrun starts them, give the rows of one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cgc.models.backbones import build_backbone
from tests.data.boxed_fixture import voc, voc_object
from tests.data.images import save_photograph

ROOT = Path(__file__).parents[2]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(tmp_path):
    data = tmp_path / "data"
    (data / "annotation").mkdir(parents=True)
    for index in range(7):
        name, other = ("cat", "dog") if index % 2 else ("dog", "cat")
        save_photograph(data / "val" / f"{index}.JPEG", 60 + 10 * (index % 3), 64, index)
        xml = voc(voc_object(name, (1, 1, 20 + index, 30)), voc_object(other, (5, 5, 50, 60)))
        (data / "annotation" / f"{index}.xml").write_text(xml)
    (data / "val" / "6.JPEG").write_bytes(b"gone")
    (data / "names.txt").write_text("cat\ndog\n")
    torch.manual_seed(0)
    state = build_backbone("resnet_tiny", 2).state_dict()
    torch.save({"arch": "resnet_tiny", "state_dict": state}, tmp_path / "model.pth.tar")
    arguments = ["-m", "cgc", "evaluate", str(tmp_path / "model.pth.tar"), str(data)]
    arguments += ["--classes", str(data / "names.txt"), "--metrics", "ch,pg,spg,insertion,consistency,top1"]
    arguments += ["--input_resize", "64", "--insertion-size", "48", "--steps", "4", "--image-size", "56"]
    arguments += ["-j", "0", "-b", "2", "--device", "cpu"]
    one = run(sys.executable, *arguments, "--out", str(tmp_path / "one.json"))
    assert one.returncode == 0, one.stderr
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments]
    two = run(sys.executable, *launcher, "--out", str(tmp_path / "two.json"))
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("Content Heatmap") == 1
    assert "2 processes" in two.stdout
    first, second = rows(tmp_path / "one.csv"), rows(tmp_path / "two.csv")
    assert len(first) == len(second) == 12
    for a, b in zip(first, second, strict=True):
        for name, value in a.items():
            if name in ("path", "class", "prediction") or not value:
                assert b[name] == value
            else:
                assert float(b[name]) == pytest.approx(float(value), abs=1e-5), name
    summaries = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two")]
    assert summaries[0]["skipped"] == summaries[1]["skipped"]
    assert summaries[0]["scores"]["ch"]["model"] == pytest.approx(
        summaries[1]["scores"]["ch"]["model"], abs=1e-6
    )
    assert any(float(row["consistency"]) > 0 for row in first if row["consistency"])
