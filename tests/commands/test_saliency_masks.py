"""`python -m cgc saliency-masks`: from images to masks that training can read."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.__main__ import main as cgc_main
from cgc.commands import saliency_masks
from cgc.commands.saliency_masks import main
from cgc.data.decode import decode_rgb
from cgc.data.folders import open_split
from cgc.data.presets import normalise
from cgc.data.saliency import MaskFolder, SaliencyMasks
from cgc.data.saliency_files import Manifest
from cgc.data.unlabelled import open_unlabelled
from cgc.data.views import query_view
from cgc.errors import InputError
from cgc.models.u2net import U2Net, load_u2net, weights_digest
from tests.commands.runs import error_line
from tests.data.images import image_folder

SIZE, RESIZE = 16, 18


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with maps that are neither flat nor all alike."""
    path = tmp_path_factory.mktemp("weights") / "u2netp.pth"
    torch.manual_seed(3)
    network = U2Net("u2netp")
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter.mul_(2)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "data")


def make(data: Path, weights: Path, *arguments: object) -> int:
    common = ["--weights", str(weights), "--size", str(SIZE), "-b", "4", "-j", "0", "--device", "cpu"]
    return main([str(data), *common, *map(str, arguments)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_masks_are_the_networks_maps_of_the_query_view(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cgc_main(
            [
                "saliency-masks",
                str(data),
                "--weights",
                str(weights),
                *["--size", str(SIZE), "-b", "4", "-j", "0"],
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert said.startswith(f"{data / 'saliency' / 'train'}: 6 masks made (")
    assert "images/s), 0 kept, 0 images unreadable" in said
    images = open_split(data, "train")
    masks = SaliencyMasks(MaskFolder(data / "saliency", images, SIZE, RESIZE), images)
    network = load_u2net(weights)
    assert masks.made_by is not None
    assert masks.made_by.weights == weights_digest(network)
    shares = []
    for index in range(len(images)):
        view = np.array(query_view(decode_rgb(images.path(index)), SIZE, RESIZE))
        with torch.no_grad():
            maps_17SS = network(normalise(torch.from_numpy(view).permute(2, 0, 1)[None]))
        fused_SS = maps_17SS[0, 0]
        expected = (fused_SS - fused_SS.min()) / (fused_SS.max() - fused_SS.min())
        with Image.open(data / "saliency/train" / images.paths[index]) as stored:
            grey_SS = torch.from_numpy(np.array(stored))
        assert (grey_SS / 255 - expected).abs().max() < 0.51 / 255 + 1e-4
        mask_SS = masks(index, (1, 1))
        # In batches of another size the last bits differ, and with them a pixel that lies on the threshold.
        clear = (expected - 0.5).abs() > 1e-4
        assert torch.equal(mask_SS[clear] == 1, expected[clear] > 0.5)
        shares.append(mask_SS.float().mean().item())
    assert 0.01 < min(shares) <= max(shares) < 0.99
    # The split that masks were not asked for has none.
    assert not (data / "saliency/val").exists()


def test_the_threshold_survives_eight_bits() -> None:
    """Above 127 of the stored byte is exactly above ½ of the map."""
    half = torch.tensor(0.5)
    values = torch.stack(
        [
            torch.tensor(0.0),
            half.nextafter(torch.tensor(0.0)),
            half,
            half.nextafter(torch.tensor(1.0)),
            half * 2,
        ]
    )
    assert saliency_masks._grey(values).tolist() == [0, 127, 127, 128, 255]


def test_what_is_there_is_kept(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = data.parent / "masks"
    assert make(data, weights, "--out", out) == 0
    first = files(out)
    assert len(first) == 7  # six masks and the manifest
    (out / "train/ant/1.png").unlink()
    capsys.readouterr()
    assert make(data, weights, "--out", out) == 0
    assert "1 masks made" in capsys.readouterr().out
    assert files(out) == first
    # Nothing is left to do: the network is not asked.
    monkeypatch.setattr(U2Net, "forward", None)
    assert make(data, weights, "--out", out) == 0
    assert "0 masks made (0.0 images/s), 6 kept" in capsys.readouterr().out
    assert files(out) == first


def test_loading_processes_change_nothing(data: Path, weights: Path, tmp_path: Path) -> None:
    assert make(data, weights, "--out", tmp_path / "one", "--split", "val") == 0
    state = torch.get_rng_state()
    assert make(data, weights, "--out", tmp_path / "two", "--split", "val", "-j", "2") == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (tmp_path / "one/val/manifest.json").is_file()


def test_whole_images(data: Path, weights: Path) -> None:
    """Every mask has its image's size, whatever shapes came together in a batch."""
    assert make(data, weights, "--view", "image") == 0
    images = open_split(data, "train")
    for index in range(len(images)):
        with (
            Image.open(images.path(index)) as image,
            Image.open(data / "saliency/train" / images.paths[index]) as mask,
        ):
            assert mask.size == image.size
            assert mask.mode == "L"
    masks = SaliencyMasks(MaskFolder(data / "saliency", images, 24, 24), images)
    with Image.open(images.path(1)) as image:
        assert 0 < masks(1, (image.height, image.width)).float().mean() < 1


def test_images_without_labels(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of images at any depth; where it is a split's as well, the masks are the split's."""
    (data / "train/ant/0.png").rename(data / "train/0.png")
    assert make(data / "train", weights, "--unlabeled") == 2
    assert "needs --out" in error_line(capsys.readouterr().err)
    out = tmp_path / "masks"
    assert make(data / "train", weights, "--unlabeled", "--out", out) == 0
    assert len(files(out / "train")) == 7
    assert (out / "train/0.png").is_file()
    images = open_unlabelled(data / "train")
    masks = SaliencyMasks(MaskFolder(out, images, SIZE, RESIZE), images)
    assert len(masks.images) == 6
    assert 0 < masks(0, (1, 1)).float().mean() < 1
    capsys.readouterr()
    assert make(data, weights, "--out", out) == 0
    assert "0 masks made (0.0 images/s), 5 kept" in capsys.readouterr().out


@pytest.mark.parametrize(("unlabelled", "below"), [(False, "saliency"), (False, "my masks"), (True, "masks")])
def test_the_command_that_training_names_makes_its_masks(
    unlabelled: bool, below: str, data: Path, weights: Path
) -> None:
    """Nothing of it is changed but the file of weights and the processes."""
    images = open_unlabelled(data / "train") if unlabelled else open_split(data, "train")
    folder = data / below
    with pytest.raises(InputError, match="no such folder of saliency masks") as refused:
        MaskFolder(folder, images, SIZE, RESIZE + 2)
    words = shlex.split(str(refused.value).split("to make masks: ")[1])
    assert words[:4] == ["python", "-m", "cgc", "saliency-masks"]
    assert words[-1] == "u2net.pth"
    assert ("--out" in words) == (below != "saliency")
    assert cgc_main([*words[3:-1], str(weights), "-j", "0", "--device", "cpu"]) == 0
    masks = SaliencyMasks(MaskFolder(folder, images, SIZE, RESIZE + 2), images)
    assert masks.made_by is not None
    assert (masks.made_by.size, masks.made_by.resize) == (SIZE, RESIZE + 2)


@pytest.mark.parametrize("view", ["query", "image"])
def test_unreadable_images_are_named(
    view: str, data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "train/ant/1.png").write_bytes(b"")
    (data / "train/bee/2.png").write_text("no image")
    assert make(data, weights, "--view", view) == 0
    captured = capsys.readouterr()
    assert "4 masks made" in captured.out
    assert "2 images unreadable" in captured.out
    assert f"  {data / 'train/ant/1.png'}: empty file\n" in captured.err
    assert f"  {data / 'train/bee/2.png'}: not an image\n" in captured.err
    manifest = Manifest.read(data / "saliency/train")
    assert manifest is not None
    assert [path for path, made in manifest.masks.items() if made is None] == ["ant/1.png", "bee/2.png"]
    # Training does without them as it does without every unreadable image.
    images = open_split(data, "train")
    assert len(SaliencyMasks(MaskFolder(data / "saliency", images, SIZE, RESIZE), images).images) == 6


def test_not_one_image(data: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (data / "train").rglob("*.png"):
        path.write_bytes(b"")
    assert make(data, weights) == 1
    assert "not one image could be read" in capsys.readouterr().err


def test_other_weights_are_noticed(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(data, weights) == 0
    before = files(data / "saliency")
    content = torch.load(weights, weights_only=True)
    content["outconv.bias"] += 0.1
    content["stage1.rebnconvin.conv_s1.weight"] *= 1.5
    torch.save(content, tmp_path / "other.pth")
    capsys.readouterr()
    assert make(data, tmp_path / "other.pth") == 2
    assert "--replace" in error_line(capsys.readouterr().err)
    assert files(data / "saliency") == before
    assert make(data, tmp_path / "other.pth", "--replace") == 0
    after = files(data / "saliency")
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)
    assert len(json.loads(after["train/manifest.json"])["made_by"]) == 1


def test_a_stop_keeps_what_was_made(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM while the first batch is under way: its masks are saved, and the next run makes the others."""
    forward = U2Net.forward

    def interrupted(self: U2Net, images: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(U2Net, "forward", interrupted)
        assert make(data, weights) == 128 + signal.SIGTERM
    captured = capsys.readouterr()
    assert "4 masks made" in captured.out
    assert "the same command makes the rest" in captured.err
    assert make(data, weights) == 0
    assert "2 masks made" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--weights", "nowhere.pth"], "no checkpoint at nowhere.pth"),
        (["--resize-size", "15"], "cannot crop 16 px"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--out", "{data}"], "folder of the images"),
        (["--split", "val", "--out", "{data}/train/ant/0.png"], "cannot write to"),
    ],
)
def test_unusable_input(
    arguments: list[str], named: str, data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(data, weights, *(each.format(data=data) for each in arguments)) == 2
    assert named in error_line(capsys.readouterr().err)
    assert not (data / "saliency").exists()


def test_bad_weights(data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(weights, weights_only=True)
    del content["stage2d.rebnconv3.bn_s1.bias"]
    torch.save(content, tmp_path / "damaged.pth")
    assert make(data, tmp_path / "damaged.pth") == 2
    assert "stage2d.rebnconv3.bn_s1.bias" in error_line(capsys.readouterr().err)


def test_a_folder_without_images(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(tmp_path, weights) == 2
    assert "has no folder 'train'" in error_line(capsys.readouterr().err)
