"""lmms-eval's own backend for a VLM: which one, with which arguments, on which device."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models import get_model, list_available_models

from lmms_plam.config import ModelConfig
from lmms_plam.errors import CheckpointError, ConfigError, PlamError, UnsupportedError, did_you_mean
from lmms_plam.harness.loading import require_filled, watched_loading
from lmms_plam.harness.model_types import BACKENDS
from lmms_plam.merge import Checkpoint

_CUT_AT_STOPS: dict[str, tuple[str, bool]] = {
    "lmms_eval.models.simple.qwen2_vl": ("", True),
    "lmms_eval.models.simple.qwen2_5_vl": ("\n\n", False),
    "lmms_eval.models.simple.qwen3_vl": ("\n\n", False),
}
"""Backends that cut decoded answers at the task's `until`: the stop that they pass over, and whether they strip."""

_OURS = {
    "pretrained": "vlm",
    "revision": "vlm_revision",
    "batch_size": "--batch_size",
    "device": "--device",
}
"""Arguments of backends that are set elsewhere, and where."""


def backend_name(config: ModelConfig, vlm: Checkpoint) -> str:
    """Return the lmms-eval model type that runs the config's VLM.

    Args:
        config: the model config.
        vlm: its VLM's checkpoint.

    Raises:
        CheckpointError: the VLM's config can't be read.
        UnsupportedError: no backend is known for its model type, and the config names none.
        ConfigError: the config names a backend that lmms-eval doesn't have.
    """
    if config.backend is not None:
        known = [name for name in list_available_models() if name != "plam"]
        if config.backend not in known:
            raise ConfigError(f"lmms-eval has no backend '{config.backend}'.{did_you_mean(config.backend, known)}")
        return config.backend
    model_type = vlm.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in BACKENDS:
        raise UnsupportedError(
            f"no backend is known for model type '{model_type}' of {config.vlm}: set `backend` to the lmms-eval "
            f"model type that runs it. Known by themselves: {', '.join(BACKENDS)}"
        )
    return BACKENDS[model_type]


def build_backend(
    config: ModelConfig,
    vlm: Checkpoint,
    *,
    batch_size: int | str = 1,
    device: str | None = None,
    force_simple: bool = False,
) -> lmms:
    """Load the VLM through lmms-eval's own backend.

    Args:
        config: the model config.
        vlm: its VLM's checkpoint, whose commit the backend is given.
        batch_size: prompts a batch, as `--batch_size` gives it.
        device: as `--device` gives it; left out, CUDA where there is one, else the CPU.
        force_simple: use the backend's simple variant although it has a chat variant.

    Raises:
        ConfigError: an argument that the backend doesn't take, or a dtype that torch or the device lacks.
        CheckpointError: a VLM that can't be loaded, or has parameters that no file fills.
        UnsupportedError: a LoRA adapter beside the weights, or a revision for a backend that takes none.
    """
    name = backend_name(config, vlm)
    backend_class = get_model(name, force_simple)
    accepted = check_arguments(config, backend_class)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    arguments: dict[str, Any] = {"batch_size": batch_size, "device": str(chosen)}
    arguments |= _device_map(backend_class, chosen) | config.backend_args
    _check_dtype(arguments.get("dtype"), chosen)
    arguments |= _where(config, vlm, name, accepted)
    with watched_loading() as loaded, _alone_on_cpu(backend_class, chosen):
        try:
            backend: lmms = backend_class(**arguments)
        except PlamError:
            raise
        except Exception as error:  # whatever damaged files make a backend and what it uses raise
            raise CheckpointError(
                f"lmms-eval's backend '{name}' can't load '{config.vlm}': {type(error).__name__}: {_one_line(error)}"
            ) from error
    require_filled(backend.model, loaded, config.vlm)
    _pad_left(backend)
    return backend


def _where(config: ModelConfig, vlm: Checkpoint, name: str, accepted: Collection[str]) -> dict[str, str]:
    """Return the arguments that tell a backend which files to load: those that the checkpoint reads, of one commit.

    Most backends take no revision for all that they read, but each takes a folder. Those that aren't known to read
    models by transformers alone may go by the name of a model, and keep it.

    Raises:
        UnsupportedError: a revision that can't be passed on.
    """
    if name in BACKENDS.values():
        with vlm:
            return {"pretrained": str(vlm.fetch())}
    vlm.require_bare()
    if vlm.place.commit is not None and "revision" in accepted:
        return {"pretrained": config.vlm, "revision": vlm.place.commit}
    if config.vlm_revision is not None:
        raise UnsupportedError(
            f"lmms-eval's backend '{name}' takes no revision: download '{config.vlm}' at '{config.vlm_revision}' into "
            "a folder, set vlm to it and leave vlm_revision out"
        )
    return {"pretrained": config.vlm}


