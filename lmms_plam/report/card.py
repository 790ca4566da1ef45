"""The model card of an export, in the hub's format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lmms_plam.report.measured import Measured
from lmms_plam.report.numbers import p_text

_TAGS = ("merge", "plam", "lmms-plam")
_TAKEN_OVER = ("license", "license_name", "license_link", "language")


@dataclass(frozen=True, slots=True)
class Parent:
    """A model that an export was made of.

    Attributes:
        name: its id on the hub, or the name of its folder.
        commit: its commit on the hub; None of a folder.
        card: its own card's metadata, as far as it has one.
    """

    name: str
    commit: str | None
    card: Mapping[str, Any]

    @property
    def in_words(self) -> str:
        """A link, and the commit."""
        if self.commit is None:
            return f"`{self.name}` (a local folder)"
        return f"[{self.name}](https://huggingface.co/{self.name}/tree/{self.commit}) at `{self.commit[:12]}`"


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of a model's own card; nothing where it has none that can be read."""
    try:
        return dict(ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.to_dict())
    except Exception:  # a card that others wrote: no file, no metadata, no YAML
        return {}


def model_card(
    record: Mapping[str, Any],
    parents: Sequence[Parent],
    *,
    place: str,
    backend: str | None,
    measured: Sequence[Measured] = (),
) -> str:
    """Return the card's text.

    Args:
        record: what `plam.json` holds.
        parents: the VLM, the base LM, and the ancestor if the recipe names one.
        place: what to load the export by: its id on the hub, or its folder.
        backend: lmms-eval's model type that runs it, where one is known.
        measured: its scores beside the untouched VLM's.
    """
    vlm = parents[0]
    data = ModelCardData(
        base_model=[parent.name for parent in parents],
        base_model_relation="merge",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=list(_TAGS),
        model_name=record["name"] if measured else None,
        eval_results=[_eval_result(one) for one in measured] or None,
        **{field: vlm.card[field] for field in _TAKEN_OVER if vlm.card.get(field)},
    )
    parts = [
        f"# {record['name']}",
        "\n".join(_made_of(record, *parents)),
        *(["\n".join(_scores(measured))] if measured else []),
        _running(place, backend),
        "\n".join(_terms(*parents)),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _made_of(record: Mapping[str, Any], vlm: Parent, base_lm: Parent, ancestor: Parent | None = None) -> Iterator[str]:
    first, last = record["layers"][0], record["layers"][1] - 1
    yield (
        f"The vision-language model {vlm.in_words}, with weights of the language model {base_lm.in_words} merged into "
        f"{len(record['merged'])} tensors of its decoder layers {first} to {last} (of 0 to {record['depth'] - 1})"
        f"{f' as changes to {ancestor.in_words}' if ancestor else ''}. All "
        "other tensors and files are the vision-language model's own, byte for byte."
    )
    yield ""
    yield "```yaml"
    yield yaml.safe_dump({"merge": record["recipe"]}, sort_keys=False).rstrip()
    yield "```"
    yield ""
    yield (
        f"Made by lmms-plam {record['versions']['lmms-plam']} after PlaM "
        "([arXiv 2601.07645](https://arxiv.org/abs/2601.07645)). `plam.json` holds every merged tensor with its "
        f"source, coefficients and digest; fingerprint `{record['fingerprint']}`."
    )
    for warning in record["warnings"]:
        yield f"\nTo know: {warning}."


def _scores(measured: Sequence[Measured]) -> Iterator[str]:
    yield "## Scores"
    yield ""
    yield f"Against {measured[0].reference}, on the same documents and prompts, paired:"
    yield ""
    yield "| task | metric | untouched | merged | difference | interval | p | documents |"
    yield "|---|---|---:|---:|---:|---|---:|---:|"
    for one in measured:
        interval = "none" if one.ci_low is None or one.ci_high is None else f"{one.ci_low:+.4g} to {one.ci_high:+.4g}"
        yield (
            f"| {one.of} | {one.metric}{'' if one.higher_is_better else ' (lower is better)'} | {one.a:.4g} | "
            f"{one.b:.4g} | {one.difference:+.4g} | {interval} ({one.level:.0%}) | {p_text(one.p_value)} | {one.n:,} |"
        )


def _eval_result(one: Measured) -> EvalResult:
    """Return a score for the hub's index; the interval is that of the difference to the untouched VLM."""
    return EvalResult(
        task_type="image-text-to-text",
        dataset_type=one.of,
        dataset_name=one.of,
        metric_type=one.metric,
        metric_name=one.metric,
        metric_value=one.b,
        metric_args={
            "untouched": one.a,
            "difference": one.difference,
            "ci_low": one.ci_low,
            "ci_high": one.ci_high,
            "level": one.level,
            "p_value": one.p_value,
            "documents": one.n,
        },
    )


def _running(place: str, backend: str | None) -> str:
    harness = (
        f"lmms-eval --model {backend} --model_args pretrained={place} --tasks mmstar"
        if backend
        else f"lmms-eval --model MODEL_TYPE --model_args pretrained={place} --tasks mmstar"
    )
    return f"""## How to run it

A checkpoint like any other; no plugin is needed.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{place}", dtype="auto", device_map="auto")
processor = AutoProcessor.from_pretrained("{place}")
```

```
vllm serve {place}
{harness}
```"""


def _terms(vlm: Parent, *others: Parent) -> Iterator[str]:
    yield "## License"
    yield ""
    ours = _license(vlm.card)
    if ours is None:
        yield f"The card of {vlm.name} names no license: see there."
    else:
        yield f"That of {vlm.name}: {ours}."
    for parent in others:
        theirs = _license(parent.card)
        if theirs is not None and theirs != ours:
            yield f"{parent.name}, whose weights are in it too, is under another: {theirs}."


def _license(card: Mapping[str, Any]) -> str | None:
    name = card.get("license")
    return str(card.get("license_name", name) if name == "other" else name) if name else None
