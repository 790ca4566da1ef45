"""What a method reads beside the VLM and its base LM: an ancestor's tensors, Fisher information."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from lmms_plam.config import MergeRecipe
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.information import FisherFile


class Source(Protocol):
    """Where rows of tensors come from: a checkpoint, or what was read of it before."""

    @property
    def reference(self) -> str:
        """What the model is called."""

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Return rows start to stop (first dimension) of a tensor, in its stored dtype."""


A = TypeVar("A", bound=Source, covariant=True)
F = TypeVar("F", bound=Source, covariant=True)


@dataclass(frozen=True, slots=True)
class Further(Generic[A, F]):
    """Further sources of one recipe.

    Attributes:
        ancestor: the model that VLM and base LM grew from; None where the recipe names none.
        fisher: Fisher information of both; None where the recipe's method takes none.
    """

    ancestor: A | None = None
    fisher: F | None = None


class FurtherFiles(Further[Checkpoint, FisherFile]):
    """Further sources as files; a context manager, which closes them, and may be entered again."""

    __slots__ = ()

    @classmethod
    def of(cls, recipe: MergeRecipe, checkpoint: Callable[[str, str | None], Checkpoint] = Checkpoint) -> FurtherFiles:
        """Return what a recipe names, none of it read yet.

        Args:
            recipe: the recipe.
            checkpoint: how the ancestor's checkpoint is opened.

        Raises:
            ConfigError: a revision of a folder.
            CheckpointError: a Fisher file that can't be read, or is none.
        """
        ancestor = checkpoint(recipe.ancestor, recipe.ancestor_revision) if recipe.ancestor is not None else None
        return cls(ancestor, FisherFile(recipe.fisher) if recipe.fisher is not None else None)

    def __enter__(self) -> FurtherFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ancestor is not None:
            self.ancestor.__exit__(kind, error, trace)
        if self.fisher is not None:
            self.fisher.close()
