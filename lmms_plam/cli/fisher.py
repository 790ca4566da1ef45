"""`plam fisher`: estimate the Fisher information by which `merge.method=fisher` weighs VLM and base LM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_plam.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from lmms_plam.config import MergeRecipe
    from lmms_plam.merge import Checkpoint
    from lmms_plam.merge.names import DecoderTensor

NAME = "fisher"
HELP = "estimate the Fisher information of VLM and base LM that merge.method=fisher takes, from their own words"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model_args",
        nargs="?",
        default="",
        help="as for lmms-eval's --model_args: config=NAME,merge.start_layer=20; its layers and modules are estimated",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the safetensors file to write")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="text with a question on each line (default: random tokens)"
    )
    parser.add_argument("--sequences", type=int, default=64, help="prompts of random tokens, or lines at most (64)")
    parser.add_argument("--tokens", type=int, default=128, help="in each of the former; in an answer at most (128)")
    parser.add_argument("--seed", type=int, default=0, help="of tokens and answers (0)")
    parser.add_argument("--device", help="torch device (default: CUDA where there is one, else the CPU)")


def run(arguments: argparse.Namespace) -> int:
    """Load VLM and base LM one after the other, let them speak, and write what their words say of their weights."""
    import torch

    from lmms_plam.harness.arguments import read_settings
    from lmms_plam.merge import Checkpoint
    from lmms_plam.merge.information import write_fisher

    settings = read_settings(arguments.model_args)
    if settings.merge is None or settings.base_lm is None:
        raise ConfigError(f"{settings.name}: merge or base_lm is missing: they say which weights are estimated")
    if arguments.sequences < 1 or arguments.tokens < 1:
        raise ConfigError("--sequences and --tokens are at least 1")
    if arguments.out.exists():
        raise ConfigError(f"{arguments.out} exists: remove it, or name another file")
    if not arguments.out.resolve().parent.is_dir():
        raise ConfigError(f"{arguments.out.resolve().parent} is no folder")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    vlm = Checkpoint(settings.vlm, settings.vlm_revision)
    base_lm = Checkpoint(settings.base_lm, settings.base_lm_revision)
    lines = _read_lines(arguments.prompts, arguments.sequences) if arguments.prompts else None
    tensors: dict[str, Tensor] = {}
    weights: dict[str, str] = {}
    with vlm, base_lm:
        asked = _asked(vlm, base_lm, settings.merge)
        for whose, source in (("vlm", vlm), ("base_lm", base_lm)):
            model = _load(source, whose, device)
            tensors |= _estimate(model, whose, source, base_lm, asked, lines, arguments, weights)
            del model
    write_fisher(arguments.out, tensors, _provenance(arguments, vlm, base_lm, settings.merge, weights))
    size = sum(tensor.nbytes for tensor in tensors.values())
    print(f"wrote {arguments.out}: {len(tensors)} tensors, {size / 1e6:,.1f} MB; use it with")
    print(f"  merge.method=fisher,merge.fisher={arguments.out}")
    return 0


def _asked(vlm: Checkpoint, base_lm: Checkpoint, recipe: MergeRecipe) -> list[DecoderTensor]:
    """Return what the recipe's layers and modules are, as a plan finds them; only headers are read."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from lmms_plam.config import taken
    from lmms_plam.merge import plan_merge
    from lmms_plam.merge.names import parse_name

    both = {"method": "linear", "schedule": "constant", "lambda_lm": 0.5, "lambda_vlm": 0.5}
    plain = type(recipe).model_validate({**taken(recipe.model_dump(), "linear"), **both})
    config = AutoConfig.from_pretrained(vlm.place.folder)
    with torch.device("meta"):
        skeleton = AutoModelForImageTextToText.from_config(config)
    names = (parse_name(tensor.name) for tensor in plan_merge(skeleton, base_lm, plain, loaded=False).merged)
    return [name for name in names if name is not None]


