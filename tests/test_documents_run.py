"""The commands of README and docs, really run, one document after the other as a reader would, on a drawn miniature.

Words such as DATA or CHECKPOINT are files and folders of these names. Sizes are brought down by options that are added
at the end of a command; everything else of it stays.
"""

from __future__ import annotations

import runpy
import shlex
import shutil
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.__main__ import main as cgc_main
from cgc.commands import evaluate, label_subset, training_panels
from cgc.data.shapes import CLASSES, draw_image
from cgc.models.backbones import build_backbone
from tests.commands.runs import training_folder
from tests.commands.test_root_scripts import random_weights
from tests.commands.test_train_multi_label import SHOWN, draw_split
from tests.data.boxed_fixture import voc, voc_object
from tests.data.images import save_photograph
from tests.documents import ROOT, blocks, documented, name_of, typed
from tests.models.test_u2net import random_weights as u2net_weights
from tests.test_documented_commands import WITH_COMMANDS, meant

# Commands that cannot be run here, and why.
NOT_HERE = {
    "make *": "what the targets run is run by other tests",
    "pip install *": "needs a package index",
    "python3 benchmarks/*": "hours on an idle machine; tests/test_benchmarks.py runs each with --quick",
    "python train_eval_cgc.py https://*": "needs a server; tests/commands/test_train_shards.py has one",
    "python -m cgc prepare * --out *": "needs archives or the network; tests/commands/test_prepare.py makes small ones",
    "python -m cgc reproduce run *": "hours; tests/commands/test_reproduce.py runs tables at the tiny scale",
    "python -m cgc train DATA -a resnet50 --pretrained *": "downloads ImageNet's weights",
    "python -m tests.reliability.*": "many minutes; tests/reliability runs each of them short",
    "python -m pytest *": "the tests themselves",
    "torchrun --nproc_per_node=4 *": "four processes; tests/commands/test_evaluate_processes.py starts two",
}
WNIDS = ("n01440764", "n01443537", "n02056570")
KEPT_EPOCHS = 30  # longer trainings are cut to one epoch
_TRAIN = "-a resnet_tiny --image-size 32 -j 0 -b 5 --device cpu"
_SIDES = "--input_resize 32 -b 5 -j 0 --device cpu"
_EVALUATE = f"{_SIDES} --insertion-size 32 --image-size 32 --resize-size 32 --bootstrap 20 --steps 2"
_EVALUATE += " --trivial-images 1 --rise-masks 4"
# What is added to a program's options.
SMALLER = {
    "train": _TRAIN,
    "train_*_sgc*.py": f"{_TRAIN} --missing-mask full",  # some masks of random weights are empty
    "train_*.py": _TRAIN,
    "evaluate": _EVALUATE,
    "evaluate_*.py": _EVALUATE,
    "report": f"{_SIDES} --images 2 --draws 20",
    "show": "--limit 2 --side 40 --input_resize 32 --image-size 32 --device cpu",
    "compare": "--draws 20",
    "demo": "--per-class 2 --held-out 2 --device cpu",
    "saliency-masks": "--device cpu -j 0 --size 32",
    "make-shards": "-j 0",
    "examples/compare_on_tiny_imagenet.py": "--epochs 1 --seeds 1 --methods baseline",
}


