"""`--model_args` as a model config; a file of its own, since a mistake there is found without torch's classes.

lmms-eval's own reading of the text is used, which takes braces and quotes as one value.
"""

from __future__ import annotations

from lmms_eval.utils import simple_parse_args_string

from lmms_plam.config import DEFAULT_CONFIG, ModelConfig, load_config
from lmms_plam.errors import ConfigError

_OPTIONS = ("batch_size", "max_batch_size", "device")
"""What lmms-eval has options of its own for, and hands to a model beside --model_args."""


def read_settings(model_args: str | None) -> ModelConfig:
    """Return the model config that `--model_args` names and overrides.

    Raises:
        ConfigError: what can't be read, or no such config or field.
    """
    try:
        given = simple_parse_args_string(model_args or "")
    except ValueError as error:
        raise ConfigError(f"--model_args takes NAME=VALUE,NAME=VALUE,..., not '{model_args}'") from error
    overrides = {name: value for name, value in given.items() if name not in _OPTIONS}
    return load_config(str(overrides.pop("config", DEFAULT_CONFIG)), overrides)
