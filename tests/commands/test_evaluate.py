"""The localisation evaluator from its command line: numbers, files, and one clear line for bad input."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.commands import evaluate
from cgc.commands.evaluate import main
from cgc.data.boxed_views import ViewSizes
from cgc.data.boxes import BoxedImage
from cgc.evaluation.loader import Preparation, evaluation_loader
from cgc.models.backbones import build_backbone
from cgc.models.loading import load_model
from tests.data.boxed_fixture import scored_folder
from tests.evaluation.stand_ins import looks_left, subject


@pytest.fixture
def folder(tmp_path):
    return scored_folder(tmp_path / "data")


@pytest.fixture
def arguments(folder, tmp_path):
    backbone = build_backbone("resnet_tiny", 2)
    weights = {f"module.{name}": value for name, value in backbone.state_dict().items()}
    content = {"epoch": 1, "arch": "resnet_tiny", "state_dict": weights, "best_acc1": 0.0, "optimizer": {}}
    torch.save(content, tmp_path / "model.pth.tar")
    return [str(folder), "--resume", str(tmp_path / "model.pth.tar"), "--classes", str(folder / "names.txt"),
            "--input_resize", "64", "-j", "0", "--device", "cpu"]  # fmt: skip


def test_numbers_and_files(monkeypatch, folder, arguments, tmp_path, capsys):
    monkeypatch.setattr(evaluate, "_subject", lambda *_: subject(looks_left))
    out = tmp_path / "new" / "scores.json"
    assert main([*arguments, "--out", str(out), "--save-overlays", "2"]) == 0
    shown = capsys.readouterr().out
    lines = {
        line.split("  ")[0]: line.replace("[", " ").replace("]", " ").replace(",", " ").split()
        for line in shown.splitlines()
        if line
    }
    assert lines["top-1"][1] == "40.00"
    assert lines["top-1"][-1] == "5"
    ch, pg, spg = lines["Content Heatmap"][2:], lines["Pointing Game"][2:], lines["Stochastic PG"][2:]
    # model, interval, uniform, Gaussian, random, rows
    assert (ch[0], ch[3], ch[-1]) == ("34.38", "37.75", "4")
    assert (pg[0], *pg[3:5], pg[-1]) == ("50.00", "50.00", "25.00", "3")
    assert spg[0] == "35.92"
    assert float(ch[1]) < 34.38 < float(ch[2])
    for text in ("pointing tolerance: 3 px", "zero maps: 1 (left out", "skipped: 3", "1 clipped", "f.xml"):
        assert text in shown
    content = json.loads(out.read_text())
    assert content["scores"]["ch"]["model"] == pytest.approx(0.3438, abs=1e-6)
    assert content["counted"] == {"ch": 4, "pg": 3, "spg": 4, "top1": 5}
    assert set(content["skipped"]) == {"malformed annotation", "no annotation", "unreadable image"}
    with out.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"val/{name}.JPEG" for name in ("a one box", "b", "c", "d", "e")]
    assert [row["class"] for row in rows] == ["cat", "cat", "wild dog", "wild dog", "wild dog"]
    assert [row["pg"] for row in rows] == ["1", "1", "", "", "0"]
    assert rows[3]["ch"] == ""
    assert float(rows[0]["ch"]) == pytest.approx(0.875, abs=1e-6)
    pictures = sorted(out.with_name("scores_overlays").iterdir())
    assert [picture.name for picture in pictures] == ["000000_a one box.png", "000004_e.png"]
    assert np.asarray(Image.open(pictures[0])).shape[:2] == (338, 644)


def test_a_real_checkpoint_runs_and_options_matter(arguments, tmp_path):
    scores = {}
    for extra in ([], ["--tolerance", "40"], ["--zero-maps", "uniform", "--weighting", "channel", "-b", "1"]):
        out = tmp_path / "scores.json"
        assert main([*arguments, *extra, "--out", str(out)]) == 0
        scores[" ".join(extra)] = json.loads(out.read_text())
    plain, wide = scores[""], scores["--tolerance 40"]
    assert plain["tolerance_px"] == [3]
    assert wide["tolerance_px"] == [40]
    assert wide["scores"]["spg"]["uniform"] > plain["scores"]["spg"]["uniform"]
    assert wide["scores"]["ch"] == plain["scores"]["ch"]


def test_the_model_is_left_as_it_was(monkeypatch, arguments):
    kept = []

    def keep(*args, **kwargs):
        model = load_model(*args, **kwargs).train()
        kept.append((model, {name: value.clone() for name, value in model.state_dict().items()}))
        return model

    monkeypatch.setattr(evaluate, "load_model", keep)
    assert main(arguments) == 0
    [(model, before)] = kept
    assert all(module.training for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before.keys() == after.keys()
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({0: "nowhere"}, "nowhere: no such folder"),
        ({2: "missing.pth.tar"}, "missing.pth.tar"),
        ({4: "names.missing"}, "names.missing"),
        ({10: "warp"}, "device 'warp'"),
        ({11: "--out", 12: "scores.csv"}, "must end in .json"),
        ({11: "--dataset", 12: "cub"}, "2 classes, but cub has 200"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, change, text, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    positions = dict(enumerate(arguments)) | change
    assert main([positions[i] for i in sorted(positions)]) == 2
    message = capsys.readouterr().err.strip()
    assert text in message
    assert "\n" not in message


def test_no_readable_image_is_status_2(arguments, folder, capsys):
    for image in (folder / "val").iterdir():
        image.write_bytes(b"gone")
    assert main(arguments) == 2
    assert "no image can be scored (1 × malformed annotation" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["-b", "0"], ["--tolerance", "-1"], ["--weighting", "other"], ["-j", "x"]]
)
def test_bad_options_are_refused(arguments, option):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *option])
    assert stop.value.code == 2


def test_the_root_script_is_this_command():
    script = Path(__file__).parents[2] / "evaluate_gradcam_energy_inside_bbox.py"
    contents = runpy.run_path(str(script))
    assert contents["main"] is main
    assert "python evaluate_gradcam_energy_inside_bbox.py DATA -a resnet50" in contents["__doc__"]


def test_outputs_that_cannot_be_written_are_refused_before_the_work(arguments, tmp_path, capsys):
    (tmp_path / "scores.csv").mkdir()
    assert main([*arguments, "--out", str(tmp_path / "scores.json")]) == 2
    assert "scores.csv is a folder" in capsys.readouterr().err


def test_maps_come_from_one_place(arguments, tmp_path, capsys):
    (tmp_path / "maps").mkdir()
    for more in (["--explainer", "rise"], ["--layer", "layer2"]):
        assert main([*arguments, "--maps", str(tmp_path / "maps"), *more]) == 2
        assert "not from both" in capsys.readouterr().err


def test_metrics_of_the_labels_must_fit_the_data(arguments, capsys):
    assert main([*arguments, "--metrics", "ch,f1"]) == 2
    assert "one label per image: f1 is not defined" in capsys.readouterr().err


def test_categories_that_are_several_classes(folder, tmp_path, monkeypatch, capsys):
    """Rows are named by category, in the CSV, in saved maps and in the pointing game's classes."""
    from cgc.commands.compare import main as compare

    for name in ("a one box", "b"):
        xml = "".join(
            f"<object><name>{category}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{right}</xmax>"
            "<ymax>100</ymax></bndbox></object>"
            for category, right in (("pet", 50), ("puppy", 25))
        )
        (folder / "annotation" / f"{name}.xml").write_text(f"<annotation>{xml}</annotation>")
    (folder / "names.txt").write_text("cat\nwild_dog\n")
    (tmp_path / "map.txt").write_text("puppy\tcat\npet\tcat wild_dog\n")
    torch.manual_seed(0)
    torch.save(
        {"arch": "resnet_tiny", "state_dict": build_backbone("resnet_tiny", 2).state_dict()},
        tmp_path / "m.pth",
    )
    words = [str(folder), "--classes", str(folder / "names.txt"), "--class-map", str(tmp_path / "map.txt")]
    words += [
        "--input_resize",
        "64",
        "-j",
        "0",
        "--device",
        "cpu",
        "--zero-maps",
        "uniform",
        "--bootstrap",
        "0",
    ]
    maps, one, two = tmp_path / "maps", tmp_path / "one.json", tmp_path / "two.json"
    assert main([str(tmp_path / "m.pth"), *words, "--save-maps", str(maps), "--out", str(one)]) == 0
    with one.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["puppy", "pet", "puppy", "pet"]
    assert {row["explained"] for row in rows} <= {"cat", "wild_dog"}
    with np.load(maps / "val" / "b.npz") as file:
        assert sorted(file) == ["pet", "puppy"]
    hits = {name: [float(row["pg"]) for row in rows if row["class"] == name] for name in ("puppy", "pet")}
    expected = sum(sum(each) / len(each) for each in hits.values()) / 2
    assert json.loads(one.read_text())["scores"]["pg"]["model"] == pytest.approx(expected)
    assert main([*words, "--maps", str(maps), "--metrics", "ch,pg", "--out", str(two)]) == 0
    assert json.loads(two.read_text())["scores"]["pg"]["model"] == pytest.approx(expected)
    capsys.readouterr()
    assert compare([str(one.with_suffix(".csv")), str(two.with_suffix(".csv"))]) == 0
    assert "4 rows in both" in capsys.readouterr().out


