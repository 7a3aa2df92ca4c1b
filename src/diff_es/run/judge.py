"""JUDGE one model by a named protocol: generate its images, which may be stopped and shared, and measure them.

The output folder holds the generated images and, written last, `quality.json`: where that file is missing, there is no
result yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diff_es.artifacts import MANIFEST, SETTINGS, claim, read_record, sha256, write_record
from diff_es.bank import Pruned
from diff_es.bank.pruned import refuse_run_directory
from diff_es.errors import InputError
from diff_es.evaluation import Environment, Measurement, Protocol, Samples, environment, stored
from diff_es.evaluation.clip import DEFAULT_MODEL
from diff_es.evaluation.images import producer
from diff_es.evaluation.protocol import Given
from diff_es.evaluation.protocols import protocols
from diff_es.evaluation.quality import Measured
from diff_es.pipelines import image_size, load_pipeline, resolve_device
from diff_es.routing import load
from diff_es.run.base import load_base
from diff_es.run.image_settings import ImageSettings, image_settings
from diff_es.sampling import ImageRequests, SamplerConfig, class_labels, takes_labels
from diff_es.schedule import Levels

if TYPE_CHECKING:
    from diff_es.evaluation.protocol import NamedProtocol

QUALITY = "quality.json"
IMAGES = "images"
_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class JudgeConfig:
    """How a model is judged.

    Attributes:
        protocol: Name of a registered protocol.
        reference: The real images: a file or a folder, as the protocol says.
        inception_weights: File with the weights of Inception-v3; None takes torch's cache, or downloads them.
        prompts: For text-to-image: one prompt per line, or COCO's captions file.
        clip: Folder or Hub id of the CLIP model, for protocols with a CLIP score.
        images: Number of images; None takes the protocol's. The record says so where it is another.
        seed: Seed of the first image; None takes the protocol's.
        steps: Inference steps; None takes those that an artefact was searched for. A dense model needs them.
        guidance_scale: Classifier-free guidance; None as for `steps`.
        batch_size: Images per call of the pipeline, ≥ 1.
        model: The dense model of an artefact, where it is not the one that the artefact names.
        dtype: Data type of a dense model ("float32", "float16", "bfloat16"), None for float32; an artefact has its own.
        device: "auto", "cpu", "cuda", …
    """

    protocol: str
    reference: Path | None = None
    inception_weights: Path | None = None
    prompts: Path | None = None
    clip: str = DEFAULT_MODEL
    images: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    batch_size: int = 16
    model: str | None = None
    dtype: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, value, least in (("batch_size", self.batch_size, 1), ("seed", self.seed, 0)):
            if value is not None and value < least:
                raise InputError(f"{name}={value} must be at least {least}.")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise InputError(f"guidance_scale={self.guidance_scale} must be a finite number.")
        if self.dtype not in {None, *_DTYPES}:
            raise InputError(f"dtype={self.dtype!r} must be one of {', '.join(_DTYPES)}.")


@dataclass(frozen=True)
class QualityRecord:
    """The quality of one model by one protocol, as written to `quality.json`.

    Attributes:
        target: The artefact or the dense model, as it was given.
        levels: Stage levels, stage 0 first; None for a dense model.
        protocol: How it was measured; the name says so where the number of images or the seeds are not its own.
        measurements: The numbers.
        sources: What they depend on: name → sha256; of the images, that of their settings.
        environment: Where they were measured.
        format: Version of this record.
    """

    target: str
    levels: Levels | None
    protocol: Protocol
    measurements: tuple[Measurement, ...]
    sources: dict[str, str]
    environment: Environment
    format: Literal[1] = 1


@dataclass(frozen=True, eq=False)
class _Model:
    """What is judged, ready to run."""

    pipe: Any
    name: str
    sampler: SamplerConfig
    levels: Levels | None
    settings: ImageSettings


def judge(target: str, output: Path, config: JudgeConfig) -> QualityRecord:
    """Generate the images of a protocol with one model and measure them.

    A stopped run goes on where it was when it is called again with the same arguments; several processes (one per GPU)
    may be given the same folder and share the work. The images do not depend on that, and on the batch size by
    rounding only.

    Args:
        target: An artefact (the folder `pruned` of a run), or a dense model ("zoo:NAME", a folder, a Hub id).
        output: Folder of the images and of `quality.json`.
        config: How it is judged.

    Raises:
        InputError: unknown protocol, a file that is missing or cannot be used, a model that the protocol does not fit,
            or a folder of another evaluation.
        ArtifactError: the artefact, the reference, the weights or the stored images are damaged.
    """
    protocol = protocols[config.protocol]
    count = protocol.images if config.images is None else config.images
    first_seed = protocol.first_seed if config.seed is None else config.seed
    protocol.check_images(count)
    _check_target(target, config)
    device = resolve_device(config.device)
    given = Given(config.reference, config.inception_weights, config.prompts, config.clip, device)
    protocol.check_given(given)
    requests = protocol.requests(given, count, first_seed)
    opened = protocol.open(given)
    model = _load(target, config, protocol, requests)
    requests = model.settings.requests
    _check_fit(protocol, model.pipe)
    folder = output / IMAGES
    if (folder / SETTINGS).exists():
        claim(folder, model.settings)
    sources = {**opened.sources, "images": model.settings.digest}
    title = protocol.title(count, first_seed)
    known = _known(output / QUALITY, title, sources)
    if known is not None:
        return known
    measure = opened.prepare()
    produce, size = producer(model.pipe, model.sampler), config.batch_size
    samples = stored(folder, requests, produce, settings=model.settings, batch_size=size)
    shared = Measured(Samples(count, first_seed), model.sampler, str(device))
    scheduler = type(model.pipe.scheduler).__name__
    described = Protocol(title, model.name, scheduler, model.sampler, protocol.text)
    measured = measure(samples, requests, shared)
    record = QualityRecord(target, model.levels, described, measured, sources, environment(device))
    write_record(output / QUALITY, record)
    return record


def _check_target(target: str, config: JudgeConfig) -> None:
    """Find out in a moment what would otherwise be found after networks and models were loaded.

    Raises:
        InputError: a run directory, a dense model without steps and guidance, or an option for the other kind.
    """
    folder = Path(target)
    if (folder / MANIFEST).is_file():
        if config.dtype is not None:
            raise InputError(f"dtype={config.dtype!r}, but {target} is an artefact, which has its own; leave it out.")
        return
    refuse_run_directory(folder)
    if config.model is not None:
        raise InputError(
            f"model={config.model!r} is for an artefact, and {target} is a dense model itself; leave one of them out."
        )
    if config.steps is None or config.guidance_scale is None:
        raise InputError(
            f"{target} is a dense model, for which nothing says how it is sampled: give steps and guidance_scale. "
            "Both move every number of a protocol."
        )


def _load(target: str, config: JudgeConfig, protocol: NamedProtocol, requests: ImageRequests) -> _Model:
    """Load the artefact with its dense model, or the dense model alone."""
    folder = Path(target)
    if (folder / MANIFEST).is_file():
        return _load_artefact(folder, config, protocol, requests)
    assert config.steps is not None and config.guidance_scale is not None  # _check_target
    pipe = load_pipeline(target, config.dtype or _DTYPES[0], config.device)
    sampler = SamplerConfig(config.steps, config.guidance_scale)
    settings = image_settings(pipe, sampler, protocol.asked_of(pipe, requests))
    return _Model(pipe, target, sampler, None, settings)


def _load_artefact(folder: Path, config: JudgeConfig, protocol: NamedProtocol, requests: ImageRequests) -> _Model:
    info = Pruned.open(folder).info
    name = config.model or info.base_model
    sampler = SamplerConfig(
        info.sampler.num_inference_steps if config.steps is None else config.steps,
        info.sampler.guidance_scale if config.guidance_scale is None else config.guidance_scale,
        info.sampler.arguments,
    )
    pipe = load_base(info, config.model, config.device)
    weights = (sha256(folder / MANIFEST),)
    settings = image_settings(pipe, sampler, protocol.asked_of(pipe, requests), weights=weights)
    load(folder, pipe, sampler=sampler)
    return _Model(pipe, name, sampler, info.schedule.levels, settings)


def _check_fit(protocol: NamedProtocol, pipe: Any) -> None:
    """Refuse a model whose images the protocol does not mean; the numbers would look like others under its name.

    Raises:
        InputError: another number of classes, or another size.
    """
    if protocol.classes is None:
        return
    if not takes_labels(pipe) and protocol.caption is None:
        raise InputError(f"{protocol.name} needs a class-conditional model; {type(pipe).__name__} is none.")
    classes = len(class_labels(pipe)) if takes_labels(pipe) else protocol.classes
    if classes != protocol.classes:
        raise InputError(f"{protocol.name} needs a model of {protocol.classes:,} classes; this one has {classes:,}.")
    size = image_size(pipe)
    if protocol.size not in {None, size}:
        raise InputError(
            f"{protocol.name} needs images of {protocol.size} × {protocol.size} pixels; this model makes "
            f"{size} × {size}."
        )


def _known(path: Path, title: str, sources: dict[str, str]) -> QualityRecord | None:
    """Return the result that is there already; the images were found to be the same.

    Raises:
        InputError: it was measured by another protocol, on other images, against another reference or by other weights.
    """
    if not path.exists():
        return None
    record = read_record(path, QualityRecord)
    before, now = {"protocol": record.protocol.name, **record.sources}, {"protocol": title, **sources}
    other = [name for name in now if before.get(name) != now[name]]
    if other:
        raise InputError(
            f"{path} was measured with other settings ({', '.join(other)}); choose another folder, or move the file "
            "away to measure anew."
        )
    return record
