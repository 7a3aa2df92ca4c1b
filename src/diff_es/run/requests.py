"""What a run samples: class labels, or prompts, which search, evaluation and calibration share out between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diff_es import zoo
from diff_es.errors import InputError
from diff_es.prompts import read_any_prompts
from diff_es.sampling import takes_labels
from diff_es.zoo.captions import caption_of

if TYPE_CHECKING:
    from diff_es.recipe import Recipe

CAPTIONS = "zoo:captions"
#: Seeds of different purposes lie this far apart, so that they never meet.
_SEED_SPAN = 1_000_000


class Purpose(IntEnum):
    """What images are sampled for; each has seeds of its own, and the last number is free."""

    SEARCH_PROBES = 0
    EVALUATION_IMAGES = 1
    CALIBRATION_RUNS = 2


_PURPOSES = 4


@dataclass(frozen=True)
class PromptList:
    """The prompts of a run.

    Attributes:
        prompts: All of them, in order.
        labels: The class that each asks for, where that is known; else empty.
        name: Where they come from.
    """

    prompts: tuple[str, ...]
    labels: tuple[int, ...]
    name: str

    def part(self, purpose: int, probes: int, images: int) -> PromptList:
        """Return those of one purpose.

        The first prompts are the search's. Where enough are left, the evaluation takes its own from the end, and
        calibration what the evaluation leaves; else these two go round the whole list. The captions of classes are few,
        and all go round all of them, as they would round class labels.

        Args:
            purpose: See `Purpose`.
            probes: Prompts that the search needs.
            images: Images that are evaluated.

        Raises:
            InputError: fewer prompts than the search needs.
        """
        total = len(self.prompts)
        if self.labels:
            return self
        if total < probes:
            raise InputError(
                f"prompts={self.name} holds {total} prompts for search.probes={probes}: give as many, or lower "
                f"search.probes to {total}."
            )
        if purpose == Purpose.SEARCH_PROBES:
            return self._rows(range(probes))
        own = range(max(probes, total - images), total)
        if len(own) < min(images, probes):
            return self
        if purpose == Purpose.EVALUATION_IMAGES:
            return self._rows(own)
        return self._rows([row for row in range(total) if row not in own])

    def _rows(self, rows: range | list[int]) -> PromptList:
        return PromptList(tuple(self.prompts[row] for row in rows), (), self.name)


def read_prompt_list(name: str) -> PromptList:
    """Read the prompts that a recipe names.

    Args:
        name: "zoo:captions", or a file: one prompt per line, or COCO's captions (.json).

    Raises:
        InputError: no such file, or one that holds no prompts.
    """
    if name == CAPTIONS:
        labels = tuple(range(len(zoo.CLASS_NAMES)))
        return PromptList(tuple(map(caption_of, labels)), labels, name)
    return PromptList(read_any_prompts(Path(name)), (), name)


def check_prompts(recipe: Recipe, pipe: Any) -> None:
    """Refuse prompts for a class-conditional model, and a text-to-image model without.

    Raises:
        InputError: see there.
    """
    kind = type(pipe).__name__
    if takes_labels(pipe) and recipe.prompts:
        raise InputError(f"prompts={recipe.prompts}, but {kind} makes images from class labels; remove it.")
    if not takes_labels(pipe) and not recipe.prompts:
        raise InputError(
            f"{kind} makes images from prompts, and the recipe has none: add prompts, a file with one prompt per line "
            "or COCO's captions file (.json)."
        )


def first_seed(seed: int, purpose: int) -> int:
    """Return the first seed of a purpose, from which on `_SEED_SPAN` are its own.

    Args:
        seed: The run's, or the search's.
        purpose: See `Purpose`.
    """
    return (seed * _PURPOSES + purpose) * _SEED_SPAN
