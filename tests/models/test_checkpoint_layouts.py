"""Every layout of checkpoint that is around, and what is refused."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.models.backbones import TinyResNet, build_backbone
from cgc.models.checkpoint_layouts import Checkpoint, load_weights, read_checkpoint, released_state_dict


def backbone(classes: int = 3, seed: int = 0) -> TinyResNet:
    torch.manual_seed(seed)
    return TinyResNet(classes)


def prefixed(prefix: str, seed: int = 0) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in backbone(seed=seed).state_dict().items()}


def saved(path: Path, content: Any, **options: Any) -> Checkpoint:
    torch.save(content, path, **options)
    return read_checkpoint(path)


def assert_loads(checkpoint: Checkpoint) -> None:
    target = backbone(seed=1)
    said = load_weights(target, checkpoint)
    assert "62 of 62" in said
    for name, value in backbone().state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_prefixes_and_wrappings(tmp_path: Path, prefix: str, key: str | None) -> None:
    weights = prefixed(prefix)
    checkpoint = saved(tmp_path / "m.pth", weights if key is None else {key: weights, "epoch": 4})
    assert checkpoint.num_classes == 3
    assert checkpoint.arch is None
    assert checkpoint.extra.get("epoch") == (None if key is None else 4)
    assert_loads(checkpoint)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_old_files_hold_beside_tensors(tmp_path: Path, zipped: bool) -> None:
    """NumPy scalars and the parsed options, in both of torch's file formats."""
    content = {
        "epoch": np.int64(7),
        "arch": "resnet_tiny",
        "state_dict": prefixed("module."),
        "best_acc1": np.float64(71.5),
        "loss": np.float32(0.5),
        "done": np.bool_(True),
        "args": argparse.Namespace(lr=0.1, data="x", schedule=[1, 2]),
        "optimizer": {"state": {0: {"momentum_buffer": None}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    checkpoint = saved(tmp_path / "old.pth.tar", content, _use_new_zipfile_serialization=zipped)
    assert checkpoint.arch == "resnet_tiny"
    assert checkpoint.extra["best_acc1"] == 71.5
    assert checkpoint.extra["epoch"] == 7
    assert checkpoint.extra["args"].lr == 0.1
    assert_loads(checkpoint)


def test_scalars_pickled_by_numpy_before_2(tmp_path: Path) -> None:
    """Their module was called numpy.core then."""
    path = tmp_path / "old.pth.tar"
    torch.save({"state_dict": prefixed("module."), "best_acc1": np.float64(71.5)}, path)
    with zipfile.ZipFile(path) as source:
        entries = {info.filename: source.read(info) for info in source.infolist()}
    (name,) = [n for n in entries if n.endswith("data.pkl")]
    entries[name] = entries[name].replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"cnumpy.core.multiarray\n" in entries[name]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for entry, data in entries.items():
            target.writestr(entry, data)
    assert read_checkpoint(path).extra["best_acc1"] == 71.5


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", ["extra", "options"])
def test_code_is_refused_and_does_not_run(tmp_path: Path, zipped: bool, inside: str) -> None:
    evil: Any = Evil(tmp_path / "ran")
    content = {"state_dict": prefixed(""), "extra": evil if inside == "extra" else argparse.Namespace(x=evil)}
    path = tmp_path / "evil.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="plain types") as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(InputError, match=str(path)):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_the_list_of_allowed_types_is_not_widened_for_others(tmp_path: Path) -> None:
    path = tmp_path / "namespace.pth"
    torch.save({"a": argparse.Namespace(x=1), "state_dict": prefixed("")}, path)
    read_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def _bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text\n",
        b"\x80\x02",
        b"PK\x03\x04 not really a zip file",
        _bytes({"state_dict": prefixed("")})[:1000],
        _bytes({"state_dict": prefixed("")})[:-100],
        _bytes([torch.zeros(2)]),
        _bytes(torch.zeros(2)),
        _bytes({"epoch": 3}),
        _bytes({"state_dict": 5}),
        _bytes({"state_dict": {}}),
        _bytes({}),
        _bytes(None),
    ],
    ids=range(13),
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pth.tar"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a checkpoint") as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "below a file"])
def test_where_no_file_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.pth.tar"
    if kind == "folder":
        path.mkdir()
    elif kind == "below a file":
        path.write_text("")
        path = path / "m"
    with pytest.raises(InputError, match=f"no checkpoint at {path}"):
        read_checkpoint(path)


