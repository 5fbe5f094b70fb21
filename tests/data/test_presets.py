from __future__ import annotations

import pytest
import torch
from torchvision.transforms.functional import normalize

from cgc.data.presets import MEAN, STD, normalise, resize_size


def random_images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalise_is_torchvisions() -> None:
    images = random_images()
    torch.testing.assert_close(
        normalise(images), normalize(images.double() / 255, MEAN, STD).float(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalise_keeps_the_memory_format(memory_format: torch.memory_format) -> None:
    images = random_images().contiguous(memory_format=memory_format)
    result = normalise(images)
    assert result.is_contiguous(memory_format=memory_format)
    assert torch.equal(result, normalise(random_images()))


def test_normalise_first_used_under_inference_mode_serves_training_later() -> None:
    with torch.inference_mode():
        normalise(random_images())
    weight = torch.ones(3, 1, 1, requires_grad=True)
    (normalise(random_images()) * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)])
def test_normalise_refuses_other_input(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        normalise(images)


def test_resize_keeps_the_published_proportion() -> None:
    assert resize_size(224) == 256
    assert all(size <= resize_size(size) <= 1.2 * size + 1 for size in range(1, 600))
