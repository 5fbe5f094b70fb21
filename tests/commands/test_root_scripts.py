"""The command in every training script's docstring, run as it stands but for its paths and its size."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from cgc.commands import evaluate, extract_negatives
from cgc.commands.train_options import parse
from cgc.commands.train_presets import PRESETS
from cgc.data.folders import open_split
from cgc.data.unlabelled import open_unlabelled
from cgc.models.backbones import build_backbone
from tests.commands.runs import rows, training_folder
from tests.commands.test_train_multi_label import SHOWN, draw_split
from tests.data.images import save_photograph
from tests.data.saliency_fixture import fill

pytestmark = pytest.mark.usefixtures("plain_panels")

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    "train_eval_cgc.py": "cgc",
    "train_eval_sgc.py": "sgc",
    "train_eval_SGC.py": "sgc",
    "train_gcam_grid_consistency.py": "grid",
    "train_gcam_multiclass_grid_consistency.py": "multi-grid",
    "train_imagenet_1pc_swav_cgc_unlabeled.py": "semi-cgc",
    "train_imagenet_1pc_swav_sgc_unlabeled.py": "semi-sgc",
}
# The size of the fixture, and of a machine; everything else of a command stays.
SMALL = ["-a", "resnet_tiny", "--image-size", "32", "-j", "0", "-b", "5", "--device", "cpu"]


def published(script: str) -> list[str]:
    """The words of the docstring's command after the script's name, optional ones included."""
    text = ast.get_docstring(ast.parse((ROOT / script).read_text()))
    assert text is not None
    command = re.search(rf"python {re.escape(script)}((?:.*\\\n)*.*)", text)
    assert command is not None, text
    return re.sub(r"[\\\[\]]", " ", command[1]).split()


def random_weights(path: Path, arch: str, beside: dict[str, torch.Tensor], but: str = "-") -> Path:
    torch.manual_seed(5)
    weights = {k: v for k, v in build_backbone(arch, 1000).state_dict().items() if not k.startswith(but)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in (weights | beside).items()}}, path)
    return path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands for the words of the commands: DATA in both layouts, masks, files of weights, negatives."""
    folder = tmp_path_factory.mktemp("published")
    data = training_folder(folder / "data")
    for k in range(7):
        save_photograph(data / "unlabeled" / "deep" / f"{k}.png", 40, 36, 500 + k)
    fill(open_split(data, "train"), data / "saliency" / "train")
    fill(open_unlabelled(data / "unlabeled"), folder / "masks" / "unlabeled")
    annotations = draw_split(folder / "coco", "train2014", SHOWN, 0)
    draw_split(folder / "coco", "val2014", SHOWN[:7], 100)
    assert extract_negatives.main([str(annotations), str(folder / "negatives.npz")]) == 0
    swav = {
        "projection_head.0.weight": torch.zeros(8, 96),
        "projection_head.0.bias": torch.zeros(8),
        "prototypes.weight": torch.zeros(5, 8),
    }
    found = {
        "DATA": data,
        "COCO": folder / "coco",
        "MASKS": folder / "masks",
        "negatives.npz": folder / "negatives.npz",
        "swav_800ep_pretrain.pth.tar": random_weights(folder / "swav.pth.tar", "resnet_tiny", swav, "fc."),
        "IMAGENET.pth.tar": random_weights(folder / "imagenet.pth.tar", "resnet_tiny", {}),
    }
    return {word: str(place) for word, place in found.items()}


def filled_in(script: str, places: dict[str, str], work: Path) -> list[str]:
    data = places["COCO" if "multiclass" in script else "DATA"]
    own = {**places, "DATA": data, "RUN": str(work / "run"), "LOGS": str(work / "logs")}
    return [own.get(word, word) for word in published(script)]


def run(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert stop.value.code == 0


def test_every_training_script_is_here() -> None:
    assert {path.name for path in ROOT.glob("train_*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_published_command_runs(
    script: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains, goes on from its checkpoint, and the evaluator reads what it left."""
    words, folder = [*filled_in(script, places, tmp_path), *SMALL], tmp_path / "run"
    run(script, [*words, "--epochs", "1"], monkeypatch)
    run(script, [*words, "--epochs", "2", "--resume", str(folder / "checkpoint_001.pth.tar")], monkeypatch)
    assert [row["epoch"] for row in rows(folder)] == ["1", "2"]
    out = tmp_path / "scores.json"
    metric = "f1" if "multiclass" in script else "top1"
    scored = [str(folder / "model_best.pth.tar"), words[0], "--metrics", metric, "--input_resize", "32"]
    assert evaluate.main([*scored, "-j", "0", "--device", "cpu", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    last = rows(folder)[-1]
    assert found["multi_label"] if metric == "f1" else found["counted"]["top1"] == 6
    assert ("val_overall_f1" if metric == "f1" else "val_top1") in last


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_published_command_names_the_defaults(script: str) -> None:
    """What the README spells out is what the script does without it; only paths, workers and network differ."""
    preset = PRESETS[SCRIPTS[script]]
    spelt, short = asdict(parse(published(script), preset)), asdict(parse(["DATA"], preset))
    differ = {name for name in spelt if spelt[name] != short[name]}
    assert differ <= {
        "workers",
        "arch",
        "resume",
        "save_dir",
        "log_dir",
        "saliency",
        "negative_images",
        "maxpool",
    }
    assert str(spelt["save_dir"]) == "RUN"