def test_missing_unexpected_and_misshapen_keys_are_counted_and_named() -> None:
    weights = backbone().state_dict()
    del weights["layer1.conv1.weight"], weights["bn1.bias"]
    weights["extra.weight"] = torch.zeros(1)
    weights["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    target = backbone(seed=1)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_weights(target, Checkpoint(Path("m.pth"), weights))
    said = str(error.value)
    for part in (
        "m.pth",
        "59 of 62",
        "2 missing (bn1.bias, layer1.conv1.weight)",
        "1 unexpected (extra.weight)",
        "1 of another shape (conv1.weight)",
    ):
        assert part in said
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items()), "loaded all the same"


@pytest.mark.parametrize("change", ["missing", "unexpected", "of another shape"])
def test_one_wrong_key_is_enough(change: str) -> None:
    weights = backbone().state_dict()
    if change == "missing":
        del weights["bn1.bias"]
    elif change == "unexpected":
        weights["more.bias"] = torch.zeros(1)
    else:
        weights["bn1.bias"] = torch.zeros(5)
    with pytest.raises(InputError, match=rf"1 {change} \(\w+\.bias\)"):
        load_weights(backbone(seed=1), Checkpoint(Path("m.pth"), weights))


def test_long_lists_are_cut_short() -> None:
    with pytest.raises(InputError) as error:
        load_weights(backbone(), Checkpoint(Path("m.pth"), {"fc.weight": torch.zeros(3, 96)}))
    assert "61 missing" not in str(error.value)  # counters of batches may be missing
    assert "…" in str(error.value)
    assert len(str(error.value)) < 300


def test_what_may_be_missing_and_what_may_be_too_much() -> None:
    weights = {k: v for k, v in backbone().state_dict().items() if not k.endswith("num_batches_tracked")}
    weights["aux1.conv.weight"] = torch.zeros(1)
    target = backbone(seed=1)
    load_weights(target, Checkpoint(Path("m.pth"), weights))
    assert torch.equal(target.conv1.weight, weights["conv1.weight"])


@pytest.mark.parametrize("arch", ["resnet_tiny", "squeezenet1_1", "mobilenet_v2"])
def test_a_head_of_another_size(arch: str) -> None:
    """Linear or a convolution: replaced only on request, the rest loaded, and said."""
    source, target = build_backbone(arch, 7), build_backbone(arch, 3)
    weights = {k: torch.full_like(v, 0.5) for k, v in source.state_dict().items()}
    checkpoint = Checkpoint(Path("m.pth"), weights)
    assert checkpoint.num_classes == 7
    with pytest.raises(InputError, match=r"m\.pth.*7.*3.*--new-head"):
        load_weights(target, checkpoint)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    said = load_weights(target, checkpoint, new_head=True)
    assert "fresh classifier" in said
    changed = [k for k, v in target.state_dict().items() if torch.equal(v, torch.full_like(v, 0.5))]
    kept = [k for k, v in target.state_dict().items() if torch.equal(v, before[k])]
    assert len(kept) >= 2
    assert sorted({*changed, *kept}) == sorted(before)
    assert all(name in said for name in kept if name not in changed)


def test_new_head_is_fresh_also_where_the_sizes_agree() -> None:
    """As many classes are not the same classes: who asks for a fresh classifier gets one."""
    target = backbone(seed=1)
    said = load_weights(target, Checkpoint(Path("m.pth"), backbone().state_dict()), new_head=True)
    assert "fresh classifier (fc.weight, fc.bias)" in said
    assert torch.equal(target.fc.weight, backbone(seed=1).fc.weight)
    assert torch.equal(target.conv1.weight, backbone().conv1.weight)


