"""Headers of tar files: as Python's own reader sees them, and hostile ones."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from cgc.data.shards import tar as tar_module
from cgc.data.shards.tar import Scan, is_safe, scan
from tests.data.shards.fixture import plain_tar


def _scan(path: Path) -> Scan:
    with path.open("rb") as file:
        return scan(file.fileno())


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_where_tarfile_finds_them(tmp_path: Path, format: int) -> None:
    stems = ["a", "é/ü", "d" * 60 + "/" + "n" * 70, "x.y/z"]
    if format != tarfile.USTAR_FORMAT:
        stems.append("/".join(["long" * 20] * 4))
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=format) as tar:
        for k, stem in enumerate(stems):
            for suffix, data in (("JPG", os.urandom(500 * k)), ("cls", b"%d" % k), ("json", b"{}")):
                member = tarfile.TarInfo(f"{stem}.{suffix}")
                member.size, member.mtime = len(data), 1.5  # type: ignore[assignment]  # webdataset writes such times
                tar.addfile(member, io.BytesIO(data))
    found = _scan(path)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.name.endswith("JPG")]
    assert [(s.name, s.offset, s.size) for s in found.samples] == expected
    assert [s.label for s in found.samples] == [b"%d" % k for k in range(len(stems))]
    assert (found.left_out, found.damage) == ([], None)


def test_folders_links_and_other_files_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name in ("README", "a.seg.png", "a.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    assert [s.name for s in _scan(path).samples] == ["a.jpg"]


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "x/../../a.jpg", "x\ny.jpg", "..\\a.jpg"])
def test_names_that_lead_out_are_left_out_and_named(tmp_path: Path, name: str) -> None:
    found = _scan(plain_tar(tmp_path / "a.tar", [("ok.jpg", b"1"), (name, b"2"), ("z.jpg", b"3")]))
    assert [s.name for s in found.samples] == ["ok.jpg", "z.jpg"]
    (line,) = found.left_out
    assert repr(name) in line
    assert "\n" not in line
    assert not is_safe(name)


def test_a_second_sample_of_a_name_is_left_out(tmp_path: Path) -> None:
    found = _scan(plain_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")]))
    assert [s.name for s in found.samples] == ["a.jpg", "b.jpg"]
    assert len(found.left_out) == 1


@pytest.mark.parametrize("size", [0, 100, 512, 1100, 2048, 3000, 4200, 4608])
def test_a_truncated_shard_keeps_what_comes_before(tmp_path: Path, size: int) -> None:
    """A last image without a class may have lost it, and is left out."""
    members = [("a.jpg", b"1" * 512), ("a.cls", b"0"), ("b.jpg", b"2" * 900), ("b.cls", b"1")]
    path = plain_tar(tmp_path / "a.tar", members)
    path.write_bytes(path.read_bytes()[:size])
    found = _scan(path)
    whole = [("a.jpg", 1537), ("b.jpg", 4097)]
    assert [s.name for s in found.samples] == [name for name, end in whole if end <= size]
    assert found.damage is not None
    assert "truncated" in found.damage


def test_hostile_headers_end_the_shard(tmp_path: Path) -> None:
    """Sizes that would turn the reading back on itself or take all memory."""
    path = plain_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.cls", b"2"), ("b.jpg", b"2")])
    good = path.read_bytes()
    for size in (b"-0000000777\0", b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"77777777777\0", b"zzzzzzzzzzz\0"):
        header = bytearray(good[2048:2560])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        path.write_bytes(good[:2048] + header + good[2560:])
        found = _scan(path)
        assert [s.name for s in found.samples] == ["a.jpg"]
        assert found.damage


@pytest.mark.parametrize(
    "record", [b"9999999 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"x", b"12 size=-99\n"]
)
def test_hostile_extended_headers_end_the_shard(tmp_path: Path, record: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, data in (
            ("a.jpg", tarfile.REGTYPE, b"1"),
            ("a.cls", tarfile.REGTYPE, b"1"),
            ("x", b"x", record),
            ("b.jpg", tarfile.REGTYPE, b"2"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(data)
            tar.fileobj.write(member.tobuf(tarfile.USTAR_FORMAT))  # type: ignore[union-attr]
            tar.fileobj.write(data.ljust(512, b"\0"))  # type: ignore[union-attr]
    found = _scan(path)
    assert [s.name for s in found.samples] == ["a.jpg"]
    assert found.damage


def test_what_is_no_tar_file_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"<html>not found</html>".ljust(2000))
    found = _scan(path)
    assert found.samples == []
    assert "no tar header at 0" in str(found.damage)


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_sparse_members_of_gnu_tar_are_passed_over(tmp_path: Path, blocks: int) -> None:
    """Their map may go on in blocks behind the header, which its size does not count."""
    members = [("a.jpg", b"1"), ("s.jpg", b"2"), ("b.jpg", b"3")]
    data = plain_tar(tmp_path / "a.tar", members).read_bytes()
    header = bytearray(data[1024:1536])
    header[156:157], header[257:265] = b"S", b"ustar  \0"
    header[482] = bool(blocks)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    further = b"".join(bytes(504) + bytes([k + 1 < blocks]) + bytes(7) for k in range(blocks))
    (tmp_path / "a.tar").write_bytes(data[:1024] + header + further + data[1536:])
    found = _scan(tmp_path / "a.tar")
    assert [(s.name, s.offset) for s in found.samples] == [("a.jpg", 512), ("b.jpg", 2560 + 512 * blocks)]
    assert found.damage is None


def test_a_second_member_of_a_suffix_is_named(tmp_path: Path) -> None:
    found = _scan(plain_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.cls", b"0"), ("a.cls", b"1")]))
    assert [s.label for s in found.samples] == [b"1"]
    (line,) = found.left_out
    assert line.startswith("a.cls: another cls")


def test_the_records_of_an_extended_header_are_all_read() -> None:
    """Also 100,000 of them, for each of which the rest is not copied."""
    record = b"7 a=bc\n"
    fields = tar_module._pax_fields(record * 100_000 + b"12 path=a/b\n" + bytes(300), 0)
    assert fields == {"a": "bc", "path": "a/b"}
