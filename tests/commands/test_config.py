"""``--config``: a run, or an evaluation, is repeated by the file that it left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cgc.commands import evaluate_options, train_options
from cgc.commands.evaluate import main as evaluate
from cgc.commands.options import percentage
from cgc.commands.train import main as train_main
from cgc.commands.train_presets import PRESETS
from tests.commands.runs import error_line, rows, train, training_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("config") / "data", (3, 3))


@pytest.fixture(scope="module")
def finished(data: Path) -> Path:
    run = data.parent / "run"
    assert (
        train(data, "--epochs", "2", "--lr", "0.02", "--decay_epochs", "1", "--seed", "3", save_dir=run) == 0
    )
    return run


def written(path: Path, **content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_a_run_is_repeated(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert train_main(["--config", str(finished / "args.json"), "--save_dir", str(again)]) == 0
    assert rows(again) == rows(finished)
    first, second = (json.loads((folder / "args.json").read_text()) for folder in (finished, again))
    changed = {"save_dir", "log_dir", "command"}
    assert {k: v for k, v in first.items() if k not in changed} == {
        k: v for k, v in second.items() if k not in changed
    }


def test_the_command_line_wins(finished: Path, tmp_path: Path) -> None:
    words = ["--config", str(finished / "args.json"), "--epochs", "1", "--save_dir", str(tmp_path / "one")]
    assert train_main(words) == 0
    assert len(rows(tmp_path / "one")) == 1


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_recorded_option_is_taken_up(preset: str, tmp_path: Path) -> None:
    """Whatever the command, by its own program and by the general one; where the run went is not part of it."""
    words = [
        "data",
        "-a",
        "resnet18",
        "--epochs",
        "7",
        "--decay_epochs",
        "2",
        "5",
        "--save_dir",
        "here",
        "--maxpool",
    ]
    words += ["--boxes-share", "12.5", "--lambda", "0.3", "--amp", "bf16", "--resume", "other/start.pth"]
    options = train_options.parse(words, PRESETS[preset])
    recorded = {
        k: v if isinstance(v, (int, float, list, type(None))) else str(v) for k, v in vars(options).items()
    }
    path = written(tmp_path / "args.json", **recorded, classes=["a"], versions={}, command="x", masks=None)
    for program in {preset, "cgc"}:
        again = vars(train_options.parse(["--config", path], PRESETS[program]))
        assert again | {"save_dir": options.save_dir} == vars(options)
        assert again["save_dir"] is None
        assert again["boxes_share"] == percentage("12.5")


def test_a_run_that_was_continued_is_repeated_from_its_start(tmp_path: Path) -> None:
    path = written(tmp_path / "args.json", data="data", save_dir="run", resume="run/checkpoint_001.pth.tar")
    assert train_options.parse(["--config", path], PRESETS["cgc"]).resume is None


def test_a_run_that_was_continued_in_its_default_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(data, "--epochs", "1", "--seed", "9") == 0
    run = Path("runs/cgc-resnet_tiny-seed9")
    assert train(data, "--epochs", "2", "--seed", "9", "--resume", run / "checkpoint_001.pth.tar") == 0
    again = train_options.parse(["--config", str(run / "args.json")], PRESETS["cgc"])
    assert (again.resume, again.save_dir, again.epochs) == (None, None, 2)


@pytest.mark.parametrize("word", ["--conf", "--confi"])
def test_it_has_to_be_written_in_full(word: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for parse, preset in (
        (train_options.parse, PRESETS["cgc"]),
        (evaluate_options.parse, evaluate_options.PRESETS["evaluate"]),
    ):
        with pytest.raises(SystemExit):
            parse(["data", word, str(finished / "args.json")], preset)  # type: ignore[operator]
        assert "--config has to be written in full" in capsys.readouterr().err


def test_options_may_be_called_as_on_the_command_line(tmp_path: Path) -> None:
    path = written(
        tmp_path / "mine.json", **{"data": "d", "batch-size": 8, "lambda": 2, "wd": 0.5, "strict": True}
    )
    options = train_options.parse(["--config", path], PRESETS["cgc"])
    assert (options.batch_size, options.weight, options.weight_decay, options.strict) == (8, 2.0, 0.5, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"batch_sise": 4}', "no option 'batch_sise'; did you mean 'batch_size'?"),
        ('{"config": "x"}', "no option 'config'"),
        ('{"batch_size": 0}', "batch_size: 0 is not at least 1"),
        ('{"batch_size": "many"}', "batch_size: "),
        ('{"batch_size": {"a": 1}}', "is no value of this option"),
        ('{"strict": "yes"}', "neither true nor false"),
        ('{"lr": true}', "is no value of this option"),
        ('{"amp": "fp8"}', "'fp8' is none of off, bf16, fp16"),
        ('{"program": "train_eval_sgc.py"}', "of train_eval_sgc.py, not of train_gcam_grid_consistency.py"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (None, "No such file"),
    ],
)
def test_what_cannot_be_taken_up_is_one_line(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "args.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        train_options.parse(["data", "--config", str(path)], PRESETS["grid"])
    assert ended.value.code == 2
    line = error_line(capsys.readouterr().err)
    assert said in line
    assert str(path) in line


def test_without_data_it_is_still_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_options.parse(["--config", written(tmp_path / "a.json", epochs=3)], PRESETS["cgc"])
    assert "data" in capsys.readouterr().err


def test_an_evaluation_is_repeated(finished: Path, data: Path, tmp_path: Path) -> None:
    checkpoint, out = finished / "model_best.pth.tar", tmp_path / "a.json"
    words = ["--metrics", "top1", "--input_resize", "32", "-b", "3", "-j", "0", "--bootstrap", "50"]
    assert evaluate([str(checkpoint), str(data), *words, "--out", str(out)]) == 0
    assert evaluate(["--config", str(out), "--out", str(tmp_path / "b.json")]) == 0
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert first["scores"] == second["scores"]
    assert {k: v for k, v in first["settings"].items() if k != "out"} == {
        k: v for k, v in second["settings"].items() if k != "out"
    }


def test_an_evaluation_takes_the_folder_of_a_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = evaluate_options.PRESETS["evaluate"]
    found = evaluate_options.parse([str(finished), "data"], preset).checkpoint
    assert found == finished / "checkpoint_002.pth.tar"
    with pytest.raises(SystemExit):
        evaluate_options.parse([str(tmp_path), "data"], preset)
    assert str(tmp_path) in error_line(capsys.readouterr().err)


def test_every_option_of_an_evaluation_is_taken_up(tmp_path: Path) -> None:
    preset = evaluate_options.PRESETS["evaluate"]
    words = [
        "model.pth",
        "data",
        "--metrics",
        "pg,spg",
        "--tolerance",
        "3",
        "--layer",
        "layer3",
        "--stretch-maps",
    ]
    options = evaluate_options.parse(words, preset)
    path = written(tmp_path / "scores.json", settings=evaluate_options.plain(options) | {"torch": "2"})
    assert evaluate_options.parse(["--config", path], preset) == options
    other = evaluate_options.parse(["other.pth", "there", "--config", path, "--layer", "layer2"], preset)
    assert (other.checkpoint, other.data, other.layer) == (Path("other.pth"), Path("there"), "layer2")
    other = evaluate_options.parse(["there", "--config", path], preset)
    assert (other.checkpoint, other.data) == (Path("model.pth"), Path("there"))
    other = evaluate_options.parse(["--config", path, "--resume", "other.pth"], preset)
    assert (other.checkpoint, other.data) == (Path("other.pth"), Path("data"))
    auc = evaluate_options.PRESETS["auc"]
    assert evaluate_options.parse(["--config", path, "--data", "there"], auc).data == Path("there")
