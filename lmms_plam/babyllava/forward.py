"""Running the pair on rows of raw text, with pictures' features computed beforehand, as training does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def logits_of(model: Any, ids: Tensor, seen: Tensor | None = None) -> Tensor:
    """Run rows of text through a model; rows are padded on the right, which nothing before it sees.

    Args:
        model: the language model or the LLaVA.
        ids: [rows, length], a start token first.
        seen: for the LLaVA, pooled features of the picture that stands before the start token,
            [rows, tokens, width]; None: no picture.

    Returns:
        Logits of what follows each of the tokens of `ids`, [rows, length, vocabulary].
    """
    decoder = model.model
    hidden = model.get_input_embeddings()(ids)
    if hasattr(decoder, "language_model"):
        if seen is not None:
            shown = decoder.multi_modal_projector(seen)
            hidden = torch.cat([shown, hidden], dim=1)
        decoder = decoder.language_model
    states = decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state
    return model.lm_head(states[:, hidden.shape[1] - ids.shape[1] :])  # type: ignore[no-any-return]
