"""The prompts of text-to-image models: a text file, or the captions of COCO.

Every line counts: the prompt of image i has seed `first_seed + i`, so a line that was skipped would move all others.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

from diff_es.errors import InputError

#: Larger files are not lists of prompts: 5,000 COCO captions take 0.3 MB.
MAX_PROMPTS_BYTES = 16 * 2**20
#: The longest COCO caption has 250 characters; text encoders read 77 to 512 tokens.
MAX_PROMPT_CHARACTERS = 4000
#: captions_train2017.json has 92 MB.
MAX_ANNOTATIONS_BYTES = 256 * 2**20


def read_any_prompts(path: Path) -> tuple[str, ...]:
    """Read all prompts of a file: one per line, or of COCO's captions (.json) the first of each image, by id.

    Raises:
        InputError: see `read_prompts` and `read_coco_captions`.
    """
    return read_coco_captions(path, None) if path.suffix.lower() == ".json" else read_prompts(path)


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read a UTF-8 text file with one prompt per line.

    The last line may end with a line break. A prompt may occur twice. White space around a prompt is kept.

    Raises:
        InputError: the file is missing, empty or larger than 16 MiB, or a line is empty, longer than 4,000 characters,
            not UTF-8 or holds control characters; the message names the line.
    """
    content = _read(path, MAX_PROMPTS_BYTES, "a list of prompts")
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")  # some editors mark UTF-8 by these bytes
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise InputError(f"{path} is empty; write one prompt per line.")
    return tuple(_prompt(line.removesuffix(b"\r"), f"{path}, line {number}") for number, line in enumerate(lines, 1))


def read_coco_captions(path: Path, count: int | None = 5000) -> tuple[str, ...]:
    """Read one caption per image from COCO's `captions_val2017.json`.

    The convention of the field: images sorted by id, and of each image the caption that comes first in the file.
    Some captions of COCO hold line breaks: every run of white space becomes one space, as CLIP's tokeniser has it.

    Args:
        path: The annotations file.
        count: Number of images, from the smallest id on; None takes all.

    Raises:
        InputError: the file is missing, larger than 256 MiB or no such JSON, has fewer images or none, or an image has
            no caption.
    """
    if count is not None and count < 1:
        raise InputError(f"count={count} must be at least 1.")
    annotations = _annotations(path)
    images = sorted({_image_id(entry, "id", path) for entry in _entries(annotations, "images", path)})
    if not images:
        raise InputError(f"{path} has no images; name COCO's captions_val2017.json.")
    if count is not None and count > len(images):
        raise InputError(f"count={count} but {path} has {len(images)} images; lower count.")
    captions = _first_captions(annotations, path)
    return tuple(_caption(captions.get(image), image, path) for image in images[:count])


def read_coco_files(path: Path) -> dict[str, str]:
    """Read file name → caption from COCO's captions file; of each image the caption that comes first.

    An image without a caption is left out.

    Raises:
        InputError: the file is missing, larger than 256 MiB or no such JSON, a name occurs twice, or a caption cannot
            be used.
    """
    annotations = _annotations(path)
    captions = _first_captions(annotations, path)
    files: dict[str, str] = {}
    for entry in _entries(annotations, "images", path):
        name, image = entry.get("file_name"), _image_id(entry, "id", path)
        if not isinstance(name, str) or name in files:
            raise InputError(f"{path}: the file_name={name!r} of image {image} is missing, no text, or another's too.")
        if image in captions:
            files[name] = _caption(captions[image], image, path)
    return files


def check_caption(text: Any, where: str) -> str:
    """Return a caption with every run of white space as one space.

    Args:
        text: What was read.
        where: Where, the beginning of an error message.

    Raises:
        InputError: no text, an empty or too long one, or control characters.
    """
    if not isinstance(text, str):
        raise InputError(f"{where} is missing or no text; write a caption.")
    return _checked(" ".join(text.split()), where)


def _annotations(path: Path) -> Any:
    content = _read(path, MAX_ANNOTATIONS_BYTES, "COCO captions")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}.") from error


def _first_captions(annotations: Any, path: Path) -> dict[int, Any]:
    """Image id → the caption that comes first in the file, not checked yet."""
    captions: dict[int, Any] = {}
    for entry in _entries(annotations, "annotations", path):
        captions.setdefault(_image_id(entry, "image_id", path), entry.get("caption"))
    return captions


def _read(path: Path, limit: int, kind: str) -> bytes:
    """Read a file of at most `limit` bytes."""
    if not path.is_file():
        raise InputError(f"{path} is no file; name a file with {kind}.")
    if path.stat().st_size > limit:
        raise InputError(f"{path} is larger than {limit // 2**20} MiB, too large for {kind}.")
    return path.read_bytes()


def _prompt(line: bytes, where: str) -> str:
    """Decode and check one prompt; `where` is the beginning of an error message."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 (byte {error.start + 1}); save the file as UTF-8.") from error
    return _checked(text, where)


def _checked(text: str, where: str) -> str:
    if not text.strip():
        raise InputError(f"{where} is empty; every line is one prompt, so write one or remove the line.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise InputError(f"{where} has {len(text)} characters, more than {MAX_PROMPT_CHARACTERS}; shorten it.")
    odd = next((letter for letter in text if letter != "\t" and unicodedata.category(letter) == "Cc"), None)
    if odd is not None:
        raise InputError(f"{where} holds the control character U+{ord(odd):04X}; write one prompt per line, as text.")
    return text


def _entries(annotations: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """Return a list of objects of the annotations file."""
    entries = annotations.get(key) if isinstance(annotations, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path} has no list of objects {key!r}; name COCO's captions_val2017.json.")
    return entries


def _image_id(entry: dict[str, Any], key: str, path: Path) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{path}: {key}={value!r} is no image id; name COCO's captions_val2017.json.")
    return value


def _caption(caption: Any, image: int, path: Path) -> str:
    where = f"{path}: the caption of image {image}"
    if not isinstance(caption, str):
        raise InputError(f"{where} is missing or no text; name COCO's captions_val2017.json.")
    return _checked(" ".join(caption.split()), where)
