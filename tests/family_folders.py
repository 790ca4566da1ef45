"""Where a run's family tasks left their files."""

from __future__ import annotations

from pathlib import Path


def of_model(output: Path) -> Path:
    """Return the folder of the only model that a run's output folder has family tasks of."""
    (folder,) = (output / "plam").iterdir()
    return folder