def _device_map(backend_class: type[lmms], device: torch.device) -> dict[str, str]:
    """Return the `device_map` that a backend is to be given, where its default doesn't do.

    `auto` and `cuda` mean no CPU and no GPU in particular, and the empty one of llava_hf is none that transformers
    takes. On GPUs with several processes, backends fill in each process's own.
    """
    parameter = inspect.signature(backend_class.__init__).parameters.get("device_map")
    if parameter is None:
        return {}
    named = device.index is not None or parameter.default == ""
    if device.type == "cpu" or (named and Accelerator().num_processes == 1):
        return {"device_map": str(device)}
    return {}


def check_arguments(config: ModelConfig, backend_class: type[lmms]) -> set[str]:
    """Return the names of the arguments that a backend takes.

    Raises:
        ConfigError: the config's backend_args has another.
    """
    accepted = set(inspect.signature(backend_class.__init__).parameters) - {"self", "args", "kwargs"}
    for name in config.backend_args:
        if name in _OURS:
            raise ConfigError(f"backend_args.{name}: use {_OURS[name]} instead")
        if name not in accepted:
            raise ConfigError(
                f"the backend {backend_class.__name__} takes no argument '{name}'."
                f"{did_you_mean(name, accepted)} Known: {', '.join(sorted(accepted - set(_OURS)))}"
            )
    return accepted


def check_batch_size(batch_size: int | str) -> None:
    """Refuse a batch size that is no number of prompts.

    Raises:
        ConfigError: such as 0, or `auto`.
    """
    if not str(batch_size).isdigit() or int(batch_size) == 0:
        raise ConfigError(f"--batch_size must be a whole number from 1 on, not '{batch_size}'")


def own_copies(requests: Sequence[Instance]) -> list[Instance]:
    """Return requests whose arguments a backend may write into: lmms-eval's cache and our journal go by what was asked.

    (llava_hf notes image sizes there, others take `until` out.)
    """
    copies = []
    for request in requests:
        copies.append(copy.copy(request))
        copies[-1].arguments = tuple(copy.deepcopy(part) if isinstance(part, dict) else part for part in request.args)
    return copies


@contextmanager
def one_at_a_time(backend: lmms) -> Iterator[None]:
    """Have a backend ask prompt by prompt while open."""
    batch_size = backend.batch_size_per_gpu
    backend.batch_size_per_gpu = 1
    try:
        yield
    finally:
        backend.batch_size_per_gpu = batch_size


def finish_answer(backend: lmms, text: str, stops: Sequence[str]) -> str:
    """Return what a backend makes of a decoded answer.

    Args:
        backend: the lmms-eval backend.
        text: the answer as decoded.
        stops: the task's `until`.
    """
    cuts = _CUT_AT_STOPS.get(type(backend).__module__)
    if cuts is None:
        return text
    passed_over, strips = cuts
    for stop in stops:
        if stop and stop != passed_over:
            text = text.split(stop)[0]
    return text.strip() if strips else text


def _pad_left(backend: lmms) -> None:
    """Pad batches on the left, as decoders need it: one backend leaves the side to the checkpoint's tokenizer."""
    for holder in ("processor", "_image_processor"):
        tokenizer = getattr(getattr(backend, holder, None), "tokenizer", None)
        if tokenizer is not None:
            tokenizer.padding_side = "left"


def _check_dtype(name: Any, device: torch.device) -> None:
    if name in (None, "auto"):
        return
    dtype = getattr(torch, str(name), None)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ConfigError(f"backend_args.dtype = '{name}' is no floating-point dtype of torch")
    try:
        probe = torch.ones(2, 2, dtype=dtype, device=device)
        probe @ probe
    except (RuntimeError, NotImplementedError) as error:
        raise ConfigError(f"backend_args.dtype = '{name}' can't be computed on {device}") from error


@contextmanager
def _alone_on_cpu(backend_class: type, device: torch.device) -> Iterator[None]:
    """On CPU, build the backend as if no other process existed.

    With several `accelerate` processes most backends bind themselves to `cuda:N`. The harness's data parallelism
    needs no more than a whole model in each process, so here they get the single-process answer; ranks are the
    harness's.
    """
    module_globals = backend_class.__init__.__globals__  # type: ignore[misc]
    original = module_globals.get("Accelerator")
    if device.type != "cpu" or original is None:
        yield
        return
    module_globals["Accelerator"] = _SingleProcess
    try:
        yield
    finally:
        module_globals["Accelerator"] = original


class _SingleProcess(Accelerator):
    """An accelerator that counts one process while a backend is built."""

    @property
    def num_processes(self) -> int:
        return 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