def test_released_names_are_those_of_data_parallel() -> None:
    model = backbone()
    assert list(released_state_dict(model)) == list(nn.DataParallel(model).state_dict())


def test_a_wrapper_inside_and_two_keys_that_become_one(tmp_path: Path) -> None:
    weights = {k.replace("layer1.", "layer1._orig_mod."): w for k, w in prefixed("").items()}
    assert_loads(saved(tmp_path / "m.pth", {"model_state_dict": weights}))
    with pytest.raises(InputError, match=r"twice\.pth is not a usable.*fc\.bias stands in it twice"):
        saved(tmp_path / "twice.pth", {"fc.bias": torch.zeros(3), "module.fc.bias": torch.zeros(3)})


def test_a_prefix_is_dropped_and_said() -> None:
    target = backbone(seed=1)
    said = load_weights(target, Checkpoint(Path("m.pth"), prefixed("encoder.")))
    assert "62 of 62 keys loaded, prefix 'encoder.' dropped" in said
    assert torch.equal(target.fc.weight, backbone().fc.weight)


def test_a_network_that_stands_there_twice_is_refused() -> None:
    both = prefixed("online.") | prefixed("target.", seed=1)
    with pytest.raises(InputError, match=r"m\.pth: it holds this network 2 times: under online\., target\."):
        load_weights(backbone(), Checkpoint(Path("m.pth"), both))


def test_counts_that_old_files_do_not_have_are_not_counted_as_loaded() -> None:
    weights = {k: v for k, v in backbone().state_dict().items() if not k.endswith("num_batches_tracked")}
    said = load_weights(backbone(seed=1), Checkpoint(Path("m.pth"), weights))
    assert "52 of 62 keys loaded, the counts of batches (10 num_batches_tracked)" in said


def test_a_file_without_classifier_says_how_to_go_on() -> None:
    weights = {k: w for k, w in backbone().state_dict().items() if not k.startswith("fc.")}
    weights["prototypes.weight"] = torch.zeros(30, 8)
    checkpoint = Checkpoint(Path("m.pth"), weights)
    assert checkpoint.num_classes is None
    with pytest.raises(InputError, match=r"no classifier for it \(but 1 key \(prototypes.*--new-head"):
        load_weights(backbone(), checkpoint)
    said = load_weights(backbone(), checkpoint, new_head=True)
    assert said.endswith(
        "60 of 62 keys loaded, fresh classifier (fc.weight, fc.bias), left out: 1 key (prototypes.weight)"
    )


@pytest.mark.parametrize("how", [{"new_head": True}, {"other_head": "initialise"}])
def test_a_fresh_head_excuses_nothing_of_the_trunk(how: dict[str, Any]) -> None:
    weights = dict(backbone().state_dict()) | {
        "layer1.se.weight": torch.zeros(2),
        "fc.weight": torch.zeros(7, 96),
    }
    target = backbone(seed=1)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(InputError, match=r"1 unexpected \(layer1\.se\.weight\)$"):
        load_weights(target, Checkpoint(Path("m.pth"), weights), **how)
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    backbone = build_backbone("resnet_tiny", 3)
    state = backbone.state_dict()
    state["layer2.conv1.weight"] = torch.full_like(state["layer2.conv1.weight"], float("nan"))
    torch.save(state, tmp_path / "spoilt.pth")
    with pytest.raises(InputError, match=r"not finite: 1 key .layer2[.]conv1[.]weight"):
        load_weights(build_backbone("resnet_tiny", 3), read_checkpoint(tmp_path / "spoilt.pth"))


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    state = build_backbone("resnet_tiny", 3).state_dict()
    state["fc.weight"] = state["fc.weight"].to_sparse()
    torch.save({"arch": "resnet_tiny", "state_dict": state}, tmp_path / "sparse.pth")
    with pytest.raises(InputError, match="is sparse or quantised"):
        read_checkpoint(tmp_path / "sparse.pth")
