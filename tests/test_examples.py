"""The shell scripts in examples/: what they start, where they continue, and what they do when Slurm signals.

torchrun and Slurm's commands are stand-ins that write down how they were called.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from cgc.commands.run_folders import AUTO
from cgc.commands.train_presets import PRESETS

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path for folder in ("torchrun", "slurm") for path in (ROOT / "examples" / folder).glob("*.s*")
)
LAUNCHERS = [path for path in SCRIPTS if path.name != "until_signalled.sh"]
SLURM = [path for path in LAUNCHERS if path.suffix == ".sbatch"]

STAND_INS = {
    "torchrun": 'printf "%s\\n" "$@" >"$LOG/torchrun"; exit "${STATUS:-0}"',
    "srun": 'printf "%s\\n" "$@" >"$LOG/srun"; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'case $1 in show) printf "first\\nsecond\\n" ;; *) echo "$@" >>"$LOG/scontrol" ;; esac',
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables under which a script runs, with the stand-ins first in PATH."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in STAND_INS.items():
        stand_in(commands, name, body)
    (tmp_path / "log").mkdir()
    given = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "DATA": str(tmp_path / "data set"),
        "RUN": str(tmp_path / "a run"),
        "HOST": "first",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
    }
    return {**os.environ, **given}


def stand_in(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def run(script: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def started(environment: dict[str, str]) -> tuple[list[str], list[str]]:
    """torchrun's own arguments and those of the training script, each checked by its own parser."""
    arguments = (Path(environment["LOG"]) / "torchrun").read_text().splitlines()
    launcher = get_args_parser().parse_args(arguments)
    script = Path(launcher.training_script)
    assert (ROOT / script).resolve() == ROOT / "train_eval_cgc.py"
    at = arguments.index(launcher.training_script)
    return arguments[:at], arguments[at + 1 :]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_shell_accepts_it(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("script", LAUNCHERS, ids=lambda path: path.name)
def test_both_parsers_know_every_option(script: Path, environment: dict[str, str]) -> None:
    from cgc.commands.train_options import parse

    done = run(script, environment, "--epochs", "3")
    assert done.returncode == 0, done.stderr
    launcher, training = started(environment)
    options = parse(training, PRESETS["cgc"])
    assert str(options.data) == environment["DATA"]
    assert str(options.save_dir) == environment["RUN"]
    assert (options.batch_size, options.lr, options.weight, options.temperature) == (256, 0.1, 0.5, 0.5)
    assert options.negatives == "gathered"
    assert options.epochs == 3, "further options come last"
    assert options.resume == AUTO
    several = {"multi_node.sbatch": "first:24711", "two_nodes.sh": "first:29400"}.get(script.name)
    assert options.sync_bn == (several is not None)
    assert (f"--rdzv_endpoint={several}" in launcher) == (several is not None)
    assert ("--standalone" in launcher) == (several is None)


@pytest.mark.parametrize("script", LAUNCHERS, ids=lambda path: path.name)
def test_what_has_to_be_named(script: Path, environment: dict[str, str]) -> None:
    for name in ("DATA", "RUN"):
        missing = {key: value for key, value in environment.items() if key != name}
        done = run(script, missing)
        assert done.returncode != 0
        assert name in done.stderr
    assert not (Path(environment["LOG"]) / "torchrun").exists()


@pytest.mark.parametrize("script", SLURM, ids=lambda path: path.name)
def test_a_failed_job_fails(script: Path, environment: dict[str, str]) -> None:
    assert run(script, {**environment, "STATUS": "3"}).returncode == 3
    assert not (Path(environment["LOG"]) / "scontrol").exists()


@pytest.mark.parametrize("script", SLURM, ids=lambda path: path.name)
@pytest.mark.parametrize("saved", [True, False], ids=["interrupted", "complete"])
def test_a_signalled_job_is_queued_again(script: Path, saved: bool, environment: dict[str, str]) -> None:
    """Slurm's USR1 to the batch script ends as one TERM at torchrun; what was just complete is not queued again."""
    commands, log = Path(environment["PATH"].split(":")[0]), Path(environment["LOG"])
    status = 143 if saved else 0
    # Once it is there to be signalled, torchrun plays Slurm; it ends when it gets its TERM, and a USR1 must not hurt.
    stand_in(
        commands,
        "torchrun",
        f"trap 'echo TERM >>\"$LOG/torchrun\"; exit {status}' TERM\n"
        'kill -USR1 $$\nkill -USR1 "$(cat "$LOG/batch")"\nwhile true; do read -rt 1 <>"$LOG/never"; done',
    )
    # Slurm signals the processes of all steps: here the one that srun became, and its child.
    stand_in(commands, "srun", 'echo $$ >"$LOG/step"; while [[ $1 == --* ]]; do shift; done; exec "$@"')
    stand_in(commands, "scancel", 'echo "$@" >>"$LOG/scancel"; kill "-${1#--signal=}" "$(cat "$LOG/step")"')
    os.mkfifo(log / "never")
    wrapper = f'echo $$ >"$LOG/batch"; exec bash {shlex.quote(str(script))}'
    done = subprocess.run(
        ["bash", "-c", wrapper], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (log / "scancel").read_text() == "--signal=USR1 4711\n"
    assert (log / "torchrun").read_text() == "TERM\n"
    queued = (log / "scontrol").read_text() if (log / "scontrol").exists() else ""
    assert queued == ("requeue 4711\n" if saved else "")


def test_slurm_is_asked_to_signal_the_script_and_to_queue_again() -> None:
    for script in SLURM:
        asked = re.findall(r"^#SBATCH (\S+)", script.read_text(), re.MULTILINE)
        assert {"--requeue", "--signal=B:USR1@120", "--open-mode=append"} <= set(asked)


def test_the_readmes_name_every_script() -> None:
    for script in SCRIPTS:
        assert script.name in (script.parent / "README.md").read_text(), script
