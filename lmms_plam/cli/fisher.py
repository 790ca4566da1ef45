"""`plam fisher`: estimate the Fisher information by which `merge.method=fisher` weighs VLM and base LM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_plam.cli.arguments import add_model_args, read_model_args
from lmms_plam.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from lmms_plam.config import MergeRecipe, ModelConfig
    from lmms_plam.harness.questions import Questions
    from lmms_plam.merge import Checkpoint
    from lmms_plam.merge.information import Whose
    from lmms_plam.merge.names import DecoderTensor

NAME = "fisher"
_WORDS = "their words without pictures, in its own chat template where it has one"
"""What a base LM is asked of a task, for lmms-eval has no prompt for it."""

HELP = "estimate the Fisher information of VLM and base LM that merge.method=fisher takes, from their own words"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_args(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the safetensors file to write")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--task", metavar="NAME", help="a task of lmms-eval: the VLM answers its prompts, the base LM their words"
    )
    asked.add_argument(
        "--prompts", type=Path, metavar="FILE", help="text with a question on each line (default: random tokens)"
    )
    parser.add_argument("--include_path", help="a folder with tasks of your own")
    parser.add_argument("--limit", type=int, default=64, help="documents, lines, or prompts of random tokens (64)")
    parser.add_argument("--tokens", type=int, default=128, help="in each of the last; in an answer at most (128)")
    parser.add_argument("--seed", type=int, default=0, help="of tokens and answers (0)")
    parser.add_argument("--device", help="torch device (default: CUDA where there is one, else the CPU)")


def run(arguments: argparse.Namespace) -> int:
    """Load VLM and base LM one after the other, let them speak, and write what their words say of their weights."""
    import torch

    from lmms_plam.merge import Checkpoint
    from lmms_plam.merge.information import write_fisher

    settings = read_model_args(arguments)
    if settings.merge is None or settings.base_lm is None:
        raise ConfigError(f"{settings.name}: merge or base_lm is missing: they say which weights are estimated")
    if arguments.limit < 1 or arguments.tokens < 1:
        raise ConfigError("--limit and --tokens are at least 1")
    if arguments.out.exists():
        raise ConfigError(f"{arguments.out} exists: remove it, or name another file")
    if not arguments.out.resolve().parent.is_dir():
        raise ConfigError(f"{arguments.out.resolve().parent} is no folder")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    vlm = Checkpoint(settings.vlm, settings.vlm_revision)
    base_lm = Checkpoint(settings.base_lm, settings.base_lm_revision)
    questions = _load_task(settings, vlm, arguments) if arguments.task else None
    lines = questions.texts if questions else _read_lines(arguments.prompts, arguments.limit)
    tensors: dict[str, Tensor] = {}
    weights: dict[str, str] = {}
    with vlm, base_lm:
        job = _Job(settings, base_lm, _asked(vlm, base_lm, settings.merge), lines, arguments, device, weights)
        tensors |= job.listen_to_pictured(vlm, questions) if questions else job.listen(vlm, "vlm")
        tensors |= job.listen(base_lm, "base_lm")
    about = {**_asked_what(arguments, questions, lines), "tokens": arguments.tokens, "seed": arguments.seed}
    write_fisher(arguments.out, tensors, _provenance(about, vlm, base_lm, settings.merge, weights))
    size = sum(tensor.nbytes for tensor in tensors.values())
    print(f"wrote {arguments.out}: {len(tensors)} tensors, {size / 1e6:,.1f} MB; use it with")
    print(f"  merge.method=fisher,merge.fisher={arguments.out}")
    return 0


def _load_task(settings: ModelConfig, vlm: Checkpoint, arguments: argparse.Namespace) -> Questions:
    from lmms_plam.harness.backends import backend_name
    from lmms_plam.harness.questions import load_questions

    questions = load_questions(arguments.task, backend_name(settings, vlm), arguments.limit, arguments.include_path)
    print(
        f"plam: {len(questions.requests)} prompts of {arguments.task}: the VLM answers them as lmms-eval renders them, "
        f"the base LM {_WORDS}",
        file=sys.stderr,
    )
    return questions


@dataclass(frozen=True)
class _Job:
    """Whose words are listened to, and what for.

    Attributes:
        settings: the model config.
        base_lm: whose tokens random prompts are made of.
        asked: which tensors the information is of.
        lines: what is asked in words; None: random tokens.
        arguments: of the command line.
        device: of the models.
        weights: a digest of the tensors for each of the two models; filled in here.
    """

    settings: ModelConfig
    base_lm: Checkpoint
    asked: Sequence[DecoderTensor]
    lines: Sequence[str] | None
    arguments: argparse.Namespace
    device: torch.device
    weights: dict[str, str]

    def listen(self, source: Checkpoint, whose: Whose) -> Mapping[str, Tensor]:
        """Return the information of a model's tensors, from what it says of words or of random tokens."""
        import torch
        from rich.console import Console
        from rich.progress import track

        from lmms_plam.model.estimate import answer, fisher_information, random_prompts, say_next

        model, (tokens, seed) = _load(source, whose, self.device), (self.arguments.tokens, self.arguments.seed)
        if self.lines is None:
            prompts = random_prompts(_ordinary(self.base_lm), self.arguments.limit, tokens, seed)
            said = say_next(model, prompts, seed)
        else:
            prompts = list(_tokenize(source, self.lines))
            generator = torch.Generator().manual_seed(seed)
            said = (answer(model, _as_inputs(prompt, model), tokens, generator) for prompt in prompts)
        shown = track(said, whose, total=len(prompts), console=Console(stderr=True), transient=True)
        return fisher_information(model, self._parameters(model, whose), shown)

    def listen_to_pictured(self, vlm: Checkpoint, questions: Questions) -> Mapping[str, Tensor]:
        """Return the information of the VLM's tensors, from its answers to a task's prompts, pictures included."""
        import torch

        from lmms_plam.harness.backends import build_backend
        from lmms_plam.model.estimate import answer, gathering

        backend = build_backend(self.settings, vlm, device=str(self.device))
        model, generator = backend.model.eval(), torch.Generator().manual_seed(self.arguments.seed)
        with gathering(model, self._parameters(model, "vlm")) as information:
            questions.put_to(
                backend, lambda inputs: information.add(answer(model, inputs, self.arguments.tokens, generator))
            )
            return information.mean()

    def _parameters(self, model: PreTrainedModel, whose: Whose) -> dict[str, nn.Parameter]:
        from lmms_plam.merge.digests import digest_all, digest_tensors
        from lmms_plam.merge.information import fisher_key

        keys = (fisher_key(whose, tensor) for tensor in self.asked)
        parameters = dict(zip(keys, _find(model, self.asked), strict=True))
        self.weights[whose] = digest_all(digest_tensors({key: one.detach() for key, one in parameters.items()}))
        return parameters


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


