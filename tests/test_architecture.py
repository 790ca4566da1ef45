"""The structure that design promises: imports point one way, and what starts often starts light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lmms_plam"

LAYERS = (
    {"errors", "paths", "files", "words", "config"},
    {"merge.methods", "merge.schedules", "stats"}
    | {f"babyllava.{name}" for name in ("lexicon", "grammar", "paradigms", "pictures", "tower")},
    {"attention", "audit", "language", "probes", "search"},
    {"model", "merge", "embedded"},
    {"babyllava", "digits", "microworld"},
    {"scoring"},
    {"runs"},
    {"harness", "report"},
    {"families", "site"},
    {"study"},
    {"cli"},
)
"""From the bottom up: a module imports from its own room and from the layers below."""


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
        ours = imported.split(".")[1] == module.partition(".")[2].partition(".")[0]
        allowed = layer(imported) <= layer(module) if ours else layer(imported) < max(layer(module), 1)
        assert allowed, f"{module} imports {imported}"


def test_every_room_has_its_layer():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == {name.partition(".")[0] for names in LAYERS for name in names}


@pytest.mark.parametrize("module", ["lmms_plam", "lmms_plam.cli", "lmms_plam.harness.plugin", "lmms_plam.config"])
def test_what_starts_often_imports_nothing_heavy(module):
    heavy = "{'torch', 'transformers', 'wandb', 'numpy', 'scipy'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
