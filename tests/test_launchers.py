"""Every published evaluation command, run as written from its own folder, against scores worked out by hand.

The network (``tests.bright_network``) sees brightness alone: images are white up to column 208 and black beyond, so the
map is 1 up to column 207, falls evenly to 0 at 240, and holds 208 + 16 = 224 columns' worth of mass.
"""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cgc.data.boxed_views import ViewSizes, decode_views
from cgc.data.presets import normalise
from cgc.metrics.insertion import blurred
from cgc.models.loading import load_model
from tests.bright_network import bright_resnet, left_white, profile, save_released
from tests.data.boxed_fixture import voc, voc_object

ROOT = Path(__file__).parents[1]
BENCHMARK = ROOT / "TorchRay" / "torchray" / "benchmark"
ALL_ROWS = (1, 448)  # first and last row of every box, 1-based

# Mass, in columns, of the falling part: columns 208 to 208 + n - 1.
FALLING = {n: n - n * n / 64 for n in (16, 30)}
CH = {"a": 112 / 224, "b": (96 + FALLING[16]) / 224, "c": (208 + FALLING[16]) / 224}
SPG = {"a": 126 / 224, "b": (110 + FALLING[30]) / 224, "c": (208 + FALLING[30]) / 224}


def columns(first: int, last: int) -> tuple[int, int, int, int]:
    """A box over all rows, 0-based columns to VOC's 1-based ones."""
    return (first + 1, ALL_ROWS[0], last + 1, ALL_ROWS[1])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("launchers")


def write_voc(root: Path, first: str, second: str) -> Path:
    """a: one box; b: two boxes of the second class; c: a difficult object; d: a black image, whose map is zero."""
    objects = {
        "a": [voc_object(first, columns(0, 111))],
        "b": [voc_object(second, columns(112, 223)), voc_object(second, columns(300, 447))],
        "c": [voc_object(first, columns(0, 223), difficult=1)],
        "d": [voc_object(first, columns(0, 223))],
    }
    (root / "annotation").mkdir(parents=True)
    for name, each in objects.items():
        left_white(root / "val" / f"{name}.JPEG", 0 if name == "d" else 208)
        (root / "annotation" / f"{name}.xml").write_text(voc(*each))
    return root


@pytest.fixture(scope="module")
def imagenet(work):
    return write_voc(work / "imagenet", "n01440764", "n01443537")


@pytest.fixture(scope="module")
def checkpoint(work):
    return save_released(bright_resnet("resnet18", 1000), work / "resnet18.pth.tar", "resnet18")


def run(script: Path, monkeypatch, out: Path, *arguments: object) -> dict:
    """The script as a program in its own folder; its summary."""
    monkeypatch.chdir(script.parent)
    words = [str(argument) for argument in arguments]
    monkeypatch.setattr(
        sys, "argv", [script.name, *words, "--device", "cpu", "--bootstrap", "20", "--out", str(out)]
    )
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    return json.loads(out.read_text())


def published(data: Path, resume: Path, arch: str = "resnet18") -> list[object]:
    return [data, "-j", 0, "-b", 1, "--resume", resume, "--input_resize", 448, "-a", arch]


def mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def check_energy(content: dict, weighting: str) -> None:
    assert content["scores"]["ch"]["model"] == pytest.approx(mean(CH), abs=1e-5)
    uniform = (112 + (112 + 148) + 224) / 448 / 3
    assert content["scores"]["ch"]["uniform"] == pytest.approx(uniform, abs=1e-6)
    assert (content["zero_maps"], content["counted"]["ch"], content["top1"]) == (1, 3, 0.75)
    assert content["settings"]["weighting"] == weighting
    assert set(content["scores"]) == {"ch"}


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_imagenet_energy(arch, work, imagenet, monkeypatch, capsys):
    resume = save_released(bright_resnet(arch, 1000), work / f"{arch}-energy.pth.tar", arch)
    script = BENCHMARK / "evaluate_imagenet_gradcam_energy_inside_bbox.py"
    check_energy(run(script, monkeypatch, work / "e.json", *published(imagenet, resume, arch)), "elementwise")
    shown = capsys.readouterr().out
    assert f"{100 * mean(CH):.2f}" in shown
    assert "zero maps: 1 (left out" in shown


