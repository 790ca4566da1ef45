"""Writing files so that a kill leaves the old one or the new one, never half of one; telling and reading them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lmms_plam.errors import ConfigError


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_folder(option: str, path: Path) -> None:
    """Refuse a path that an option gives for a folder, and that is a file or below one.

    Raises:
        ConfigError: it is.
    """
    for one in (path, *path.parents):
        if one.exists() and not one.is_dir():
            raise ConfigError(f"{option} takes a folder, and {one} is a file")


def sought_in(path: str | Path) -> str:
    """Return " in FOLDER" for a path that isn't there and was sought in the working folder; of an absolute one, ""."""
    return "" if os.path.isabs(os.path.expanduser(path)) else f" in {Path.cwd()}"


def read_fields(path: Path, what: str) -> tuple[dict[str, Any], str]:
    """Read a YAML file of fields.

    Args:
        path: the file.
        what: it must hold.

    Returns:
        The fields, and the file's text.

    Raises:
        ConfigError: no such file, or none that holds fields.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"no file {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold {what}")
    return content, text


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write what will stand at `path` once the block has ended well; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
