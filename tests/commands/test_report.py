"""The report from its command line: what is evaluated, what comes from score files, and what is refused."""

from __future__ import annotations

import json
import re

import pytest
import torch

from cgc.commands import evaluate
from cgc.commands.report import main
from cgc.commands.run_folders import find_checkpoint, short_names, trained_classes
from cgc.errors import InputError
from cgc.models.backbones import build_backbone
from tests.commands.runs import error_line
from tests.data.boxed_fixture import scored_folder

SMALL = ["--input_resize", "64", "-j", "0", "--device", "cpu"]


def save_model(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = build_backbone("resnet_tiny", 2).state_dict()
    torch.save(
        {"epoch": 1, "arch": "resnet_tiny", "state_dict": weights, "best_acc1": 0.0, "optimizer": {}}, path
    )
    return path


@pytest.fixture
def data(tmp_path):
    return scored_folder(tmp_path / "data")


@pytest.fixture
def common(data, tmp_path):
    options = ["--data", data, "--classes", data / "names.txt", "--out", tmp_path / "r.html", "--draws", "20"]
    return [*map(str, options), *SMALL]


def facts(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text)[1]), text


def test_run_folders_are_evaluated_and_scores_are_used(data, common, tmp_path, capsys):
    one, two = tmp_path / "runs" / "one", tmp_path / "runs" / "two"
    save_model(one / "checkpoint_009.pth.tar", 3)
    save_model(one / "checkpoint_010.pth.tar", 1)
    (one / "metrics.csv").write_text("epoch,val_top1\n1,10\n2,30\n")
    save_model(two / "model_best.pth.tar", 2)
    scores = tmp_path / "scores.json"
    assert evaluate.main([str(data), "--resume", str(two / "model_best.pth.tar"), "--classes", str(data / "names.txt"),
                          "--out", str(scores), "--save-maps", str(tmp_path / "maps"), *SMALL]) == 0  # fmt: skip
    kept = tmp_path / "kept"
    assert main([str(one), str(scores), *common, "--save-scores", str(kept), "--title", "A & B"]) == 0
    shown = capsys.readouterr().out
    assert f"evaluating {one / 'checkpoint_010.pth.tar'} …" in shown
    found, text = facts(tmp_path / "r.html")
    assert found["models"] == ["one", "scores"]
    assert [card["c"] for card in found["cards"]] == ["cat", "cat", "wild dog", "wild dog", "wild dog"]
    assert text.count('class="map"') == 10
    assert "<title>A &amp; B</title>" in text
    assert "top-1 on held-out images" in text  # the curve of the first run
    # The same checkpoint once from its scores and once evaluated here says the same.
    assert main([str(scores), str(two), *common]) == 0
    found, text = facts(tmp_path / "r.html")
    assert found["models"] == ["scores", "two"]
    for card in found["cards"]:
        assert card["f"][0] == pytest.approx(card["f"][1], abs=1e-6)
        assert card["o"][0] == card["o"][1]
    maps = re.findall(r'class="map" src="([^"]+)"', text)
    assert maps[0::2] == maps[1::2]
    # What was kept serves another report, and no checkpoint is opened any more.
    (one / "checkpoint_010.pth.tar").write_bytes(b"")
    assert main([str(kept / "1.json"), *common, "--images", "2", "--names", "uno"]) == 0
    found, _ = facts(tmp_path / "r.html")
    assert found["models"] == ["uno"]
    assert [card["c"] for card in found["cards"]] == ["cat", "wild dog"]


def test_scores_without_maps_still_make_a_page(data, common, tmp_path, capsys):
    model, scores = save_model(tmp_path / "m.pth"), tmp_path / "scores.json"
    arguments = [
        str(data),
        "--resume",
        str(model),
        "--classes",
        str(data / "names.txt"),
        "--out",
        str(scores),
    ]
    assert evaluate.main([*arguments, *SMALL]) == 0
    assert main([str(scores), *common]) == 0
    assert "no maps" in capsys.readouterr().err
    found, text = facts(tmp_path / "r.html")
    assert len(found["cards"]) == 5
    assert 'class="map"' not in text
    assert text.count("no map</span>") == 5


def test_what_cannot_be_used_is_one_line(data, common, tmp_path, capsys):
    model = save_model(tmp_path / "m.pth")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.json").write_text("[]")
    cases = {
        "no such file or folder": [str(tmp_path / "none"), *common],
        "no checkpoint_NNN.pth.tar": [str(tmp_path / "empty"), *common],
        "not the summary of an evaluation": [str(tmp_path / "odd.json"), *common],
        "2 names for 1 models": [str(model), *common, "--names", "a", "b"],
        "must be a file called .html": [str(model), *common, "--out", str(tmp_path / "r.pdf")],
    }
    for text, arguments in cases.items():
        assert main(arguments) == 2
        assert text in error_line(capsys.readouterr().err)
    assert not list(tmp_path.glob("r.html*"))


def test_scores_of_other_data_are_refused(data, common, tmp_path, capsys):
    scores = tmp_path / "s.json"
    scores.write_text(json.dumps({"settings": {}, "scores": {}}))
    scores.with_suffix(".csv").write_text("path,class,correct\nelse.png,cat,1\n")
    assert main([str(scores), *common]) == 2
    assert "not one of its images" in error_line(capsys.readouterr().err)


def test_checkpoints_and_names(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(InputError, match="no checkpoint"):
        find_checkpoint(run)
    (run / "model_best.pth.tar").touch()
    assert find_checkpoint(run).name == "model_best.pth.tar"
    for epoch in (9, 100, 10):
        (run / f"checkpoint_{epoch:03d}.pth.tar").touch()
    assert find_checkpoint(run).name == "checkpoint_100.pth.tar"
    paths = [
        run / "checkpoint_100.pth.tar",
        tmp_path / "r50.pth",
        tmp_path / "a" / "run" / "model_best.pth.tar",
    ]
    assert short_names(paths) == ["run (1)", "r50", "run (2)"]
    assert trained_classes(run / "model_best.pth.tar") is None
    (run / "args.json").write_text('{"classes": ["a", "b"]}')
    assert trained_classes(run / "model_best.pth.tar") == ("a", "b")
