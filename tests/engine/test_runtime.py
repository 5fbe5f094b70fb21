"""Devices, precision and stop requests."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from cgc.engine import runtime
from cgc.engine.runtime import (
    STOP_SIGNALS,
    Stopped,
    StopRequest,
    autocast,
    in_parallel,
    keep_freed_memory,
    pick_device,
)
from cgc.errors import InputError

CPU = torch.device("cpu")


def test_the_default_device_is_the_gpu_if_there_is_one() -> None:
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu", gpu=3) == CPU


@pytest.mark.parametrize(
    ("name", "gpu"), [("cuda:99", None), (None, 99), ("quantum", None), ("cuda:x", None)]
)
def test_a_device_that_is_not_there_is_named(name: str | None, gpu: int | None) -> None:
    with pytest.raises(InputError, match=name or f"cuda:{gpu}") as error:
        pick_device(name, gpu)
    assert "\n" not in str(error.value)


def test_one_device_needs_no_replicas() -> None:
    module = nn.Linear(1, 1)
    assert in_parallel(module, CPU) is module
    assert in_parallel(module, torch.device("cuda:0")) is module


def test_several_visible_gpus_are_used_unless_one_was_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(nn, "DataParallel", lambda module, device_ids: (module, device_ids))
    module = nn.Linear(1, 1)
    assert in_parallel(module, torch.device("cuda")) == (module, [0, 1, 2])
    assert in_parallel(module, torch.device("cuda"), gpus=2) == (module, [0, 1])
    assert in_parallel(module, torch.device("cuda"), gpus=1) is module
    assert in_parallel(module, torch.device("cuda", 0)) is module


def test_autocast_on_the_cpu() -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, "off"):
        assert (a @ a).dtype == torch.float32
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"fp16.*bf16"):
        autocast(CPU, "fp16")


FAULTS = """
import resource
from cgc.engine.runtime import keep_freed_memory
kept = keep_freed_memory()
for turn in range(12):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"1" * 2**26
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is asked for is glibc's")
def test_freed_memory_is_used_again() -> None:
    def run(**environment: str) -> tuple[str, int]:
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))
        }
        said = subprocess.run(
            [sys.executable, "-c", FAULTS],
            env={**env, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        kept, faults = said.stdout.split()
        return kept, int(faults)

    kept, faults = run()
    assert kept == "True"
    assert faults < 100  # ten times 64 MiB are 163,840 pages
    assert run(MALLOC_ARENA_MAX="4")[0] == "False"  # somebody's own choice
    assert run(GLIBC_TUNABLES="glibc.malloc.arena_max=4")[0] == "False"


@pytest.mark.parametrize("platform_name", ["darwin", "win32"])
def test_other_systems_keep_their_ways(platform_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform_name)
    assert not keep_freed_memory()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_asks_and_a_later_ctrl_c_interrupts(
    number: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopRequest()
    assert not stop
    assert stop.exit_status == 0
    with stop.listening():
        signal.raise_signal(number)
        assert stop
        assert stop.exit_status == 128 + number
        assert number.name in capsys.readouterr().err
        for again in STOP_SIGNALS:  # passed on by torchrun, or sent to the group as well
            signal.raise_signal(again)
        monkeypatch.setattr(runtime, "_SAME_REQUEST", -1.0)  # a while later
        for again in (signal.SIGTERM, signal.SIGUSR1):  # what a scheduler sends next: saving goes on
            signal.raise_signal(again)
        assert stop.exit_status == 128 + number
        assert capsys.readouterr().err == ""
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_request_ends_the_waiting_for_what_may_never_come() -> None:
    stop = StopRequest()

    def stalled() -> Iterator[int]:
        yield 1
        signal.raise_signal(signal.SIGTERM)
        yield 2

    with stop.listening():
        items = stop.while_awaited(stalled())
        assert next(items) == 1
        with pytest.raises(Stopped):
            next(items)
    assert stop.signal is signal.SIGTERM


def test_a_request_during_the_work_on_an_item_waits_for_it() -> None:
    stop = StopRequest()
    taken = []
    with stop.listening():
        for item in stop.while_awaited([1, 2]):
            if item == 1:
                signal.raise_signal(signal.SIGTERM)
            taken.append(item)
    assert taken == [1, 2]
    assert stop


@pytest.mark.parametrize("fails", [False, True])
def test_the_earlier_handlers_come_back(fails: bool) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with StopRequest().listening():
            assert signal.getsignal(signal.SIGINT) != before[signal.SIGINT]
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert {number: signal.getsignal(number) for number in before} == before


def test_precision_goes_with_the_module_into_other_threads() -> None:
    """DataParallel runs its replicas in threads, which do not inherit the precision."""
    seen: list[torch.dtype] = []

    class Product(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append((x @ x).dtype)
            return {}

    module = in_parallel(Product(), CPU, "bf16")
    thread = threading.Thread(target=module, args=(torch.ones(2, 2),))
    thread.start()
    thread.join()
    assert seen == [torch.bfloat16]
    with pytest.raises(InputError, match="fp16"):
        in_parallel(Product(), CPU, "fp16")