def test_the_architecture_may_be_left_out(work, imagenet, checkpoint, monkeypatch):
    script = BENCHMARK / "evaluate_imagenet_gradcam_energy_inside_bbox.py"
    arguments = published(imagenet, checkpoint)[:-2]
    check_energy(run(script, monkeypatch, work / "e2.json", *arguments), "elementwise")


def test_root_script_gives_all_localisation_scores(work, imagenet, checkpoint, monkeypatch):
    script = ROOT / "evaluate_gradcam_energy_inside_bbox.py"
    scores = run(script, monkeypatch, work / "r.json", *published(imagenet, checkpoint))["scores"]
    assert scores["ch"]["model"] == pytest.approx(mean(CH), abs=1e-5)
    assert scores["pg"]["model"] == 0.5
    assert scores["spg"]["model"] == pytest.approx(mean(SPG), abs=1e-5)


def test_pointing_game(work, imagenet, checkpoint, monkeypatch):
    script = BENCHMARK / "evaluate_imagenet_gradcam_pointinggame.py"
    content = run(script, monkeypatch, work / "p.json", *published(imagenet, checkpoint))
    # The largest value is at the first pixel: a hits, b is 112 px away, c is difficult, d is zero; classes count alike.
    assert content["scores"]["pg"]["model"] == 0.5
    assert (content["counted"]["pg"], content["all_difficult"]) == (2, 1)
    assert content["tolerance_px"] == [15]


def test_stochastic_pointing_game(work, imagenet, checkpoint, monkeypatch):
    script = BENCHMARK / "evaluate_imagenet_gradcam_stochastic_pointinggame.py"
    content = run(script, monkeypatch, work / "s.json", *published(imagenet, checkpoint))
    assert content["scores"]["spg"]["model"] == pytest.approx(mean(SPG), abs=1e-5)
    drawn = run(script, monkeypatch, work / "s.json", *published(imagenet, checkpoint), "--spg-samples", 100)
    sigma = (sum(p * (1 - p) / 100 for p in SPG.values()) ** 0.5) / 3
    assert drawn["scores"]["spg"]["model"] == pytest.approx(mean(SPG), abs=4 * sigma)


def test_fine_grained_energy(work, monkeypatch):
    data = write_voc(work / "cub", "001.Black_footed_Albatross", "002.Laysan_Albatross")
    resume = save_released(bright_resnet("resnet18", 200), work / "cub.pth.tar", "resnet18")
    script = BENCHMARK / "evaluate_finegrained_gradcam_energy_inside_bbox.py"
    arguments = [*published(data, resume), "--dataset", "cub"]
    check_energy(run(script, monkeypatch, work / "c.json", *arguments), "channel")


def test_swav_energy(work, imagenet, monkeypatch):
    network = bright_resnet("resnet18", 1000)
    resume = save_released(network, work / "swav.pth.tar", None, head="projection_head")
    script = BENCHMARK / "evaluate_swav_imagenet_gradcam_energy_inside_bbox.py"
    check_energy(run(script, monkeypatch, work / "w.json", *published(imagenet, resume)), "channel")


