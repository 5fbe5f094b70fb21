"""What `python -m cgc inspect` says of every kind of file."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgc.commands import inspect_checkpoint
from cgc.commands.inspect_checkpoint import describe, main, text
from cgc.models import recognise
from cgc.models.backbones import TinyResNet, build_backbone
from tests.commands.runs import error_line


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few architectures, to be quick."""
    few = ["resnet18", "resnet18_small", "resnet_tiny", "squeezenet1_1", "mobilenet_v2"]
    monkeypatch.setattr(recognise, "architectures", lambda: few)


def weights(classes: int = 3, prefix: str = "module.") -> dict[str, Tensor]:
    return {f"{prefix}{name}": w for name, w in TinyResNet(classes).state_dict().items()}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_a_released_checkpoint(tmp_path: Path) -> None:
    content = {
        "epoch": np.int64(90),
        "arch": "resnet_tiny",
        "state_dict": weights(7),
        "best_acc1": torch.tensor(71.5),
        "optimizer": {},
    }
    facts = describe(saved(tmp_path / "model_best.pth.tar", content))
    assert facts["kind"] == (
        "checkpoint of the released layout (weights under 'state_dict'), with the state of training"
    )
    assert (facts["architecture"], facts["architecture_from"]) == ("resnet_tiny", "named in the file")
    assert (facts["classes"], facts["epoch"], facts["best_acc1"]) == (7, 90, 71.5)
    assert (facts["keys_matched"], facts["keys_of_architecture"]) == (62, 62)
    assert facts["missing"] == facts["unexpected"] == facts["of_another_shape"] == facts["notes"] == []
    assert facts["parameters"] == sum(p.numel() for p in TinyResNet(7).parameters())
    assert facts["dtype"] == "float32"
    assert facts["closed_form"] == "average"


def test_one_of_ours(tmp_path: Path) -> None:
    options = {"method": "cgc", "lr": 0.1, "maxpool": True, "resume": None, "strict": False}
    content = {"epoch": 3, "arch": "resnet_tiny", "state_dict": weights(), "best_acc1": 0.5,
               "classes": ["ant", "bee", "cow"], "options": options, "optimizer": {}}  # fmt: skip
    facts = describe(saved(tmp_path / "checkpoint_003.pth.tar", content))
    assert facts["kind"] == "checkpoint of this project, with the state of training"
    assert facts["class_names"] == ["ant", "bee", "cow"]
    assert facts["options"] == options
    assert facts["closed_form"] == "maximum"
    shown = text(facts)
    assert "3: ant, bee, cow" in shown
    assert "method cgc, lr 0.1, maxpool True" in shown
    assert "resume" not in shown


def test_a_bare_state_dict_is_recognised(tmp_path: Path) -> None:
    half = {k: w.half() if w.is_floating_point() else w for k, w in weights(5, "net.").items()}
    facts = describe(saved(tmp_path / "bare.pth", half))
    assert facts["kind"] == "bare state_dict"
    assert (facts["architecture"], facts["architecture_from"]) == ("resnet_tiny", "recognised by its keys")
    assert (facts["classes"], facts["dtype"]) == (5, "float16")
    assert facts["notes"] == ["prefix 'net.' dropped"]
    assert "62 of 62 match; prefix 'net.' dropped" in text(facts)


def swav(path: Path, tuned: bool) -> Path:
    trunk = {k: w for k, w in weights().items() if ".fc." not in k}
    if tuned:
        head = {"weight": torch.zeros(1000, 96), "bias": torch.zeros(1000)}
        return saved(
            path,
            {
                "arch": "resnet_tiny",
                "state_dict": trunk | {f"module.projection_head.{k}": w for k, w in head.items()},
            },
        )
    names = ("projection_head.0.weight", "projection_head.3.weight", "prototypes.weight")
    return saved(path, trunk | {f"module.{name}": torch.zeros(8, 96) for name in names})


def test_swav(tmp_path: Path) -> None:
    before = describe(swav(tmp_path / "swav.pth.tar", False))
    assert before["kind"] == "SwAV, pre-trained: a projector and prototypes, no classifier"
    assert before["classes"] is None
    assert (before["keys_matched"], before["keys_of_architecture"]) == (60, 62)
    assert before["missing"] == ["fc.weight", "fc.bias"]
    assert before["unexpected"] == [
        "projection_head.0.weight",
        "projection_head.3.weight",
        "prototypes.weight",
    ]
    assert "classes" not in text(before)
    after = describe(swav(tmp_path / "tuned.pth.tar", True))
    assert after["kind"].startswith("SwAV, fine-tuned: checkpoint of the released layout")
    assert (after["classes"], after["keys_matched"]) == (1000, 62)
    assert after["notes"] == ["projection_head is the classifier fc"]


