"""Places hold for pictures as a benchmark gives them, whatever lmms-eval's own backends do to them on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model
from PIL import Image

from lmms_plam.attention.places import in_shares, overlap
from lmms_plam.harness.intercept import intercept_generate
from lmms_plam.model import vision_positions
from lmms_plam.model.placing import place

SIZES = ((301, 177), (90, 140))
MARKERS = ((30, 100, 90, 140), (50, 20, 75, 60))
"""Width and height of a prompt's two pictures, and a rectangle in each."""


class Pictures:
    """A document for each picture, in which that picture is marked, and one in which none is."""

    def __init__(self):
        rng = np.random.default_rng(0)
        plain = [rng.integers(90, 160, (height, width, 3), dtype=np.uint8) for width, height in SIZES]
        self.documents = [[*plain]]
        for image, (left, top, right, bottom) in enumerate(MARKERS):
            marked = plain[image].copy()
            marked[top:bottom, left:right] = (255, 0, 0)
            self.documents.append([*plain[:image], marked, *plain[image + 1 :]])

    def visuals(self, doc):
        return [Image.fromarray(pixels) for pixels in self.documents[doc]]

    def messages(self, doc):
        first, second = self.visuals(doc)
        content = [
            {"type": "image", "url": first},
            {"type": "text", "text": "Is it a cat, or this?"},
            {"type": "image", "url": second},
        ]
        return [{"role": "user", "content": content}]

    def requests(self, lm):
        lm.task_dict["pictures"] = {"test": list(range(len(self.documents)))}
        options = {"max_new_tokens": 1, "temperature": 0}
        for doc in range(len(self.documents)):
            ask = ("which?", dict(options), self.visuals) if lm.is_simple else ("which?", self.messages, dict(options))
            metadata = {"task": "pictures", "doc_id": doc, "repeats": 1, "split": "test"}
            yield Instance("generate_until", (*ask, doc, "pictures", "test"), idx=0, metadata=metadata)


def embedded_prompts(lm, requests):
    """By request, what generate was given and what the decoder got."""
    seen = []

    def answer(generate, **inputs):
        seen.append((inputs, None))
        return generate(**inputs)

    def note(module, args, kwargs):
        if seen[-1][1] is None:
            seen[-1] = (seen[-1][0], kwargs["inputs_embeds"].float())

    with (
        intercept_generate(lm.model, answer),
        lm.model.get_decoder().register_forward_pre_hook(note, with_kwargs=True),
    ):
        for request in requests:
            lm.generate_until([request])
    return seen


@pytest.mark.parametrize("simple", [False, True])
def test_a_marker_is_found_through_the_familys_own_backend(pair, simple):
    if simple and pair.family in ("internvl", "llava", "llava_onevision"):
        pytest.skip("llava_hf and internvl_hf are chat backends here")
    settings = {"pretrained": str(pair.vlm), "device": "cpu", "device_map": "cpu", "batch_size": 1}
    lm = get_model(pair.backend, simple)(**settings, **pair.backend_args)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if "language_model" not in name and any(part in name for part in ("attn", "attention")):
                parameter.zero_()  # so that a token is changed by the pixels that it shows alone
    (inputs, plain), *marked = embedded_prompts(lm, Pictures().requests(lm))
    processor = getattr(lm, "processor", None) or lm._image_processor
    places = place(lm.model, inputs["input_ids"], inputs, 0, SIZES, processor)
    vision = vision_positions(lm.model, inputs["input_ids"], inputs)[0]
    for image, (_, embeddings) in enumerate(marked):
        change = (embeddings - plain)[0].norm(dim=-1)[vision].numpy()
        marker = MARKERS[image]
        inside = overlap(places, image, in_shares([marker], SIZES[image]))
        assert inside[int(change.argmax())] > 0
        assert (change[inside > 0.5] > 0).all()
        cell = (places.boxes[:, 2:] - places.boxes[:, :2])[(places.image == image) & places.placed].max(axis=0)
        left, top, right, bottom = in_shares([marker], SIZES[image])[0]
        boxes = places.boxes
        near = (boxes[:, 0] < right + cell[0]) & (boxes[:, 2] > left - cell[0]) & (places.image == image)
        near &= (boxes[:, 1] < bottom + cell[1]) & (boxes[:, 3] > top - cell[1])
        assert not change[~near].any()
        assert (~near).any()
