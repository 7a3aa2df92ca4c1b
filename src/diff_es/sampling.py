"""One way to run a pipeline: per-image seeds, so that an image does not depend on what else is in its batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from diff_es.errors import InputError, UnsupportedModelError
from diff_es.registry import suggest

if TYPE_CHECKING:
    from torch import Tensor

#: Tells the stream of a sampler's own noise from that of the initial latents of the same seed.
_STEP_NOISE = 1


#: What a recipe or record can hold of a pipeline's argument.
Option: TypeAlias = bool | int | float | str
#: Arguments of a pipeline's call that do not belong to a sampler's settings.
_TAKEN = frozenset(
    ("prompt", "class_labels", "generator", "latents", "num_inference_steps", "guidance_scale", "output_type")
)
#: The largest seed of an image: the largest signed number of 64 bits, which torch takes as one everywhere.
MAX_SEED = 2**63 - 1
#: Arguments that end a run of the scheduler early or begin it late.
_LEAVING_OUT = frozenset(("denoising_start", "denoising_end", "strength"))


def check_all_steps(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments by which a pipeline leaves out some of the steps that stages and budget count.

    Raises:
        InputError: there is one of them.
    """
    if found := sorted(_LEAVING_OUT & set(arguments)):
        raise InputError(
            f"arguments={dict(arguments)} has {', '.join(found)}, which leaves out steps that stages and budget count: "
            "plan, calibrate and search without it. A routed pipeline may be called with it, and each step then runs "
            "the stage that its timestep lies in."
        )