def test_names_that_are_no_text_do_not_end_a_run(arguments, folder, tmp_path, capsys):
    import os

    odd = os.fsencode(folder / "val") + b"/odd\xff.JPEG"
    try:
        os.rename(os.fsencode(folder / "val" / "b.JPEG"), odd)
    except OSError:
        pytest.skip("this file system has only text for names")
    (folder / "annotation" / "b.xml").rename(
        os.fsdecode(os.fsencode(folder / "annotation") + b"/odd\xff.xml")
    )
    (folder / "val" / "broken\udcff.JPEG").write_bytes(b"no image")
    assert main([*arguments, "--out", str(tmp_path / "scores.json")]) == 0
    assert "odd\\udcff.JPEG" in (tmp_path / "scores.csv").read_text(encoding="utf-8")
    assert any(
        "broken" in name
        for names in json.loads((tmp_path / "scores.json").read_text())["skipped"].values()
        for name in names
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--amp", "bf16", "--explainer", "rise"], "rise computes in float32"),
        (["--save-maps", "DATA"], "the images lie there"),
        (["-a", "alexnet", "--metrics", "insertion", "--insertion-size", "24"], "24 px"),
        (
            ["--metrics", "consistency", "--explainer", "rise", "--rise-masks", "4", "--image-size", "80"],
            "feature grid",
        ),
    ],
)
def test_combinations_that_mean_nothing_are_one_line(arguments, folder, tmp_path, capsys, more, text):
    if "alexnet" in more:
        state = build_backbone("alexnet", 2).state_dict()
        torch.save({"state_dict": state}, tmp_path / "model.pth.tar")
    words = [str(folder) if word == "DATA" else word for word in more]
    assert main([*arguments, *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert text in lines[0]


def test_a_false_size_is_noticed_without_a_model(folder):
    row = BoxedImage(folder / "val" / "b.JPEG", 0, np.array([[0, 0, 9, 9]]), False, (50, 100))
    [batch] = evaluation_loader([row], Preparation(ViewSizes()), batch_size=1)
    assert [failure.reason for failure in batch.failed] == ["unreadable image"]
    assert "its annotation says 50×100" in batch.failed[0].what
