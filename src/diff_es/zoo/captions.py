"""The captions of Fashion-MNIST."""

from __future__ import annotations

from diff_es.errors import InputError
from diff_es.zoo.data import CLASS_NAMES


def caption_of(label: int) -> str:
    """Return the caption of a class, 0 to 9: "a photo of an ankle boot".

    Raises:
        InputError: no such class.
    """
    if not 0 <= label < len(CLASS_NAMES):
        raise InputError(f"label={label} is no class; there are 0 to {len(CLASS_NAMES) - 1}.")
    name = CLASS_NAMES[label]
    return f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}"