@dataclass(frozen=True)
class SamplerConfig:
    """How images are sampled.

    Attributes:
        num_inference_steps: Steps of the pipeline's own scheduler, at least 1.
        guidance_scale: Classifier-free guidance; 1 or less means none.
        arguments: What else the pipeline's call is given (height, width, max_sequence_length, …).
    """

    num_inference_steps: int = 20
    guidance_scale: float = 4.0
    arguments: Mapping[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise InputError(f"num_inference_steps={self.num_inference_steps} must be at least 1.")
        if taken := _TAKEN & set(self.arguments):
            raise InputError(
                f"arguments={dict(self.arguments)} has {', '.join(sorted(taken))}, which Diff-ES gives itself."
            )
        check_all_steps(self.arguments)

    @property
    def guided(self) -> bool:
        """Whether the denoiser sees a conditional and an unconditional half."""
        return self.guidance_scale > 1


@dataclass(frozen=True)
class Requests:
    """Images to sample with a class-conditional pipeline: one class label and one seed each."""

    labels: tuple[int, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.labels or len(self.labels) != len(self.seeds):
            raise InputError(f"{len(self.labels)} labels for {len(self.seeds)} seeds; both need one per image.")
        _check_seeds(self.seeds)

    @classmethod
    def cycle(cls, labels: Sequence[int], count: int, first_seed: int) -> Requests:
        """Make `count` requests that go round the labels, with consecutive seeds from `first_seed`."""
        if not labels:
            raise InputError("labels is empty: give the class labels to go round.")
        chosen = tuple(labels[i % len(labels)] for i in range(count))
        return cls(chosen, tuple(range(first_seed, first_seed + count)))

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[Requests]:
        """Cut into consecutive batches of at most `size`."""
        for rows in _consecutive(len(self), size):
            yield Requests(self.labels[rows], self.seeds[rows])

    def arguments(self) -> dict[str, Any]:
        """Return what the pipeline's call takes for these images, seeds aside."""
        return {"class_labels": list(self.labels)}


@dataclass(frozen=True)
class PromptRequests:
    """Images to sample with a text-to-image pipeline: one prompt and one seed each.

    Attributes:
        prompts: N prompts.
        seeds: N seeds.
        labels: The class that each prompt asks for, where a judge knows classes (the captions of the zoo); else empty.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.seeds):
            raise InputError(f"{len(self.prompts)} prompts for {len(self.seeds)} seeds; both need one per image.")
        if self.labels and len(self.labels) != len(self.prompts):
            raise InputError(
                f"{len(self.labels)} labels for {len(self.prompts)} prompts; give one per prompt, or none."
            )
        _check_seeds(self.seeds)

    @classmethod
    def cycle(cls, prompts: Sequence[str], count: int, first_seed: int, labels: Sequence[int] = ()) -> PromptRequests:
        """Make `count` requests that go round the prompts, with consecutive seeds from `first_seed`."""
        if not prompts:
            raise InputError("prompts is empty: give the prompts to go round.")
        rows = [i % len(prompts) for i in range(count)]
        chosen = tuple(labels[row] for row in rows) if labels else ()
        return cls(tuple(prompts[row] for row in rows), tuple(range(first_seed, first_seed + count)), chosen)

    @classmethod
    def consecutive(cls, prompts: Sequence[str], first_seed: int) -> PromptRequests:
        """Make one request per prompt, with consecutive seeds from `first_seed`."""
        return cls(tuple(prompts), tuple(range(first_seed, first_seed + len(prompts))))

    def __len__(self) -> int:
        return len(self.prompts)

    def batches(self, size: int) -> Iterator[PromptRequests]:
        """Cut into consecutive batches of at most `size`."""
        for rows in _consecutive(len(self), size):
            yield PromptRequests(self.prompts[rows], self.seeds[rows], self.labels[rows])

    def arguments(self) -> dict[str, Any]:
        """Return what the pipeline's call takes for these images, seeds aside."""
        return {"prompt": list(self.prompts)}


def _consecutive(count: int, size: int) -> list[slice]:
    if size < 1:
        raise InputError(f"batch_size={size} must be at least 1.")
    return [slice(start, start + size) for start in range(0, count, size)]


def _check_seeds(seeds: Sequence[int]) -> None:
    if min(seeds) < 0 or max(seeds) > MAX_SEED:
        raise InputError(f"seeds={min(seeds)}…{max(seeds)} must lie between 0 and {MAX_SEED}; choose others.")


#: Images to sample, whatever they are made from.
ImageRequests: TypeAlias = Requests | PromptRequests


def class_labels(pipe: Any) -> range:
    """Return the class labels that a class-conditional pipeline knows.

    They run up to the highest named one: two classes may share a name (ImageNet has two cranes).
    """
    return range(max(pipe.labels.values()) + 1 if pipe.labels else pipe.transformer.config.num_embeds_ada_norm)


def seeded(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose stream belongs to this key alone (all entries ≥ 0)."""
    # SeedSequence((0, 0)) is SeedSequence(0): only the spawn key tells a key from the same one with zeros added.
    sequence = np.random.SeedSequence(key[0], spawn_key=key[1:])
    seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)


@torch.no_grad()
def sample(pipe: Any, requests: ImageRequests, sampler: SamplerConfig, device: str | None = "cpu") -> Tensor:
    """Run the pipeline once on all requests.

    Initial latents come from one CPU generator per image, and a sampler that draws noise at every step (DDPM, Euler
    ancestral) draws it from another one of the image's own: an image depends on its seed and not on its batch (but for
    the rounding of matrix products, which differs from batch size to batch size). The global generator is left alone.

    Args:
        pipe: The pipeline.
        requests: Labels or prompts, and seeds.
        sampler: Steps and guidance.
        device: Where the images are wanted; None leaves them where the pipeline made them.

    Returns:
        Images, shape (N, 3, height, width), float32 in [0, 1].

    Raises:
        InputError: labels for a text-to-image pipeline or prompts for a class-conditional one, or images that the
            pipeline's safety checker has blackened.
        UnsupportedModelError: the pipeline makes something else than images.
    """
    arguments = requests.arguments()
    check_requests(pipe, requests)
    _check_arguments(pipe, sampler)
    generators = [seeded(seed) for seed in requests.seeds]
    # The seed is for a scheduler of the user's own whose step takes no generator.
    with forked_generators(pipe, requests.seeds[0]), quiet(pipe), _own_step_noise(pipe.scheduler, requests.seeds):
        output = pipe(
            **arguments,
            **sampler.arguments,
            generator=generators,
            num_inference_steps=sampler.num_inference_steps,
            guidance_scale=sampler.guidance_scale,
            output_type="pt",
        )
    if not hasattr(output, "images"):
        raise UnsupportedModelError(
            f"{type(pipe).__name__} makes no images (videos are not measured): give a pipeline whose result has "
            "`images`, such as a subclass that returns single frames as images."
        )
    _refuse_blackened(output, requests.seeds)
    return output.images.float().to(device)  # type: ignore[no-any-return]


@contextmanager
def _own_step_noise(scheduler: Any, seeds: Sequence[int]) -> Iterator[None]:
    """Have the scheduler draw the noise of its steps from one generator per image.

    DiTPipeline passes none on, and the scheduler would draw from one generator for the whole batch. It also steps the
    guided and the unguided half together and keeps the first: both halves then draw from the same generators.
    """
    if "generator" not in inspect.signature(scheduler.step).parameters:
        yield
        return
    before = vars(scheduler).get("step")  # a user's own
    step = scheduler.step
    generators = [seeded(seed, _STEP_NOISE) for seed in seeds]

    @functools.wraps(step)
    def own_step(model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("generator") is None:
            kwargs["generator"] = generators * (len(model_output) // len(generators))
        return step(model_output, *args, **kwargs)

    scheduler.step = own_step
    try:
        yield
    finally:
        del scheduler.step
        if before is not None:
            scheduler.step = before


@contextmanager
def at_decoding(pipe: Any, look: Callable[[Tensor], None]) -> Iterator[None]:
    """Show `look` the final latents where every latent pipeline passes them on: the VAE's decode.

    Args:
        pipe: The pipeline; one without a VAE has nothing to show.
        look: Gets what the VAE would decode. By an error of its own it leaves the pipeline before that.
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        yield
        return
    dtype = vae.dtype
    before = vars(vae).get("decode")  # a user's own, such as a compiled one
    original = vae.decode

    def decode(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        look(latents)
        return original(latents, *args, **kwargs)

    vae.decode = decode
    try:
        yield
    finally:
        del vae.decode
        if before is not None:
            vae.decode = before
        # SDXL in half precision makes its VAE a float32 one before decoding, and takes that back after it alone.
        if vae.dtype != dtype:
            vae.to(dtype)


def takes_labels(pipe: Any) -> bool:
    """Whether a pipeline is class-conditional; else it takes prompts."""
    return "class_labels" in call_parameters(pipe)


def any_requests(pipe: Any, count: int) -> ImageRequests:
    """Make requests for a look at the pipeline, where it does not matter what the images show."""
    if takes_labels(pipe):
        return Requests.cycle(class_labels(pipe), count, 0)
    return PromptRequests.consecutive(("a photo",) * count, 0)


def check_requests(pipe: Any, requests: ImageRequests) -> None:
    """Check that a pipeline can sample what is asked for.

    Raises:
        InputError: labels for a text-to-image pipeline, prompts for a class-conditional one, or a label that is out of
            range.
    """
    known = call_parameters(pipe)
    for argument in requests.arguments():
        # Python's own message would name a private method and not the way out.
        if argument not in known:
            raise InputError(
                f"{type(pipe).__name__} takes no {argument!r}: give Requests (class labels) to a class-conditional "
                "pipeline and PromptRequests to a text-to-image pipeline."
            )
    if isinstance(requests, Requests):
        labels = class_labels(pipe)
        strangers = sorted({label for label in requests.labels if label not in labels})
        if strangers:
            raise InputError(f"class_labels={strangers} are out of range: the model knows 0…{labels[-1]}.")


def _check_arguments(pipe: Any, sampler: SamplerConfig) -> None:
    known = call_parameters(pipe)
    for name in sampler.arguments:
        if name not in known:
            raise InputError(f"sampler.arguments: {type(pipe).__name__} takes no {name!r}: {suggest(name, known)}")


def call_parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Return what a pipeline's call takes, by name."""
    return inspect.signature(type(pipe).__call__).parameters


def _refuse_blackened(output: Any, seeds: Sequence[int]) -> None:
    """Stable Diffusion 1.x replaces images that its checker dislikes by black ones, which would be measured as such."""
    flags = getattr(output, "nsfw_content_detected", None) or [False] * len(seeds)
    refused = [seed for seed, flag in zip(seeds, flags, strict=True) if flag]
    if refused:
        raise InputError(
            f"The pipeline's safety checker blackened {len(refused)} of {len(seeds)} images (seeds {refused[:5]}): "
            "load the pipeline with safety_checker=None, or choose other prompts."
        )


@contextmanager
def forked_generators(pipe: Any, seed: int | None = None) -> Iterator[None]:
    """Leave the global generators as they are: the CPU's, and that of the pipeline's own GPU.

    No other GPU is looked at: torch would make itself known on each, which takes memory there and time.

    Args:
        pipe: The pipeline that is called meanwhile.
        seed: What both are seeded with at first; without, they go on from where they are.
    """
    device = torch.device(pipe._execution_device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU
            for own in devices:
                with torch.cuda.device(own):
                    torch.cuda.manual_seed(seed)
        yield


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Turn the pipeline's own progress bar off for a while."""
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)
