"""A stand-in for vLLM, which lmms-eval's model type of that name asks: it answers by transformers, one by one.

What it was asked for is written into `asked.jsonl` in the checkpoint's folder.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace


class SamplingParams:
    """How an answer is sampled."""

    def __init__(self, **given):
        self.given = given


class LLM:
    """The engine; it fails to start as vLLM does where no prompt would fit."""

    def __init__(self, model, *, max_model_len=256, **_):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if max_model_len < 16:
            raise ValueError(f"max_model_len={max_model_len} holds no prompt")
        self._asked = Path(model) / "asked.jsonl"
        self._processor = AutoProcessor.from_pretrained(model)
        self._model = AutoModelForImageTextToText.from_pretrained(model, dtype="auto").eval()

    def chat(self, *, messages, sampling_params, chat_template):
        assert chat_template is None
        return [self._answer(one, params.given) for one, params in zip(messages, sampling_params, strict=True)]

    def get_metrics(self):
        return []

    def _answer(self, message, given):
        from PIL import Image

        with self._asked.open("a") as file:
            file.write(json.dumps(given) + "\n")
        conversation = []
        for turn in message:
            content = []
            for part in turn["content"]:
                if part["type"] == "image_url":
                    octets = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    part = {"type": "image", "image": Image.open(io.BytesIO(octets)).convert("RGB")}
                content.append(part)
            conversation.append({**turn, "content": content})
        inputs = self._processor.apply_chat_template(
            conversation, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        told = self._model.generate(**inputs, max_new_tokens=given["max_tokens"], do_sample=False)
        text = self._processor.decode(told[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return SimpleNamespace(outputs=[SimpleNamespace(text=text)])
