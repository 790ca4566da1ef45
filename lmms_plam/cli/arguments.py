"""A model config on the command line, the same for every command that takes one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_plam.config import ModelConfig


def add_model_args(parser: argparse.ArgumentParser) -> None:
    """Add the fields of a model config, as many as there are."""
    parser.add_argument(
        "model_args",
        nargs="*",
        metavar="FIELD=VALUE",
        help="as in lmms-eval's --model_args: config=NAME merge.start_layer=20",
    )


def read_model_args(arguments: argparse.Namespace) -> ModelConfig:
    """Return the model config that they name and override.

    Raises:
        ConfigError: what can't be read, or no such config or field.
    """
    from lmms_plam.harness.arguments import read_settings

    return read_settings(",".join(arguments.model_args))
