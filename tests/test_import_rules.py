"""Imports run downward only, and importing anything is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Level of each part; a module may import from lower levels and from its own part.
LEVELS = {
    "cgc.errors": 0,
    "cgc.optional_packages": 1,
    "cgc.gradcam": 1,
    "cgc.gradcam_probe": 1,
    "cgc.modes": 1,
    "cgc.spatial": 1,
    "cgc.losses": 2,
    "cgc.models": 2,
    "cgc.data": 2,
    "cgc.explainers": 2,
    "cgc.metrics": 3,
    "cgc.engine": 4,
    "cgc.methods": 4,
    "cgc.report": 4,
    "cgc.evaluation": 5,
    "cgc.reproduce": 5,
    "cgc.commands": 6,
    "cgc.demo": 7,
    "cgc.__main__": 7,
}
TORCH_ONLY = (
    "cgc.gradcam",
    "cgc.gradcam_probe",
    "cgc.modes",
    "cgc.spatial",
)  # these may import each other and errors, and torch


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imported_modules(source: str, module: str, is_package: bool) -> set[str]:
    """Absolute names of the modules a source imports, inside functions too, not for type checking alone."""
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                kept = package[: len(package) - (node.level - 1)]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names if base in ("cgc", "") or node.level)
    return found


def violations(module: str, imported: set[str]) -> list[str]:
    part, wrong = part_of(module), []
    for name in sorted(imported):
        root = name.split(".")[0]
        target = part_of(name)
        if root in ("tests", "benchmarks"):
            wrong.append(name)
        elif target in LEVELS and part in LEVELS and target != part:
            same_family = part in TORCH_ONLY and target in TORCH_ONLY
            if LEVELS[target] >= LEVELS[part] and not same_family:
                wrong.append(name)
        elif part in TORCH_ONLY and root not in (*sys.stdlib_module_names, "torch", "cgc"):
            wrong.append(name)
    return wrong


MODULES = sorted((ROOT / "cgc").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_downward(path: Path) -> None:
    module = module_name(path)
    assert module == "cgc" or part_of(module) in LEVELS, f"give {part_of(module)} a level"
    imported = imported_modules(path.read_text(), module, path.name == "__init__.py")
    assert not violations(module, imported)
    if module == "cgc":
        assert not any(name.split(".")[0] not in ("__future__", "cgc") for name in imported)


def test_root_scripts_only_call_commands() -> None:
    for path in ROOT.glob("*.py"):
        imported = imported_modules(path.read_text(), path.stem, False)
        ours = {name for name in imported if name.split(".")[0] == "cgc"} - {"cgc"}
        assert all(part_of(name) == "cgc.commands" for name in ours), path.name


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("cgc.losses.cgc", "from cgc.spatial import SpatialTransform", []),
        (
            "cgc.losses.cgc",
            "from cgc.losses.sgc import x\nimport cgc.models.backbones",
            ["cgc.models.backbones"],
        ),
        ("cgc.losses.cgc", "def f():\n    from cgc.metrics import maps", ["cgc.metrics"]),
        ("cgc.losses.cgc", "from cgc import commands", ["cgc.commands"]),
        ("cgc.losses.cgc", "from ..engine import loop", ["cgc.engine", "cgc.engine.loop"]),
        ("cgc.engine.loop", "from cgc.methods.cgc import CGCMethod", ["cgc.methods.cgc"]),
        ("cgc.spatial", "import math, numpy, torch", ["numpy"]),
        ("cgc.data.views", "from tests.references import spatial", ["tests.references"]),
    ],
)
def test_the_rule_sees_what_it_should(module: str, source: str, wrong: list[str]) -> None:
    assert violations(module, imported_modules(source, module, False)) == wrong


def test_import_cgc_is_light() -> None:
    """The package itself does not bring in torch."""
    program = "import sys, cgc; print(*sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'numpy'}))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []
