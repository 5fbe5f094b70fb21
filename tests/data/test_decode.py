from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgc.data import decode
from cgc.data.decode import decode_data, decode_pixels
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


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def outcome(data: bytes, how: object) -> np.ndarray | str:
    """The pixels, or what is said instead."""
    try:
        image = how(data, "it.jpg")
    except UnreadableImage as error:
        return str(error)
    return np.asarray(image) if isinstance(image, Image.Image) else image.rgb_HW3.numpy()


def assert_same_outcome(data: bytes, *, damaged: bool = False) -> None:
    """What is damaged and can be decoded all the same may look otherwise to another version of libjpeg."""
    one, other = outcome(data, decode_pixels), outcome(data, decode_data)
    assert isinstance(one, str) == isinstance(other, str), (one, other)
    if damaged and not isinstance(one, str):
        assert one.shape == other.shape
    else:
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30, "optimize": True},
        {"progressive": True},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"restart_marker_rows": 1},
        {"dpi": (300, 300), "comment": b"a comment"},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("size", [(61, 37), (1, 1), (200, 1), (1, 90), (37, 61), (16, 16), (700, 500)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_decoded_to_pillows_pixels_without_pillow(
    options: dict[str, object], size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg(photograph(*size).convert(mode), **options)
    expected = np.asarray(decode_data(data, "it.jpg"))
    monkeypatch.setattr(decode, "decode_data", lambda data, path: pytest.fail("Pillow was asked"))
    decoded = decode_pixels(data, "it.jpg")
    assert decoded.size == size
    assert decoded.rgb_HW3.is_contiguous()
    assert np.array_equal(decoded.rgb_HW3.numpy(), expected)


def test_other_images_are_pillows_to_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "decode_jpeg", lambda *arguments: pytest.fail("torchvision was asked"))
    image = photograph(20, 10)
    image.save(tmp_path / "rgb.png")
    image.convert("L").save(tmp_path / "grey.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.save(tmp_path / "two.mpo", save_all=True, append_images=[image.rotate(180)])
    image.quantize(4).save(tmp_path / "palette.gif")
    Image.fromarray(np.array([[0, 256, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.array([[[10, 20, 30, 0]]], dtype=np.uint8)).save(tmp_path / "alpha.png")
    for path in tmp_path.iterdir():
        assert_same_outcome(path.read_bytes())


def test_orientation_tags_are_ignored_by_both() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(photograph(20, 10), exif=exif)
    assert decode_pixels(data, "turned.jpg").size == (20, 10)
    assert_same_outcome(data)


@pytest.mark.parametrize("progressive", [False, True])
def test_what_is_cut_short_is_refused_in_the_same_words(progressive: bool) -> None:
    whole = jpeg(photograph(64, 48), progressive=progressive)
    assert "truncated" in str(outcome(whole[:-1], decode_pixels))
    for end in [0, 1, 2, 3, 20, *range(100, len(whole), 97), *range(len(whole) - 40, len(whole))]:
        assert_same_outcome(whole[:end])
    large = jpeg(photograph(900, 700), progressive=progressive, quality=95)
    assert len(large) > 2 * 65536  # Pillow reads files by blocks of 64 KiB
    for end in (65536, 100_000, len(large) - 1):
        assert_same_outcome(large[:end])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_damage_has_the_same_outcome(options: dict[str, object]) -> None:
    whole = jpeg(photograph(64, 48), **options)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        at, length = int(rng.integers(2, len(whole) - 2)), int(rng.integers(1, 60))
        noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        for damaged in (
            whole[:at] + noise[:1] + whole[at + 1 :],
            whole[:at] + noise + whole[at + length :],
            whole[:at] + whole[at + length :],
            whole[:at] + noise + whole[at:],
            whole[:at] + b"\xff\xd9",
            whole + noise,
        ):
            assert_same_outcome(damaged, damaged=True)
            outcomes.add(isinstance(outcome(damaged, decode_pixels), str))
    assert outcomes == {True, False}


def test_unreadable_files_are_refused_in_the_same_words(tmp_path: Path) -> None:
    for path in unreadable_files(tmp_path).values():
        if path.is_file():
            assert_same_outcome(path.read_bytes())
            assert isinstance(outcome(path.read_bytes(), decode_pixels), str)


def test_jpegs_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(photograph(40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        decode_pixels(data, "it.jpg")


def test_without_torchvisions_decoder_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(photograph(40, 30))
    expected = outcome(data, decode_pixels)
    monkeypatch.setattr(decode, "decode_jpeg", None)
    assert np.array_equal(outcome(data, decode_pixels), expected)