def draw_tiny(root: Path) -> Path:
    """Three classes in tiny-imagenet's layout, four training images and two held-out ones of each, with their boxes."""
    rng = np.random.default_rng(0)

    def draw(path: Path, shape: str) -> str:
        drawn = draw_image(shape, 40, rng, correlation=0.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.pixels).save(path, quality=95)
        return "\t".join(map(str, drawn.box))

    held_out = []
    for wnid, shape in zip(WNIDS, CLASSES, strict=False):
        names = [f"{wnid}_{k}.JPEG" for k in range(4)]
        boxes = [draw(root / "train" / wnid / "images" / name, shape) for name in names]
        table = "".join(f"{name}\t{box}\n" for name, box in zip(names, boxes, strict=True))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(table)
        for _ in range(2):
            name = f"val_{len(held_out)}.JPEG"
            held_out.append(f"{name}\t{wnid}\t{draw(root / 'val' / 'images' / name, shape)}\n")
    (root / "val" / "val_annotations.txt").write_text("".join(held_out))
    return root


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the documents name and do not make."""
    folder = tmp_path_factory.mktemp("stage")
    data = draw_tiny(folder / "DATA")
    (folder / "tiny-imagenet-10").symlink_to("DATA")
    for table in data.glob("train/*/*_boxes.txt"):
        for line in table.read_text().splitlines():
            name, *box = line.split("\t")
            xml = folder / "XML" / table.parent.name / f"{Path(name).stem}.xml"
            xml.parent.mkdir(parents=True, exist_ok=True)
            xml.write_text(voc(voc_object(table.parent.name, tuple(int(value) + 1 for value in box))))
    imagenet = training_folder(folder / "IMAGENET")
    listed = [path.relative_to(imagenet / "train").as_posix() for path in imagenet.glob("train/*/[01].png")]
    (folder / "1percent.txt").write_text("\n".join(sorted(listed)) + "\n")
    draw_split(folder / "COCO", "train2014", SHOWN, 0)
    draw_split(folder / "COCO", "val2014", SHOWN[:7], 100)
    for k in range(2):
        save_photograph(folder / "FOLDER" / f"{k}.jpg", 50, 40, k)
    swav = {"projection_head.0.weight": torch.zeros(8, 96), "projection_head.0.bias": torch.zeros(8)}
    swav["prototypes.weight"] = torch.zeros(5, 8)
    random_weights(folder / "swav_800ep_pretrain.pth.tar", "resnet_tiny", swav, "fc.")
    random_weights(folder / "IMAGENET.pth.tar", "resnet_tiny", {})
    torch.save(u2net_weights("u2netp"), folder / "u2net.pth")
    released = {"epoch": 1, "arch": "resnet_tiny", "best_acc1": 0.0, "optimizer": {}}
    for name in (
        "CHECKPOINT",
        "FILE",
        *(f"runs/{run}/checkpoint_001.pth.tar" for run in ("baseline", "cgc")),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        weights = build_backbone("resnet_tiny", len(WNIDS)).state_dict()
        torch.save({**released, "state_dict": weights}, folder / name)
    (folder / "docs" / "images").mkdir(parents=True)
    metrics = "ch,pg,spg,insertion,deletion,top1"
    for name in ("baseline", "b"):
        words = [folder / "CHECKPOINT", data, "--metrics", metrics, "--out", folder / f"{name}.json"]
        words += ["--save-maps", folder / f"{name}_maps"]
        assert evaluate.main([*map(str, words), *_EVALUATE.split()]) == 0
    labels = [data, "--percent", "50", "--out", folder / "LABELS", "--links"]
    assert label_subset.main([str(word) for word in labels]) == 0
    return folder


def reason(words: Sequence[str]) -> str | None:
    """Why a command is not run here."""
    return next((why for what, why in NOT_HERE.items() if fnmatch(" ".join(words), what)), None)


def smaller(program: str, words: Sequence[str]) -> list[str]:
    added = next((more.split() for name, more in SMALLER.items() if fnmatch(program, name)), [])
    if program.startswith("train"):
        at = words.index("--epochs") + 1 if "--epochs" in words else None
        added += ["--epochs", "1"] if at is None or int(words[at]) > KEPT_EPOCHS else []
    return added


def run(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit status of a command, run in this process."""
    words = ["python", "-m", *words] if words[0] == "cgc" else list(words)
    assert words[0] in ("python", "python3"), words
    if words[1] == "-c":
        exec(compile(words[2], "-c", "exec"), {})
        return 0
    if words[1] == "-m":
        assert words[2] == "cgc", words
        return cgc_main([*words[3:], *smaller(words[3], words)])
    monkeypatch.setattr(sys, "argv", [*words[1:], *smaller(words[1], words)])
    try:
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("document", WITH_COMMANDS, ids=name_of)
def test_the_commands_run_one_after_the_other(
    document: Path,
    stage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Their compression takes longer than all the rest.
    monkeypatch.setattr(
        training_panels, "panel_row", lambda *_, **__: np.full((8, 8, 3), 127, dtype=np.uint8)
    )
    work = tmp_path / "work"
    shutil.copytree(stage, work, symlinks=True)
    chain = [typed(block.commands, tmp_path) for block in blocks(document) if block.commands]
    monkeypatch.chdir(work)
    for commands in chain:
        for (
            words
        ) in commands:  # a block trains anew what another one has trained: the document names alternatives
            if "--save_dir" in words:
                shutil.rmtree(words[words.index("--save_dir") + 1], ignore_errors=True)
        for words in (words for words in commands if reason(words) is None):
            status = run(meant(words), monkeypatch)
            assert status in (0, None), f"{shlex.join(words)}: {status}\n{capsys.readouterr().err[-3000:]}"
            capsys.readouterr()


def test_what_is_not_run_stands_in_the_documents(tmp_path: Path) -> None:
    every = [" ".join(words) for document in WITH_COMMANDS for words in documented(document, tmp_path)]
    for what in NOT_HERE:
        assert any(fnmatch(line, what) for line in every), f"no document has: {what}"


def test_every_addition_is_used(tmp_path: Path) -> None:
    every = [words for document in WITH_COMMANDS for words in documented(document, tmp_path)]
    programs = {
        words[3] if words[1] == "-m" else words[1] for words in every if len(words) > 3 or words[1] != "-m"
    }
    for name in SMALLER:
        assert any(fnmatch(program, name) for program in programs), f"no document runs {name}"
