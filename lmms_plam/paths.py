"""Where the YAML that ships beside the code lies: in the wheel inside the package, in a checkout beside it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str) -> Path:
    """Return the folder `tasks` or `model_configs`.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"lmms_plam is installed without its folder '{name}': install it again")