def _load(source: Checkpoint, whose: str, device: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if whose == "vlm" else AutoModelForCausalLM
    try:
        model: PreTrainedModel = kind.from_pretrained(source.fetch(), dtype="auto")
        return model.to(device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"'{source.reference}' can't be loaded: {' '.join(str(error).split())[:300]}") from error


def _estimate(
    model: PreTrainedModel,
    whose: Any,
    source: Checkpoint,
    base_lm: Checkpoint,
    asked: Sequence[DecoderTensor],
    lines: Sequence[str] | None,
    arguments: argparse.Namespace,
    weights: dict[str, str],
) -> Mapping[str, Tensor]:
    from rich.console import Console
    from rich.progress import track

    from lmms_plam.merge.digests import digest_all, digest_tensors
    from lmms_plam.merge.estimate import answer, fisher_information, random_prompts, say_next
    from lmms_plam.merge.information import fisher_key

    parameters = dict(zip((fisher_key(whose, tensor) for tensor in asked), _find(model, asked), strict=True))
    weights[whose] = digest_all(digest_tensors({key: parameter.detach() for key, parameter in parameters.items()}))
    if lines is None:
        tokens = random_prompts(_ordinary(base_lm), arguments.sequences, arguments.tokens, arguments.seed)
        said = say_next(model, tokens, arguments.seed)
    else:
        tokens = list(_tokenize(source, lines))
        said = answer(model, tokens, arguments.tokens, arguments.seed)
    shown = track(said, whose, total=len(tokens), console=Console(stderr=True), transient=True)
    return fisher_information(model, parameters, shown)


def _find(model: nn.Module, asked: Sequence[DecoderTensor]) -> Iterator[nn.Parameter]:
    from lmms_plam.merge.names import DecoderTensor, decoder_tensors

    names = decoder_tensors(name for name, _ in model.named_parameters())
    for tensor in asked:
        tied = tensor.suffix == "lm_head.weight" and tensor not in names
        yield model.get_parameter(names[DecoderTensor(None, "embed_tokens.weight") if tied else tensor])


def _ordinary(base_lm: Checkpoint) -> list[int]:
    """Return the tokens that are pieces of text, in the base LM's tokenizer: those of pictures stand for vectors."""
    from transformers import AutoTokenizer

    from lmms_plam.merge import read_vocabulary

    special = set(AutoTokenizer.from_pretrained(base_lm.place.folder).added_tokens_decoder)
    return sorted(set(read_vocabulary(base_lm.place).values()) - special)


def _tokenize(source: Checkpoint, lines: Sequence[str]) -> Iterator[Tensor]:
    """Return each line as the model's chat template asks it, or as it stands where there is none."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.place.folder)
    for line in lines:
        text = line
        if tokenizer.chat_template is not None:
            messages = [{"role": "user", "content": line}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        yield torch.tensor(tokenizer(text, add_special_tokens=tokenizer.chat_template is None)["input_ids"])


def _read_lines(path: Path, most: int) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompts {path} can't be read as text ({error})") from None
    if not lines:
        raise DataError(f"--prompts {path} holds no line of text")
    return lines[:most]


def _provenance(
    arguments: argparse.Namespace,
    vlm: Checkpoint,
    base_lm: Checkpoint,
    recipe: MergeRecipe,
    weights: Mapping[str, str],
) -> dict[str, Any]:
    """Return how the file came about, as it stands in the file and in the record of merges by it."""
    from datetime import datetime, timezone
    from importlib.metadata import version

    from lmms_plam.files import digest

    asked: dict[str, Any] = {"tokens": arguments.tokens, "seed": arguments.seed}
    if arguments.prompts:
        asked |= {"prompts": arguments.prompts.name, "digest": digest(arguments.prompts)}
    return {
        "vlm": vlm.reference,
        "vlm_commit": vlm.place.commit,
        "base_lm": base_lm.reference,
        "base_lm_commit": base_lm.place.commit,
        "weights": dict(weights),
        "recipe": recipe.model_dump(mode="json"),
        "asked": {"sequences": arguments.sequences, **asked},
        "versions": {name: version(name) for name in ("lmms-plam", "torch", "transformers")},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": sys.argv[1:],
    }
