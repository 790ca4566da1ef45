"""What a checkpoint's keys tell of why it has no tensor of the names that one looks for."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WRAPPERS = {
    "base_model.model.": "a PEFT wrapper",
    "module.": "DataParallel",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_forward_module.": "Lightning",
}
_LORA = re.compile(r"\.(?:lora_[AB]|base_layer)\.")
_QUANTISED = re.compile(
    r"\.(?:qweight|qzeros|g_idx|SCB|weight_packed|weight_scale|weight_scale_inv|absmax|weight\.(?:absmax|quant_.*))$"
)


def diagnose(keys: Iterable[str]) -> str | None:
    """Return a clause that says what the keys are of, and what to do; None where they tell nothing."""
    for key in keys:
        if _LORA.search(key):
            return f"'{key}' is of a LoRA that isn't merged in: save the model after peft's merge_and_unload"
        for prefix, wrapper in _WRAPPERS.items():
            if key.startswith(prefix):
                return f"'{key}' has the prefix of {wrapper}: save the model inside of that"
        if _QUANTISED.search(key):
            return f"'{key}' is of quantised weights: merging needs the unquantised checkpoint"
    return None
