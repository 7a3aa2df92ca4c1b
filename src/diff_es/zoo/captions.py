"""The captions of Fashion-MNIST: which there are, and the way between a caption and its class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from diff_es.errors import InputError
from diff_es.zoo.data import CLASS_NAMES, calibration_set

if TYPE_CHECKING:
    from collections.abc import Iterable

#: ``{}`` is the name of the class with its article. The first makes the default caption of a class.
TEMPLATES: Final = ("a photo of {}", "a picture of {}", "an image of {}", "a grey photo of {}", "{}")
UNCONDITIONAL: Final = ""
"""The caption of "no class": what guidance leads away from."""


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def captions_of_class(label: int) -> tuple[str, ...]:
    """All captions that class ``label`` (0 to 9) was trained with, one per template.

    Raises:
        InputError: no such class.
    """
    if not 0 <= label < len(CLASS_NAMES):
        raise InputError(f"label: must lie in 0..{len(CLASS_NAMES) - 1}, got {label}")
    return tuple(template.format(_with_article(CLASS_NAMES[label])) for template in TEMPLATES)


def caption_of(label: int) -> str:
    """The default caption of class ``label`` (0 to 9): "a photo of an ankle boot".

    Raises:
        InputError: no such class.
    """
    return captions_of_class(label)[0]


CAPTIONS: Final = tuple(caption_of(label) for label in range(len(CLASS_NAMES)))
"""The default caption of every class, by label."""


def words_of(text: str) -> tuple[str, ...]:
    """Split a text into lower-case words, as the tokenizers of the zoo do; "t-shirt" is one word."""
    return tuple(re.findall(r"[\w-]+", text.lower()))


def label_of(caption: str) -> int:
    """The class that a caption names, in whatever sentence.

    Raises:
        InputError: the caption names no class, or several.
    """
    text = f" {' '.join(words_of(caption))} "
    named = [label for label, name in enumerate(CLASS_NAMES) if f" {name} " in text]
    if len(named) != 1:
        found = " and ".join(CLASS_NAMES[label] for label in named) or "none"
        raise InputError(f"caption: must name one class of {', '.join(CLASS_NAMES)}; {caption!r} names {found}")
    return named[0]


def captions_of(labels: Iterable[int]) -> tuple[str, ...]:
    """The default captions of many labels, in their order."""
    return tuple(caption_of(int(label)) for label in labels)


def calibration_captions() -> tuple[str, ...]:
    """The default captions of the 1,024 images of :func:`diff_es.zoo.calibration_set`, in their order."""
    return captions_of(calibration_set().labels.tolist())
