"""Tables as text: the list, one table with all of its commands, and what a run found."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from cgc.reproduce.hours import machine, predicted, trainings_of
from cgc.reproduce.model import Command, Row, Table
from cgc.reproduce.plan import Job, Plan, Settings, is_pretrained
from cgc.reproduce.scale import TINY
from cgc.reproduce.tables import TABLES


def listing() -> str:
    width = max(map(len, TABLES))
    lines = [f"{name:<{width}}  {table.title}; {len(table.rows)} rows" for name, table in TABLES.items()]
    return "\n".join(
        [*lines, "", "python -m cgc reproduce show TABLE: what it needs, its commands and published numbers"]
    )


def typed(words: Sequence[str], processes: int = 1) -> str:
    """A command as people type it."""
    start = ["python"] if processes == 1 else ["torchrun", "--standalone", f"--nproc_per_node={processes}"]
    rest = ["-m", *words] if words[0] == "cgc" else list(words)
    return shlex.join([*start, *rest])


def shown(table: Table, scale: str, decode_ms: float, gpus: int) -> str:
    """Everything that is known of a table before it runs. Raises ValueError for a rate that is not positive."""
    lines = [f"{table.name}: {table.title}", "", "needs"]
    width = max(len(each.name) for each in table.inputs)
    lines += [
        f"  {need.name:<{width}}  {need.what}" + (f" (default: {need.default})" if need.default else "")
        for need in table.inputs
    ]
    symbols = {need.name: need.name for need in table.inputs}
    plan = Plan(table, table.rows, [0], Settings(Path("OUT"), symbols, scale))
    if table.preparations:
        lines += ["", "once for all rows"]
        for each in table.preparations:
            lines += _command(plan.preparation(each), each)
    lines += ["", f"rows (OUT = --out, seed 0; scale {scale})"]
    for row in table.rows:
        lines += _row(plan, row, scale)
        prediction = None if row.pretrained or scale == TINY else predicted(row.training, decode_ms, gpus)
        if prediction is not None:
            lines.append(f"    predicted   {prediction.gpu_hours:.1f} GPU hours to train")
    lines += ["", *(f"note: {remark}" for remark in table.remarks)]
    if scale == TINY:
        return "\n".join(lines).rstrip()
    found = [predicted(training, decode_ms, gpus) for training in trainings_of(table.rows)]
    total = sum(each.gpu_hours for each in found if each is not None)
    lines.append(f"note: all trainings together {total:.1f} GPU hours of a seed ({machine(decode_ms, gpus)})")
    return "\n".join(lines)


def _row(plan: Plan, row: Row, scale: str) -> Iterable[str]:
    yield f"  {row.name}: {row.title}"
    if not is_pretrained(row, scale):
        yield from _command(plan.training(row.training, 0), row.training)
    for each in row.evaluations:
        yield from _command(plan.evaluation(row, each, 0), each)
        if each.needs:
            yield f"    needs       the package {each.needs}"
    if row.published:
        numbers = ", ".join(f"{name} {value:g}" for name, value in row.published.items())
        yield f"    published   {numbers} ({row.source})"
    else:
        yield "    published   nothing that is known to this project"
    if row.ours:
        yield f"    ours        {'; '.join(row.ours)}"


def _command(job: Job, command: Command) -> Iterable[str]:
    label = "scores" if job.kind == "evaluate" else job.kind
    yield f"    {label:<10}  {typed(job.words)}"
    if command.ours:
        yield f"    ours        {'; '.join(command.ours)}"


def dry_run(plan: Plan) -> str:
    """Every command of a run with what would become of it."""
    lines = []
    for job in plan.jobs:
        if job.is_done():
            lines.append(f"# {job.title}: done")
            continue
        lines += [f"# {job.title}{' (goes on)' if job.has_begun() else ''}", typed(job.words, job.processes)]
    return "\n".join(lines)
