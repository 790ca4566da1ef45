"""What humans write: the YAML of a study."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from lmms_plam.errors import ConfigError, did_you_mean, first_problem
from lmms_plam.files import read_fields

Step = Literal["probe", "early", "window", "headroom", "search", "compare", "attention"]

Scalar = str | bool | int | float

_T = TypeVar("_T", bound="Asked")


class Asked(BaseModel):
    """What a study and a sweep over checkpoints have in common: how everything in them is asked.

    Attributes:
        limit: documents of each benchmark; left out, all.
        model_args: further fields of every model, as `--model_args` takes them: `{search.start_layers: 8}`.
        gen_kwargs: as lmms-eval's `--gen_kwargs`.
        batch_size: prompts a batch.
        seed: of lmms-eval's random streams.
        device: torch device; left out, CUDA where there is one, else the CPU.
        include_path: a folder with tasks of one's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    limit: StrictInt | None = Field(default=None, ge=1)
    model_args: dict[str, Scalar] = Field(default_factory=dict)
    gen_kwargs: str | None = None
    batch_size: int = Field(default=1, ge=1)
    seed: int | None = Field(default=None, ge=0)
    device: str | None = None
    include_path: str | None = None

    def options(self) -> list[str]:
        """Return them as options of lmms-eval."""
        given = {
            "--limit": self.limit,
            "--gen_kwargs": self.gen_kwargs,
            "--batch_size": None if self.batch_size == 1 else self.batch_size,
            "--seed": self.seed,
            "--device": self.device,
            "--include_path": self.include_path,
        }
        return [text for name, value in given.items() if value is not None for text in (name, str(value))]

    def extras(self, but: Collection[str] = ()) -> str:
        """Return the further fields as a part of `--model_args`, without some of them and what is in these."""
        kept = {name: value for name, value in self.model_args.items() if name.partition(".")[0] not in but}
        return "".join(f",{name}={value}" for name, value in kept.items())


class Study(Asked):
    """Models, benchmarks, and what is asked of each model about each benchmark.

    Attributes:
        models: configs by name or path.
        benchmarks: by the names of lmms-eval's tasks, of which there are family tasks (`plam_probe_mmstar`); or groups
            of them (`nine`).
        tune_on: benchmarks on which recipes are searched; what they find is compared, and looked at, on the others
            alone. Left out, recipes are searched and cross-fitted on each benchmark, and what is compared is each
            config's own recipe, since no recipe is tested on the documents that it was chosen on.
        steps: of each model and benchmark: `probe`, `early`, `window`, `headroom`, `search`, `compare`, `attention`. A
            search starts from the plateau of its benchmark's probe, where there is one.
        report_with: `vllm` exports each model with its recipe and asks it by lmms-eval's own backend of that name.
        vllm_args: of that backend: `{tensor_parallel_size: 4}`; `batch_size` here is how many prompts it gets at once.
    """

    models: tuple[str, ...] = Field(min_length=1)
    benchmarks: tuple[str, ...] = Field(min_length=1)
    tune_on: tuple[str, ...] = ()
    steps: tuple[Step, ...] = Field(min_length=1)
    report_with: Literal["vllm"] | None = None
    vllm_args: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Study:
        for field in ("models", "benchmarks", "tune_on", "steps"):
            given = getattr(self, field)
            if twice := [one for one in given if given.count(one) > 1]:
                raise ValueError(f"{field} has '{twice[0]}' twice, and two cells would write one folder")
        if self.tune_on and "search" not in self.steps:
            raise ValueError("tune_on says where recipes are searched, and the step 'search' is missing")
        if self.vllm_args and self.report_with is None:
            raise ValueError("vllm_args are of no use without report_with: vllm")
        for name, value in self.vllm_args.items():
            if name == "model":
                raise ValueError("vllm_args can't name a model: what is served is the export")
            if "," in str(value):
                raise ValueError(f"vllm_args: '{name}' has a comma, which ends a field in --model_args")
        return self

    def served(self, *, limited: bool) -> str:
        """Return `vllm_args` as a part of `--model_args`.

        Args:
            limited: whether the task says how many tokens an answer may have. lmms-eval's backend gives it 4096 of its
                own where these are more; with 1 of its own the task's are left.
        """
        own = {name: value for name, value in self.vllm_args.items() if name != "batch_size"}
        if limited or "max_new_tokens" in (self.gen_kwargs or ""):
            own = {"max_new_tokens": 1, **own}
        return "".join(f",{name}={value}" for name, value in own.items())

    def served_options(self) -> list[str]:
        """Return the options of lmms-eval where vLLM answers, which finds its device by itself."""
        batch_size = self.vllm_args.get("batch_size", self.batch_size)
        return self.model_copy(update={"device": None, "batch_size": batch_size}).options()


def read_asked(path: Path, kind: type[_T]) -> tuple[_T, str]:
    """Read a YAML file.

    Returns:
        What it asks for, and its text.

    Raises:
        ConfigError: no such file, no YAML, an unknown field, or a value that can't be meant.
    """
    content, text = read_fields(path, f"the fields of a {kind.__name__.lower()}: {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(content), text
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {_explain(error, kind)}") from None


def _explain(error: ValidationError, kind: type[Asked]) -> str:
    found: dict[str, Any] = dict(error.errors()[0])
    field = str(found["loc"][0]) if found["loc"] else ""
    if found["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        return f"unknown field '{field}'.{did_you_mean(field, known)} Known: {', '.join(known)}"
    if found["type"] == "missing":
        return f"the field '{field}' is missing"
    if found["type"] == "literal_error" and isinstance(found["input"], str):
        known = [word.strip("' ") for word in found["ctx"]["expected"].replace(" or ", ", ").split(",")]
        what = "step" if field == "steps" else field
        return f"unknown {what} '{found['input']}'.{did_you_mean(found['input'], known)} Known: {', '.join(known)}"
    if found["type"] == "tuple_type":
        given = found["input"]
        example = f", as in `{field}: [{given}]`" if isinstance(given, (str, int, float)) else ""
        return f"'{field}' takes a list{example}"
    if found["type"] == "too_short":
        return f"'{field}' is an empty list: it takes one or more"
    return first_problem(error)
