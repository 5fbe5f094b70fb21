"""U²-Net: names, numbers and what of a file it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.models.u2net import U2Net, U2NetSize, load_u2net, weights_digest

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES: tuple[U2NetSize, ...] = ("u2net", "u2netp")


def official_layout(size: U2NetSize) -> dict[str, tuple[int, ...]]:
    """Key to shape, in the order of the official files."""
    layout: dict[str, tuple[int, ...]] = {}
    for line in (GOLDEN / "u2net_layout.txt").read_text().splitlines()[1:]:
        name, _, numbers = line.partition(": ")
        out, channels, side = map(int, numbers.split("; ")[SIZES.index(size)].split())
        in_block = name.startswith("stage")
        convolution = f"{name}.conv_s1" if in_block else name
        layout[f"{convolution}.weight"], layout[f"{convolution}.bias"] = (out, channels, side, side), (out,)
        if in_block:
            for part in ("weight", "bias", "running_mean", "running_var"):
                layout[f"{name}.bn_s1.{part}"] = (out,)
            layout[f"{name}.bn_s1.num_batches_tracked"] = ()
    return layout


def random_weights(size: U2NetSize, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        key: torch.tensor(5)
        if key.endswith("tracked")
        else torch.empty(shape, dtype=dtype).uniform_(0.001, 0.1, generator=generator)
        for key, shape in official_layout(size).items()
    }


def saved(path: Path, weights: object) -> Path:
    torch.save(weights, path)
    return path


def tiny_images(n: int = 2, height: int = 40, width: int = 40) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def small() -> U2Net:
    torch.manual_seed(0)
    return U2Net("u2netp").eval()


def test_agrees_with_the_published_implementation() -> None:
    recorded = np.load(GOLDEN / "u2netp_forward.npz")
    torch.manual_seed(int(recorded["init_seed"]))
    network = U2Net("u2netp").eval()
    generator = torch.Generator().manual_seed(int(recorded["input_seed"]))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter.mul_(float(recorded["conv_weight_scale"]))
        maps_7HW = network(torch.randn(1, 3, 96, 96, generator=generator))[0]
    for number in (0, 1):
        expected = recorded[f"side{number}_stride8"]
        assert expected.std() > 0.05
        np.testing.assert_allclose(maps_7HW[number, ::8, ::8].numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_official_files_load_by_key(size: U2NetSize, tmp_path: Path) -> None:
    """Full-size files; half precision keeps them small."""
    weights = random_weights(size, torch.float16)
    assert len(weights) == 798
    state = torch.get_rng_state()
    network = load_u2net(saved(tmp_path / f"{size}.pth", weights))
    assert torch.equal(torch.get_rng_state(), state)
    assert network.size == size
    assert not any(module.training for module in network.modules())
    own = network.state_dict()
    assert list(own) == list(weights)
    for key, value in own.items():
        assert value.dtype == (torch.int64 if key.endswith("tracked") else torch.float32)
        assert torch.equal(value, weights[key].to(value.dtype)), key
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_wrapped_file_gives_the_same_maps(small: U2Net, tmp_path: Path) -> None:
    wrapped = {"state_dict": {f"module.{key}": w for key, w in small.state_dict().items()}}
    loaded = load_u2net(saved(tmp_path / "wrapped.pth", wrapped))
    with torch.no_grad():
        assert torch.equal(loaded(tiny_images()), small(tiny_images()))


def test_files_from_before_batches_were_counted_load(small: U2Net, tmp_path: Path) -> None:
    old = {key: w for key, w in small.state_dict().items() if not key.endswith("tracked")}
    loaded = load_u2net(saved(tmp_path / "old.pth", old))
    assert weights_digest(loaded) == weights_digest(small)
    with torch.no_grad():
        assert torch.equal(loaded(tiny_images()), small(tiny_images()))


@pytest.mark.parametrize(
    ("key", "damage"),
    [
        ("stage1.rebnconv1.conv_s1.weight", "lost"),
        ("stage3d.rebnconv2d.bn_s1.running_var", "lost"),
        ("outconv.bias", "lost"),
        ("side4.weight", "of another shape"),
        ("stage6.rebnconv4.bn_s1.weight", "not finite"),
    ],
)
def test_a_damaged_key_is_named(key: str, damage: str, small: U2Net, tmp_path: Path) -> None:
    weights = {name: w.clone() for name, w in small.state_dict().items()}
    if damage == "lost":
        del weights[key]
    elif damage == "of another shape":
        weights[key] = torch.zeros(3)
    else:
        weights[key].view(-1)[-1] = torch.nan
    path = saved(tmp_path / "damaged.pth", weights)
    with pytest.raises(InputError, match=key) as raised:
        load_u2net(path)
    assert str(path) in str(raised.value)
    assert ("1 missing" if damage == "lost" else damage) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "--new-head" not in str(raised.value)


def test_a_key_too_many_is_named(small: U2Net, tmp_path: Path) -> None:
    path = saved(tmp_path / "more.pth", {**small.state_dict(), "stage7.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"1 unexpected \(stage7.weight\)"):
        load_u2net(path)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.pth", nn.Conv2d(3, 4, 3).state_dict())
    with pytest.raises(InputError, match=r"other\.pth does not hold U²-Net"):
        load_u2net(path)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.pth"):
        load_u2net(tmp_path / "text.pth")


@pytest.mark.parametrize(("height", "width"), [(37, 53), (1, 70), (33, 33)])
def test_maps_have_the_size_of_the_image(height: int, width: int, small: U2Net) -> None:
    images = tiny_images(2, height, width)
    with torch.no_grad():
        maps = small(images)
        alone = small(images[1:])
    assert maps.shape == (2, 7, height, width)
    assert ((maps > 0) & (maps < 1)).all()
    torch.testing.assert_close(maps[1:], alone, rtol=0, atol=1e-5)


def test_saliency_is_the_fused_map_stretched(small: U2Net) -> None:
    images = tiny_images()
    with torch.no_grad():
        fused, saliency = small(images)[:, 0], small.saliency(images)
    for map_HW, stretched_HW in zip(fused, saliency, strict=True):
        expected = (map_HW - map_HW.min()) / (map_HW.max() - map_HW.min())
        torch.testing.assert_close(stretched_HW, expected)
        assert stretched_HW.min() == 0
        assert stretched_HW.max() == 1


def test_a_flat_map_has_no_foreground() -> None:
    network = U2Net("u2netp").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(network(tiny_images())[:, 0], torch.full((2, 40, 40), 0.5))
        assert torch.equal(network.saliency(tiny_images()), torch.zeros(2, 40, 40))


def test_the_digest_is_that_of_the_weights(small: U2Net) -> None:
    torch.manual_seed(0)
    twin = U2Net("u2netp")
    digest = weights_digest(small)
    assert len(digest) == 16
    assert weights_digest(twin) == digest
    twin.stage1["rebnconvin"][1].num_batches_tracked += 1  # type: ignore[index,operator]
    assert weights_digest(twin) == digest
    with torch.no_grad():
        twin.outconv.bias += 1e-3
    assert weights_digest(twin) != digest
