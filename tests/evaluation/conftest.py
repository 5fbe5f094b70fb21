"""Images of the evaluation tests."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cgc.data.boxes import BoxedImage, open_boxes
from tests.data.boxed_fixture import scored_folder


@pytest.fixture
def fixture_images(tmp_path):
    return open_boxes(scored_folder(tmp_path), classes=tmp_path / "names.txt").images


@pytest.fixture
def white_squares(tmp_path):
    generator = np.random.default_rng(0)
    images = []
    for index in range(6):
        side = int(generator.integers(60, 90))
        y, x = generator.integers(0, 200 - side), generator.integers(0, 300 - side)
        pixels = np.zeros((200, 300, 3), dtype=np.uint8)
        pixels[y : y + side, x : x + side] = 255
        path = tmp_path / f"{index}.png"
        Image.fromarray(pixels).save(path)
        boxes = np.array([[x, y, x + side - 1, y + side - 1]], dtype=np.int64)
        images.append(BoxedImage(path, index % 2, boxes, False, (200, 300)))
    return images