def test_a_saliency_network_is_no_classifier(tmp_path: Path) -> None:
    parts = [f"stage{i}" for i in range(1, 7)] + [f"stage{i}d" for i in range(1, 6)]
    parts += [f"side{i}" for i in range(1, 7)] + ["outconv"]
    content = {f"{part}.weight": torch.ones(2) for part in parts}
    content["stage1.rebnconv1.conv_s1.weight"] = torch.ones(16, 4, 3, 3)
    facts = describe(saved(tmp_path / "u2netp.pth", content))
    assert facts["kind"] == "U²-Net, a saliency network (small size), not a classifier"
    assert facts["architecture"] == "u2netp"
    assert "keys_matched" not in facts
    assert "classes" not in facts


def test_another_architecture_is_compared_with(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", build_backbone("resnet18", 5).state_dict())
    facts = describe(path, "resnet18_small")
    assert facts["architecture_from"] == "given with -a"
    assert facts["of_another_shape"] == ["conv1.weight"]
    assert (facts["keys_matched"], facts["keys_of_architecture"]) == (121, 122)
    assert "closed_form" not in facts
    shown = text(facts)
    assert "121 of 122 match" in shown
    assert "of another shape  1: conv1.weight" in shown


def test_what_is_not_recognised(tmp_path: Path) -> None:
    content = weights()
    del content["module.conv1.weight"]
    near = text(describe(saved(tmp_path / "m.pth", {"state_dict": content, "arch": "mine"})))
    assert "not recognised; the file names mine; resnet_tiny comes nearest" in near
    far = text(describe(saved(tmp_path / "n.pth", {"a.weight": torch.full((3, 3), torch.nan)})))
    assert "not recognised; compare with -a NAME" in far
    assert "not finite    1: a.weight" in far


def test_architectures_that_fit_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = recognise.Recognised(("one", "two"))
    monkeypatch.setattr(inspect_checkpoint, "recognise", lambda weights: both)
    facts = describe(saved(tmp_path / "m.pth", weights()))
    assert facts["candidates"] == ["one", "two"]
    assert "one of one, two; compare with -a NAME" in text(facts)


@pytest.mark.parametrize(("arch", "pool"), [("squeezenet1_1", None), ("mobilenet_v2", "average")])
def test_how_heatmaps_are_computed(tmp_path: Path, arch: str, pool: str | None) -> None:
    facts = describe(saved(tmp_path / "m.pth", build_backbone(arch, 4).state_dict()))
    assert (facts["architecture"], facts["classes"], facts["closed_form"]) == (arch, 4, pool)
    assert ("by a backward pass" in text(facts)) == (pool is None)


def test_options_of_others_are_shown(tmp_path: Path) -> None:
    content = {"model": weights(), "args": Namespace(lr=0.1, data="x"), "epoch": 2}
    facts = describe(saved(tmp_path / "m.pth", content))
    assert facts["options"] == {"lr": 0.1, "data": "x"}
    assert "weights under 'model'" in facts["kind"]


def test_several_files_and_one_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = saved(tmp_path / "good.pth", weights())
    bad = tmp_path / "bad.pth"
    bad.write_text("hello")
    assert main([str(bad), str(good), str(tmp_path / "missing.pth")]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{good}\n  kind ")
    errors = captured.err.splitlines()
    assert len(errors) == 2
    assert errors[0] == f"error: {bad} is not a checkpoint, or a damaged one"
    assert errors[1] == f"error: no checkpoint at {tmp_path / 'missing.pth'}"
    assert main([str(good)]) == 0


def test_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    assert main([str(tmp_path / "model.pth")]) == 2
    assert "objects other than tensors and plain types" in error_line(capsys.readouterr().err)


def test_an_unknown_architecture_and_a_network_that_stands_there_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "twice.pth", weights(3, "query.") | weights(3, "key."))
    assert main([str(path), "-a", "resnet_tinny"]) == 2
    assert "unknown architecture 'resnet_tinny'" in error_line(capsys.readouterr().err)
    assert main([str(path), "-a", "resnet_tiny"]) == 2
    assert f"{path}, as resnet_tiny: it holds this network 2 times" in error_line(capsys.readouterr().err)


def test_json_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"arch": "resnet_tiny", "state_dict": weights(), "best_acc1": torch.tensor([70.0]),
               "options": {"data": Path("x").name, "sizes": torch.zeros(2)}}  # fmt: skip
    path = saved(tmp_path / "m.pth.tar", content)
    assert main([str(path), "--json"]) == 0
    [facts] = json.loads(capsys.readouterr().out)
    assert facts["file"] == str(path)
    assert facts["best_acc1"] == 70.0
    assert facts["keys_matched"] == 62
    assert facts["options"]["data"] == "x"
