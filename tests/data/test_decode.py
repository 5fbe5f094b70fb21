from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgc.data.views import UnreadableImage, decode_rgb
from tests.data.images import photograph, save_photograph


def test_rgb_grey_and_cmyk(tmp_path: Path) -> None:
    image = photograph(20, 10)
    for name, saved in (
        ("rgb.png", image),
        ("grey.png", image.convert("L")),
        ("bits.png", image.convert("1")),
    ):
        saved.save(tmp_path / name)
        assert np.array_equal(np.asarray(decode_rgb(tmp_path / name)), np.asarray(saved.convert("RGB")))
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    decoded = decode_rgb(tmp_path / "cmyk.jpg")
    assert decoded.mode == "RGB"
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(image)).mean() < 8


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    decoded = np.asarray(decode_rgb(tmp_path / "deep.png"))
    assert decoded[0].tolist() == [[v] * 3 for v in (0, 0, 1, 128, 255)]


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    assert decode_rgb(tmp_path / "alpha.png").getpixel((0, 0)) == (10, 20, 30)
    assert decode_rgb(tmp_path / "alpha.png").getpixel((1, 0)) == (255, 255, 255)
    assert decode_rgb(tmp_path / "alpha.png").getpixel((2, 0)) == (127, 127, 127)


def test_palettes(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 100, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "plain.png")
    assert np.asarray(decode_rgb(tmp_path / "plain.png")).tolist() == [[[200, 0, 0], [0, 100, 0]]]
    palette.save(tmp_path / "transparent.png", transparency=1)
    assert np.asarray(decode_rgb(tmp_path / "transparent.png")).tolist() == [[[200, 0, 0], [255, 255, 255]]]


def test_orientation_tags_are_ignored_as_torchvision_does(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees"
    photograph(20, 10).save(tmp_path / "turned.jpg", exif=exif)
    assert decode_rgb(tmp_path / "turned.jpg").size == (20, 10)


def unreadable_files(folder: Path) -> dict[str, Path]:
    whole = save_photograph(folder / "whole.jpg", 200, 200).read_bytes()
    contents = {
        "truncated.jpg": whole[: len(whole) // 2],
        "empty.png": b"",
        "text.jpg": b"<html>not found</html>",
        "damaged.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    return {name: folder / name for name in (*contents, "dangling.jpg", "folder.jpg")}


def test_unreadable_files_say_why_in_one_line(tmp_path: Path) -> None:
    reasons = {}
    for name, path in unreadable_files(tmp_path).items():
        with pytest.raises(UnreadableImage) as raised:
            decode_rgb(path)
        assert str(raised.value) == f"{path}: {raised.value.reason}"
        assert raised.value.reason
        assert "\n" not in str(raised.value)
        reasons[name] = raised.value.reason
    assert reasons["empty.png"] == "empty file"
    assert reasons["text.jpg"] == "not an image"
    assert "truncated" in reasons["truncated.jpg"]
    assert "no such file" in reasons["dangling.jpg"]


def test_decompression_bombs_are_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_photograph(tmp_path / "large.png", 40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        decode_rgb(path)
