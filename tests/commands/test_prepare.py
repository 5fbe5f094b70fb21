"""`python -m cgc prepare`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cgc.__main__ import main as cgc_main
from cgc.commands.evaluate import main as evaluate
from cgc.commands.prepare import build_parser, main
from cgc.data.prepare.registry import PREPARATIONS
from cgc.models.backbones import build_backbone
from tests.commands.runs import error_line, train
from tests.data.images import image_folder
from tests.data.prepare import fixture


def test_the_list_names_every_data_set_and_archive(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert cgc_main(["prepare", "list"]) == 0
    assert capsys.readouterr().out == said
    for name, entry in PREPARATIONS.items():
        assert f"\n{name}: {entry.title}\n" in f"\n{said}"
        for file in entry.files(entry.variants[0]):
            assert f"archive   {file.name}: " in said
    assert said.count("downloaded by torchvision") == 4
    assert "Every dataset has terms of its own" in said


def test_prepare_train_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, out = fixture.tiny(tmp_path), tmp_path / "data"
    assert main(["tiny-imagenet", "--out", str(out), "--from", str(archive)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "tiny-imagenet-200.zip: 13 files written, 0 were there, 0 not needed"
    assert said[1] == f"{out}: tiny-imagenet: 1 images in test/, 3 images in train/, 3 images in val/"
    assert train(out, "--epochs", "1", "-b", "3", save_dir=tmp_path / "run") == 0
    scores = tmp_path / "scores.json"
    checkpoint = tmp_path / "run" / "model_best.pth.tar"
    arguments = [
        "--metrics",
        "ch,top1",
        "--out",
        str(scores),
        "--image-size",
        "32",
        "-j",
        "0",
        "--device",
        "cpu",
    ]
    assert evaluate([str(checkpoint), str(out), *arguments]) == 0
    assert json.loads(scores.read_text())["images"] == 3


@pytest.mark.parametrize(
    ("name", "make", "preset", "dataset", "classes", "images"),
    [
        ("imagenet-val", fixture.imagenet, "imagenet-energy", "imagenet", 1000, 4),
        ("cub", lambda folder: fixture.cub(folder, classes=200), "finegrained-energy", "cub", 200, 200),
    ],
)
def test_the_published_evaluations_read_what_is_made(
    tmp_path: Path,
    name: str,
    make: Callable[[Path], object],
    preset: str,
    dataset: str,
    classes: int,
    images: int,
) -> None:
    make(tmp_path / "archives")
    out, scores = tmp_path / "data", tmp_path / "scores.json"
    assert main([name, "--out", str(out), "--from", str(tmp_path / "archives"), "--no-checksum"]) == 0
    state = build_backbone("resnet_tiny", classes).state_dict()
    torch.save({"epoch": 1, "arch": "resnet_tiny", "state_dict": state}, tmp_path / "model.pth.tar")
    where = ["--resume", str(tmp_path / "model.pth.tar"), "--dataset", dataset, "--out", str(scores)]
    how = ["--input_resize", "32", "-j", "0", "-b", "50", "--device", "cpu"]
    assert evaluate([str(out), *where, *how], preset=preset) == 0
    content = json.loads(scores.read_text())
    assert (content["images"], content["skipped"]) == (images, {})


def test_preparing_with_a_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, out, report = fixture.imagenette(tmp_path), tmp_path / "data", tmp_path / "report.json"
    arguments = ["imagenette", "--out", str(out), "--from", str(archive), "--no-checksum", "-j", "0"]
    assert main([*arguments, "--out-json", str(report), "--check"]) == 0
    said = capsys.readouterr().out
    assert "train/    6 images in 3 classes, 2 each" in said
    assert "\n0 problems\n" in said
    content = json.loads(report.read_text())
    assert (content["problems"], content["opened"], content["headers_only"]) == ({}, 12, False)
    assert content["splits"]["val"]["images_per_class"] == dict.fromkeys(fixture.WNIDS, 2)
    (out / "val" / fixture.WNIDS[0] / f"{fixture.WNIDS[0]}_0.JPEG").write_bytes(fixture.jpeg()[:300])
    assert main(["--check", str(out), "-j", "0"]) == 1
    assert "problem: broken image: 1" in capsys.readouterr().out
    assert main(["imagenette", "--check", str(out), "-j", "0", "--fast"]) in (0, 1)
    assert "headers read" in capsys.readouterr().out


def test_a_check_of_the_folder_one_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(image_folder(tmp_path))
    assert main(["--check", ".", "-j", "0"]) == 0
    assert capsys.readouterr().out.startswith(".\n  train/ ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cub"], "--out DIR is needed"),
        (["--out", "{tmp}/x"], "give the NAME of the dataset: imagenet, "),
        (["cub", "--out", "{tmp}/x"], "CUB_200_2011.tgz missing; get what you need"),
        (["cub", "--out", "{tmp}/x", "--from", "{tmp}/none.tgz"], "{tmp}/none.tgz: no such file"),
        (["cub", "--out", "{tmp}/x", "--from", "{tmp}/text.tgz"], "expected a file called CUB_200_2011.tgz"),
        (["cub", "--out", "{tmp}/x", "--from", "{tmp}/CUB_200_2011.tgz"], "no archive that can be read"),
        (
            ["cub", "--out", "{tmp}/text.tgz", "--from", "{tmp}/CUB_200_2011.tgz"],
            "{tmp}/text.tgz: not a folder",
        ),
        (["cup", "--out", "{tmp}/x"], "did you mean cub?"),
        (["cub", "--out", "{tmp}/x", "--fast"], "--fast, --classes and --out-json are about --check"),
        (["--check", "{tmp}/none"], "{tmp}/none: no such folder"),
        (["--check", "{tmp}"], "no dataset in it"),
        (["--check", "{tmp}", "--out-json", "{tmp}/no/x.json"], "no such folder to write it into"),
        (["--check", "{tmp}", "--from", "{tmp}/text.tgz"], "--from needs --out DIR"),
        (["cub", "--check", "{tmp}", "--out", "{tmp}/x"], "is another folder than --out"),
        (["cat", "--check", "{tmp}"], "unknown dataset 'cat'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    for name in ("text.tgz", "CUB_200_2011.tgz"):
        (tmp_path / name).write_text("text" * 300)
    before = (tmp_path / "text.tgz").read_bytes()
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 2
    assert said.format(tmp=tmp_path) in error_line(capsys.readouterr().err)
    assert (tmp_path / "text.tgz").read_bytes() == before


def test_a_cut_off_archive_ends_with_one_line_and_the_whole_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, out = fixture.cub(tmp_path, classes=5), tmp_path / "data"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) * 2 // 3])
    arguments = ["cub", "--out", str(out), "--from", str(archive)]
    assert main(arguments) == 2
    assert "the archive is cut off or damaged; get it again" in error_line(capsys.readouterr().err)
    assert not (out / "train").exists()
    archive.write_bytes(whole)
    assert main(arguments) == 0
    assert "5 images in train/" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_process_leaves_a_folder_that_goes_on(tmp_path: Path) -> None:
    archives, out = tmp_path / "archives", tmp_path / "data"
    fixture.cub(archives, classes=600)
    command = [sys.executable, "-m", "cgc", "prepare", "cub", "--out", str(out), "--from", str(archives)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((out / "images").glob("*"))) < 20 if (out / "images").is_dir() else True:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "train").exists()
    assert main(command[4:]) == 0
    assert main(["--check", str(out), "--fast", "-j", "0"]) == 1  # 600 classes are not CUB's 200
    assert len(list(out.glob("train/*/*.jpg"))) == 600
    assert not list(out.rglob("*.partial"))


def test_the_documented_defaults() -> None:
    options = build_parser().parse_args(["cub", "--check", "x"])
    assert (options.workers, options.check, options.given) == (4, Path("x"), [])
    assert build_parser().parse_args(["cub", "--out", "x", "--check"]).check is True
