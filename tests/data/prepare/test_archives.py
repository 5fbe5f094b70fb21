"""Archives of every kind, good, damaged and hostile."""

from __future__ import annotations

import bz2
import io
import lzma
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from tqdm import tqdm

from cgc.data.prepare.archives import chunks, members, unpacked_size
from cgc.data.prepare.extraction import extract, give_file, need_room
from cgc.errors import InputError, RunError
from tests.data.prepare.fixture import tar_bytes, write_tar, write_zip

CONTENT = {"top/a.txt": b"first" * 1000, "top/b/c.txt": b"", "top/._a.txt": b"?", "__MACOSX/x": b"?"}
READ = {name: data for name, data in CONTENT.items() if name in ("top/a.txt", "top/b/c.txt")}


def content(path: Path, *, nested: bool = False) -> dict[str, bytes]:
    return {member.name: b"".join(chunks(path, member)) for member in members(path, nested=nested)}


def special(name: str, kind: bytes, target: str = "") -> bytes:
    """A tar file with a good member, one of a special kind, and another good one behind it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for member in ("good.txt", name, "behind.txt"):
            info = tarfile.TarInfo(member)
            if member == name:
                info.type, info.linkname = kind, target
            archive.addfile(info)
    return file.getvalue()


def test_every_compression_gives_the_same_files(tmp_path: Path) -> None:
    plain = tar_bytes(CONTENT)
    write_tar(tmp_path / "a.tar", CONTENT)
    write_tar(tmp_path / "a.tgz", CONTENT)
    (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(plain))
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(plain))
    write_zip(tmp_path / "a.zip", CONTENT)
    for path in tmp_path.iterdir():
        assert content(path) == READ, path
    assert unpacked_size(tmp_path / "a.zip") == sum(map(len, CONTENT.values()))


def test_archives_in_an_archive(tmp_path: Path) -> None:
    inner = tar_bytes({"x.txt": b"x", "y.txt": b"y"})
    without_end = inner[:2048]  # some programs write no end mark; the outer archive says how long it is
    path = write_tar(tmp_path / "o.tar", {"one.tar": inner, "two.tar": without_end, "three.txt": b"3"})
    assert content(path, nested=True) == {
        "one/x.txt": b"x",
        "one/y.txt": b"y",
        "two/x.txt": b"x",
        "two/y.txt": b"y",
        "three.txt": b"3",
    }


@pytest.mark.parametrize("kept", [0, 1, 300, 512, 700, 1024, 3000, 6144, 6400])
@pytest.mark.parametrize("suffix", ["tar", "tgz", "zip"])
def test_a_cut_off_archive_is_never_taken_for_a_whole_one(tmp_path: Path, kept: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write = write_zip if suffix == "zip" else write_tar
    whole = write(path, {"a": bytes(range(256)) * 8, "b": b"b" * 3000}).read_bytes()
    kept = kept if suffix == "tar" else min(kept, len(whole) - 1)
    path.write_bytes(whole[:kept])
    with pytest.raises(InputError, match=f"^{path}: ") as caught:
        content(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a": b"a", "b": b"b"})
    data = bytearray(path.read_bytes())
    data[1024:1030] = b"broken"
    path.write_bytes(data)
    with pytest.raises(InputError, match="cut off or damaged"):
        content(path)


def test_damaged_bytes_in_zip_and_gz(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a": b"a" * 100})
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match="cut off or damaged"):
        content(path)
    path = write_tar(tmp_path / "a.tgz", {"a": b"a" * 100})
    data = bytearray(path.read_bytes())
    data[-6] ^= 255  # of the checksum
    path.write_bytes(data)
    with pytest.raises(InputError, match="cut off or damaged"):
        content(path)


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../out.txt", tarfile.REGTYPE, ""),
        ("a/../../out.txt", tarfile.REGTYPE, ""),
        ("/tmp/out.txt", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.SYMTYPE, "good.txt"),
        ("hard", tarfile.LNKTYPE, "good.txt"),
        ("device", tarfile.CHRTYPE, ""),
        ("disk", tarfile.BLKTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_hostile_members_are_refused(
    tmp_path: Path, name: str, kind: bytes, target: str, inside: bool
) -> None:
    path, out = tmp_path / "a.tar", tmp_path / "out"
    hostile = special(name, kind, target)
    if inside:
        write_tar(path, {"inner.tar": hostile})
    else:
        path.write_bytes(hostile)
    with pytest.raises(InputError, match=f"^{path}: '.*refused") as caught:
        extract(path, out, lambda member: member, tqdm, nested=inside)
    assert "\n" not in str(caught.value)
    assert {
        p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()
    } == {
        "a.tar",
        "out/inner/good.txt" if inside else "out/good.txt",
    }


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../x", "..\\out.txt", "C:out.txt"])
def test_hostile_names_in_zip(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "a.zip", {"good.txt": b"", name: b"x"})
    with pytest.raises(InputError, match="outside of the archive's folder"):
        extract(path, tmp_path / "out", lambda member: member, tqdm)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "good.txt", "out"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_zip(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="is a link or a device"):
        content(path)


def test_files_that_are_there_are_kept_and_half_ones_replaced(tmp_path: Path) -> None:
    path, out = write_tar(tmp_path / "a.tar", {"a": b"1234", "b": b"5678", "c": b"90"}), tmp_path / "out"
    out.mkdir()
    (out / "a").write_bytes(b"kept")
    (out / "b").write_bytes(b"56")
    (out / ".c.partial").write_bytes(b"what an interrupted run left behind")
    (out / "c").symlink_to(tmp_path / "elsewhere")
    assert extract(path, out, lambda name: name, tqdm) == (2, 1, 0)
    assert [(out / name).read_bytes() for name in "abc"] == [b"kept", b"5678", b"90"]
    assert not (tmp_path / "elsewhere").exists()
    assert sorted(p.name for p in out.iterdir()) == ["a", "b", "c"]


def test_another_archive_of_the_same_name(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"x": b"", "y": b""})
    with pytest.raises(InputError, match=r"none of its 2 files is one that a\.tar should hold"):
        extract(path, tmp_path / "out", lambda name: None, tqdm)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a": b"", "a/b": b""})
    with pytest.raises(RunError, match="goes on from here"):
        extract(path, tmp_path / "out", lambda name: name, tqdm)
    with pytest.raises(
        InputError, match=r"unpacking needs 1,000,000,000,000 MB at least, and .* MB are free"
    ):
        need_room(tmp_path / "not" / "yet", 10**18)
    with pytest.raises(RunError, match="No such file"):
        give_file(tmp_path / "none", tmp_path / "x")


def test_no_archives(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"this is no archive" * 100)
    for name, said in (
        ("a.tar", "no archive that can be read"),
        ("b.tar", "No such file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(InputError, match=said):
            content(tmp_path / name)
