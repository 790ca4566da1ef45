"""The structure that design promises: imports point one way, and what starts often starts light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lmms_plam"

LAYERS = (
    {"errors", "paths", "files", "config"},
    {"merge.methods", "merge.schedules", "probes", "stats"},
    {"model", "merge", "digits"},
    {"report"},
    {"harness"},
    {"cli"},
)
"""From the bottom up: a module imports from its own layer and from those below."""


def layer(module: str) -> int:
    parts = module.split(".")[1:]
    for name in (".".join(parts[:2]), parts[0] if parts else ""):
        for height, names in enumerate(LAYERS):
            if name in names:
                return height
    return -1


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.startswith("lmms_plam.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    module = ".".join(("lmms_plam", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for imported in imports(path):
        assert layer(imported) <= layer(module) or module == "lmms_plam", f"{module} imports {imported}"


@pytest.mark.parametrize("module", ["lmms_plam", "lmms_plam.cli", "lmms_plam.harness.plugin", "lmms_plam.config"])
def test_what_starts_often_imports_nothing_heavy(module):
    heavy = "{'torch', 'transformers', 'wandb', 'numpy', 'scipy'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