def _as_inputs(prompt: Tensor, model: PreTrainedModel) -> dict[str, Tensor]:
    tokens = prompt[None].to(model.device)
    return {"input_ids": tokens, "attention_mask": tokens.new_ones(tokens.shape)}


def _read_lines(path: Path | None, most: int) -> list[str] | None:
    if path is None:
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompts {path} can't be read as text ({error})") from None
    if not lines:
        raise DataError(f"--prompts {path} holds no line of text")
    return lines[:most]


def _asked_what(
    arguments: argparse.Namespace, questions: Questions | None, lines: Sequence[str] | None
) -> dict[str, Any]:
    """Return what both models were asked, as it stands in the file."""
    from lmms_plam.files import digest

    if questions is not None:
        task = {"task": questions.task, "limit": arguments.limit, "digest": questions.digest(), "base_lm": _WORDS}
        return {"prompts": len(questions.requests), **task}
    if lines is not None:
        return {"prompts": len(lines), "file": arguments.prompts.name, "digest": digest(arguments.prompts)}
    return {"prompts": arguments.limit}


def _provenance(
    asked: Mapping[str, Any],
    vlm: Checkpoint,
    base_lm: Checkpoint,
    recipe: MergeRecipe,
    weights: Mapping[str, str],
) -> dict[str, Any]:
    """Return how the file came about, as it stands in the file and in the record of merges by it."""
    from datetime import datetime, timezone
    from importlib.metadata import version

    return {
        "vlm": vlm.reference,
        "vlm_commit": vlm.place.commit,
        "base_lm": base_lm.reference,
        "base_lm_commit": base_lm.place.commit,
        "weights": dict(weights),
        "recipe": recipe.model_dump(mode="json"),
        "asked": dict(asked),
        "versions": {name: version(name) for name in ("lmms-plam", "lmms-eval", "torch", "transformers")},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": sys.argv[1:],
    }