def test_excitation_backprop_energy(work, imagenet, checkpoint, monkeypatch):
    script = BENCHMARK / "evaluate_imagenet_excitation_backprop_energy_inside_bbox.py"
    content = run(script, monkeypatch, work / "x.json", *published(imagenet, checkpoint))
    # Windows of 7 columns of the 14 of layer4 hold 7, 6, …, 0 bright ones; a window's relevance goes to those evenly.
    # Of layer3's 28 columns the even ones were read. All weights are positive: the contrast takes nothing away.
    bright = np.array([7, 6, 5, 4, 3, 2, 1, 0])
    channels = zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    brightness = float(np.mean([(1 - mean) / std for mean, std in channels]))

    def column_mass(weight: float) -> np.ndarray:
        grid, relevance = np.zeros(14), np.exp(weight * brightness * bright / 7)
        for start, (r, count) in enumerate(zip(relevance / relevance.sum(), bright, strict=True)):
            grid[start : start + count] += r / max(count, 1)
        layer3 = np.zeros(28)
        layer3[::2] = grid
        mass = np.interp(np.clip((np.arange(448) + 0.5) / 16 - 0.5, 0, 27), np.arange(28), layer3)
        return mass / mass.sum()

    first, second = column_mass(2), column_mass(1)  # the classes' weights
    expected = [first[:112].sum(), second[112:224].sum() + second[300:].sum(), first[:224].sum()]
    assert content["scores"]["ch"]["model"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert content["settings"]["explainer"] == "contrastive-excitation"


@pytest.fixture(scope="module")
def coco(work):
    pytest.importorskip("pycocotools")
    root = work / "coco"
    left_white(root / "val2014" / "COCO_val2014_000000000001.jpg", 208)
    left_white(root / "val2014" / "COCO_val2014_000000000002.jpg", 208)
    left_white(root / "val2014" / "COCO_val2014_000000000003.jpg", 208)

    def annotation(number: int, image: int, category: int, first: int, last: int) -> dict:
        rectangle = [first, 0, last + 1, 0, last + 1, 448, first, 448]
        box = [first, 0, last + 1 - first, 448]
        return {"id": number, "image_id": image, "category_id": category, "segmentation": [rectangle],
                "bbox": box, "area": 1, "iscrowd": 0}  # fmt: skip

    content = {
        "images": [
            {"id": i, "file_name": f"COCO_val2014_00000000000{i}.jpg", "height": 448, "width": 448}
            for i in (1, 2, 3)
        ],
        "categories": [{"id": i, "name": f"thing{i}"} for i in range(1, 81)],
        "annotations": [
            annotation(1, 1, 1, 0, 111),
            annotation(2, 1, 2, 112, 223),
            annotation(3, 1, 2, 300, 447),
            annotation(4, 2, 1, 0, 223),
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    return root


def test_coco_pointing_game_and_content_heatmap(work, coco, monkeypatch):
    resume = save_released(bright_resnet("resnet18", 80), work / "coco.pth.tar", "resnet18")
    script = BENCHMARK / "evaluate_coco_gradcam_pointinggame_and_content_heatmap.py"
    content = run(script, monkeypatch, work / "o.json", *published(coco, resume))
    assert (content["images"], content["rows"], content["settings"]["weighting"]) == (2, 3, "channel")
    assert content["scores"]["ch"]["model"] == pytest.approx(mean(CH), abs=1e-5)
    assert content["scores"]["pg"]["model"] == 0.5  # thing1: two hits; thing2: a miss
    # Class 0 alone is predicted, in both images: right twice, and thing2 of the first image is missed.
    found = [content["multi_label"][f"overall_{name}"] for name in ("precision", "recall", "f1")]
    assert found == pytest.approx([1, 2 / 3, 0.8])
    assert sum(map(len, content["skipped"].values())) == 1  # the third image has no annotation


def test_coco_stochastic_pointing_game(work, coco, monkeypatch):
    resume = save_released(bright_resnet("resnet18", 80), work / "coco2.pth.tar", "resnet18")
    script = BENCHMARK / "evaluate_coco_gradcam_stochastic_pointinggame.py"
    content = run(script, monkeypatch, work / "s2.json", *published(coco, resume))
    assert content["scores"]["spg"]["model"] == pytest.approx(mean(SPG), abs=1e-5)
    assert content["counted"]["spg"] == 3


def test_coco_stochastic_pointing_game_from_another_head(work, coco, checkpoint, monkeypatch, capsys):
    script = BENCHMARK / "evaluate_coco_gradcam_stochastic_pointinggame.py"
    content = run(script, monkeypatch, work / "t.json", *published(coco, checkpoint))
    assert "fresh" in capsys.readouterr().err  # a head of 1000 classes only initialises the network
    # A class's map is as ever where the fresh head's weight of channel 0 is positive, else zero.
    head = load_model("resnet18", checkpoint, 80, other_head="initialise").backbone.fc.weight
    counted = [spg for spg, label in zip(SPG.values(), (0, 1, 0), strict=True) if head[label, 0] > 0]
    assert (content["counted"]["spg"], content["zero_maps"]) == (len(counted), 3 - len(counted))
    if counted:
        assert content["scores"]["spg"]["model"] == pytest.approx(np.mean(counted), abs=1e-5)


def test_weightings_differ_where_the_head_lets_them(work, imagenet, checkpoint, monkeypatch):
    """Behind a max pool the element-wise map is the first largest cell alone, top left; the channel map is as ever."""
    for name, expected in (("imagenet", 2 / 3), ("finegrained", mean(CH))):
        script = BENCHMARK / f"evaluate_{name}_gradcam_energy_inside_bbox.py"
        content = run(script, monkeypatch, work / "m.json", *published(imagenet, checkpoint), "--maxpool")
        assert content["scores"]["ch"]["model"] == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def labelled(work):
    root = work / "labelled"
    for index, name in enumerate(("n01440764", "n01443537")):
        left_white(root / "val" / name / f"{index}.JPEG", 96 + 16, (300, 256))
    return root


@pytest.mark.parametrize(
    "script", [ROOT / "evaluate_auc_metrics.py", ROOT / "RISE" / "evaluate_auc_metrics.py"]
)
def test_insertion_and_deletion(script, work, labelled, checkpoint, monkeypatch):
    monkeypatch.setenv("IMAGENET_DIR", str(labelled))
    arguments = ["--ckpt-path", checkpoint, "-j", 0, "--steps", 4, "--trivial-images", 0]
    content = run(script, monkeypatch, work / "a.json", *arguments)
    named = run(script, monkeypatch, work / "a2.json", "--data", labelled, *arguments)
    assert named["scores"] == content["scores"]
    assert content["settings"]["weighting"] == "channel"
    network = bright_resnet("resnet18", 1000)
    path = labelled / "val" / "n01440764" / "0.JPEG"
    view = decode_views(path, (300, 256), ViewSizes(square=224)).square
    intact = normalise(view.permute(2, 0, 1)[None])
    # White up to column 112 · 224 / 256 = 98 of the square view: the map is 1 in the first four of seven columns.
    position = np.clip((np.arange(224) + 0.5) / 32 - 0.5, 0, 6)
    value = np.tile(np.clip(4 - position, 0, 1), (224, 1))
    order = np.argsort(-value.ravel(), kind="stable")
    blurry = blurred(intact)
    for metric, start, end in (("insertion", blurry, intact), ("deletion", intact, torch.zeros_like(intact))):
        probabilities = []
        for shown in (0, 12544, 25088, 37632, 50176):
            mask = torch.zeros(224 * 224, dtype=torch.bool)
            mask[torch.from_numpy(order[:shown].copy())] = True
            image = torch.where(mask.view(224, 224), end, start)
            with torch.no_grad():
                probabilities.append(float(network(image).softmax(1)[0, 0]))
        assert max(probabilities) - min(probabilities) > 0.01
        area = (sum(probabilities) - (probabilities[0] + probabilities[-1]) / 2) / 4
        assert content["scores"][metric]["model"] == pytest.approx(area, abs=1e-5)


def test_insertion_without_a_folder_says_so(monkeypatch, capsys):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    script = ROOT / "RISE" / "evaluate_auc_metrics.py"
    monkeypatch.setattr(sys, "argv", [script.name, "--pretrained"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "--data" in message
    assert "$IMAGENET_DIR" in message


@pytest.mark.parametrize(
    "script", sorted([*BENCHMARK.glob("evaluate_*.py"), ROOT / "RISE" / "evaluate_auc_metrics.py"])
)
def test_launchers_hold_no_logic(script):
    tree = ast.parse(script.read_text())
    assert len(script.read_text().splitlines()) <= 30
    kinds = {type(node) for node in ast.walk(tree)}
    assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try, ast.ListComp}
    assert len(tree.body) == 4  # docstring, two imports, the call


def test_a_launcher_finds_the_project_from_its_own_folder():
    script = BENCHMARK / "evaluate_imagenet_gradcam_pointinggame.py"
    done = subprocess.run(
        [sys.executable, script.name, "--help"],
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--input_resize" in done.stdout


def test_the_profile_is_the_one_in_the_comments():
    assert profile(208)[:112].sum() == pytest.approx(0.5)
    assert profile(208)[112:224].sum() == pytest.approx(CH["b"])
    assert profile(208)[98:238].sum() == pytest.approx(SPG["b"])
    assert profile(208)[:238].sum() == pytest.approx(SPG["c"])
