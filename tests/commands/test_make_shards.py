"""`python -m cgc make-shards`."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cgc.__main__ import main as cgc
from cgc.commands.make_shards import main
from cgc.data.folders import open_split
from cgc.data.shards import writer as shard_writer
from cgc.data.shards.folders import ShardOptions, open_images, open_stream
from cgc.data.shards.index import INDEX, RECORDS
from tests.commands.runs import error_line
from tests.data.images import image_folder, save_photograph
from tests.data.shards.fixture import plain_tar
from tests.data.shards.test_images import contents

ROOT = Path(__file__).parents[2]


def make(*arguments: object) -> int:
    return main([*map(str, arguments), "-j", "0"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """12 training images, 12 held-out ones."""
    return image_folder(tmp_path / "data", 6)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("workers", [0, 2])
def test_both_splits_come_back(data: Path, tmp_path: Path, workers: int) -> None:
    assert (
        cgc(["make-shards", str(data), "--out", str(tmp_path / "out"), "--samples", "5", "-j", str(workers)])
        == 0
    )
    for split in ("train", "val"):
        found = open_images(tmp_path / "out", split, ShardOptions(strict=True))
        assert contents(found) == contents(open_split(data, split))
    names = sorted(path.name for path in (tmp_path / "out" / "train").iterdir())
    assert names == [RECORDS, INDEX, *(f"train-00000{k}.tar" for k in range(3))]


def test_the_files_depend_on_the_seed_alone(data: Path, tmp_path: Path) -> None:
    for name, workers, seed in (("a", 0, 0), ("b", 2, 0), ("c", 0, 1)):
        arguments = [data, "--out", tmp_path / name, "--samples", 4, "--seed", seed, "-j", workers]
        assert main(list(map(str, arguments))) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a").keys() == files(tmp_path / "c").keys()
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_a_size_gives_shards_of_about_that_size(data: Path, tmp_path: Path) -> None:
    assert make(data, "--out", tmp_path / "out", "--split", "train", "--size", 0.02) == 0
    sizes = [path.stat().st_size for path in (tmp_path / "out" / "train").glob("*.tar")]
    assert len(sizes) == 3
    assert all(10_000 < size <= 20_480 for size in sizes)


@pytest.mark.parametrize("size", ["1e-7", "1e308"])
def test_sizes_beyond_all_measure(data: Path, tmp_path: Path, size: str) -> None:
    assert make(data, "--out", tmp_path / "out", "--size", size, "--split", "train") == 0
    assert len(list((tmp_path / "out" / "train").glob("*.tar"))) == (12 if size == "1e-7" else 1)


def test_unlabelled_images(data: Path, tmp_path: Path) -> None:
    assert make(data, "--out", tmp_path / "out", "--split", "unlabeled", "--samples", 10) == 0
    found = open_stream(tmp_path / "out" / "unlabeled", ShardOptions())
    assert len(found) == 24
    assert found.classes == ()


def test_finished_shards_are_kept_and_damaged_ones_made_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [data, "--out", tmp_path / "out", "--samples", 4, "--split", "train"]
    folder = tmp_path / "out" / "train"
    whole = tmp_path / "whole"
    assert make(data, "--out", whole, "--samples", 4, "--split", "train") == 0
    expected = files(whole)
    write, calls = shard_writer.ShardWriter._write, [0]

    def full(self: shard_writer.ShardWriter, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.ShardWriter, "_write", full)
        assert make(*arguments) == 1
    said = error_line(capsys.readouterr().err, "failed")
    assert "No space left on device; 2 of 3 shards are finished" in said
    assert sorted(path.name for path in folder.iterdir()) == [
        "making.json",
        "train-000000.tar",
        "train-000001.tar",
    ]
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    (folder / ".train-000002.tar.part").write_bytes(b"left behind")
    assert make(*arguments) == 0
    assert files(tmp_path / "out") == expected
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times
    assert "2 shards were there" in capsys.readouterr().out
    for damage in (
        lambda p: p.unlink(),
        lambda p: p.write_bytes(p.read_bytes()[:600] + b"damage" + p.read_bytes()[606:]),
    ):
        damage(folder / "train-000001.tar")
        assert make(*arguments) == 0
        assert files(tmp_path / "out") == expected
        assert "2 shards were there" in capsys.readouterr().out


def test_killed_in_the_middle_and_run_again(data: Path, tmp_path: Path) -> None:
    """A process that ends at once, inside the third shard."""
    arguments = [str(data), "--out", str(tmp_path / "out"), "--samples", "4", "--split", "train", "-j", "0"]
    program = (
        "import os, sys\nfrom cgc.data.shards import writer as w\nwrite, calls = w._add, []\n"
        "def add(*a):\n    calls.append(1)\n    write(*a)\n    len(calls) < 20 or os.kill(os.getpid(), 9)\n"
        "w._add = add\nfrom cgc.commands.make_shards import main\nmain(sys.argv[1:])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    folder = tmp_path / "out" / "train"
    there = sorted(path.name for path in folder.iterdir())
    assert there == [".train-000002.tar.part", "making.json", "train-000000.tar", "train-000001.tar"]
    assert main(arguments) == 0
    assert make(data, "--out", tmp_path / "whole", "--samples", 4, "--split", "train") == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_stopped_by_a_signal(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = shard_writer.ShardWriter.note

    def stop(self: shard_writer.ShardWriter, *arguments: Any) -> None:
        note(self, *arguments)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.ShardWriter, "note", stop)
        assert make(data, "--out", tmp_path / "out", "--samples", 4) == 128 + signal.SIGTERM
    assert len(list((tmp_path / "out").rglob("*.tar"))) == 1
    assert make(data, "--out", tmp_path / "out", "--samples", 4) == 0
    assert len(list((tmp_path / "out").rglob("*.tar"))) == 6


def test_what_cannot_be_read_is_left_out_and_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data / "train" / "ant"
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "dangling.jpg").symlink_to(tmp_path / "none")
    (folder / "text.jpg").write_text("no image")
    arguments = [data, "--samples", 5, "--split", "train"]
    assert make(*arguments, "--out", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert "2 images left out" in captured.out
    assert "empty.jpg: empty file" in captured.err
    assert "dangling.jpg" in captured.err
    assert make(*arguments, "--out", tmp_path / "decoded", "--decode") == 0
    assert "text.jpg: not an image" in capsys.readouterr().err
    assert len(open_images(tmp_path / "decoded", "train", ShardOptions())) == 12
    assert make("--verify", tmp_path / "out") == 0
    assert make("--verify", tmp_path / "out", "--decode") == 1
    assert "text.jpg: not an image" in error_line(capsys.readouterr().err, "failed")


@pytest.mark.parametrize("damage", ["byte", "cut", "gone", "exchanged"])
def test_verify_finds(data: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert make(data, "--out", out, "--samples", 4) == 0
    assert make("--verify", out) == 0
    path, other = out / "val" / "val-000001.tar", out / "val" / "val-000002.tar"
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:3000])
    elif damage == "byte":
        path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    else:
        path.write_bytes(other.read_bytes())
    capsys.readouterr()
    assert make("--verify", out) == 1
    assert "val-000001.tar" in error_line(capsys.readouterr().err, "failed")
    if damage != "gone":
        content = json.loads((out / "val" / INDEX).read_text())  # as an index that lies would have it
        content["shards"][1].update(
            sha256=shard_writer.scan_shard(path).shard.sha256, bytes=path.stat().st_size
        )
        (out / "val" / INDEX).write_text(json.dumps(content))
        assert make("--verify", out) != 0


def test_shards_of_others_are_indexed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = save_photograph(tmp_path / "a.png").read_bytes()
    for k in range(2):
        members = [(f"{k}{n}.{s}", d) for n in range(3) for s, d in (("png", picture), ("cls", b"%d" % n))]
        plain_tar(tmp_path / "s" / "train" / f"{k}.tar", [("../x.png", picture), *members])
    assert make("--index", tmp_path / "s") == 0
    captured = capsys.readouterr()
    assert "6 images in 2 shards, 3 classes" in captured.out
    assert captured.err.count("../x.png") == 2
    found = open_images(tmp_path / "s", "train", ShardOptions(strict=True))
    assert contents(found) == [(n, picture) for n in range(3) for _ in range(2)]
    assert make("--index", tmp_path / "s") == 2
    assert "is there already" in error_line(capsys.readouterr().err)


def test_a_shard_that_was_indexed_truncated_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = save_photograph(tmp_path / "a.png").read_bytes()
    path = plain_tar(tmp_path / "s" / "train" / "0.tar", [(f"{n}.png", picture) for n in range(3)])
    os.truncate(path, path.read_bytes().rindex(picture) + 7)
    assert make("--index", tmp_path / "s") == 0
    capsys.readouterr()
    assert make("--verify", tmp_path / "s") == 1
    assert "0.tar: it ends after" in capsys.readouterr().err


def test_bad_input_is_refused_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "other" / "train").mkdir(parents=True)
    (tmp_path / "other" / "train" / "thesis.tex").write_text("")
    plain_tar(tmp_path / "tars" / "train" / "train-000000.tar", [])
    (tmp_path / "file").write_text("")
    assert make(data, "--out", tmp_path / "made", "--samples", 4) == 0
    for arguments, said in (
        ([data], "--out DIR is needed"),
        (["--out", out], "give DATA"),
        ([data, "--verify", out], "give DATA"),
        (["--verify", out], "no such folder"),
        (["--verify", data], "no index.json"),
        (["--index", data], "no tar files"),
        ([tmp_path / "none", "--out", out], "none: no such folder"),
        ([data, "--out", data], "holds something else"),
        ([data, "--out", data / "train"], "among the images"),
        ([data, "--out", tmp_path / "other"], "thesis.tex"),
        ([data, "--out", tmp_path / "tars"], "unknown making"),
        ([data, "--out", tmp_path / "file"], "cannot write to"),
        ([data, "--out", tmp_path / "made", "--samples", 6], "another --seed or size"),
        ([data, "--out", tmp_path / "made", "--samples", 4, "--seed", 1], "another --seed or size"),
    ):
        capsys.readouterr()
        assert make(*arguments) == 2, arguments
        assert said in error_line(capsys.readouterr().err), arguments
    assert not out.exists()
    with pytest.raises(SystemExit, match="2"):
        make(data, "--out", out, "--samples", 0)


@pytest.mark.slow
def test_workers_end_with_a_killed_command(data: Path, tmp_path: Path) -> None:
    """No process is left behind that would go on writing."""
    arguments = ["make-shards", str(data), "--out", str(tmp_path / "out"), "--samples", "1", "-j", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cgc", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while (
        not list((tmp_path / "out").glob("train/*.tar"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)  # the pipe is closed when the last process that holds it has ended
    assert main([*arguments[1:-1], "0"]) == 0
