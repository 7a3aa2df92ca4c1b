"""Recipe: everything that one run needs, as strict YAML in and out.

An unknown key is an error that names the nearest known one; nothing is guessed. Every key has a default but `model`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from diff_es.errors import InputError
from diff_es.registry import suggest

_MAX_BYTES = 2**20
_RECIPES = Path(__file__).parent / "recipes"

#: A number that YAML takes for text, because it has no point or its exponent no sign.
_POWER = re.compile(r"([-+]?\d+)(\.\d*)?[eE]([-+]?)(\d+)")

Positive = Annotated[int, Field(ge=1)]
#: The seeds of images are up to millions of times as large (see `first_seed` in run/requests.py), and end at 2⁶³ − 1.
_MAX_SEED = 2**32 - 1
#: What the call of a pipeline, or a scheduler, takes.
Option = bool | int | float | str
Comparison = Literal["uniform", "three-stage", "searched-uniform"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SamplerSection(_Section):
    """How images are sampled; the schedule is searched for exactly this."""

    steps: Positive = Field(20, description="inference steps of the pipeline's own scheduler")
    guidance_scale: float = Field(4.0, ge=0, description="classifier-free guidance; 1 or less means none")
    arguments: dict[str, Option] = Field(
        {}, description="what else the pipeline's call is given: `{height: 512, width: 512, max_sequence_length: 256}`"
    )
    scheduler: str = Field(
        "", description="a scheduler of diffusers in place of the pipeline's own: `DPMSolverMultistepScheduler`, …"
    )
    scheduler_options: dict[str, Option] = Field({}, description="what differs from the pipeline's own scheduler")

    @model_validator(mode="after")
    def _options_of_a_scheduler(self) -> SamplerSection:
        if self.scheduler_options and not self.scheduler:
            raise ValueError("scheduler_options need sampler.scheduler; name the scheduler that they are for")
        return self


class CalibrationSection(_Section):
    """Where layer statistics come from."""

    source: Literal["dataset", "sampling"] = Field(
        "dataset", description="noised images of `data`, or the dense model's own denoising trajectories"
    )
    data: str = Field(
        "zoo:fashion",
        description="zoo:fashion, an image folder (one subfolder per class, or captions), an npz, or hf:NAME",
    )
    captions: str = Field("", description="text-to-image models: COCO's captions file (.json) for an image folder")
    samples: Positive = Field(1024, description="images (dataset) or sampling runs (sampling)")
    batch_size: Positive = Field(64, description="images per denoiser call")
    shared: bool = Field(False, description="one set of statistics for all stages")
    memory_limit_gib: float = Field(4.0, gt=0, description="device memory for Hessians at once, in GiB")


class PruningSection(_Section):
    """What is removed, and in how many levels."""

    method: str = Field(
        "obs", description="obs, wanda, magnitude or layerdrop; or one model for all stages: obs-diff or diff-pruning"
    )
    levels: Positive = Field(16, description="H: level l removes l/H of the groups of a layer")
    damping: float = Field(0.01, gt=0, le=1, description="OBS: share of the mean diagonal added to the Hessian")
    intercept: bool = Field(False, description="OBS: let the bias take part in the least squares")
    width_multiple: Positive | Literal["auto"] = Field(
        "auto", description="kept FFN channels are rounded up to a multiple of this; auto is 8 on CUDA, 1 on CPU"
    )


class SearchSection(_Section):
    """How the levels of the stages are found."""

    algorithm: str = Field(
        "evolution",
        description="evolution, or a baseline: random, greedy, hill-climb, stagewise-dp, uniform or three-stage",
    )
    seed: int | None = Field(
        None, ge=0, le=_MAX_SEED, description="of the search and its probes; by default the recipe's"
    )
    sparsity: float = Field(0.5, ge=0, le=1, description="share of the prunable MACs to remove over a denoising run")
    allocation: Literal["uniform", "sensitivity"] = Field(
        "sensitivity",
        description="what a stage level means for its layers: the same share of each, or sparing the sensitive",
    )
    metric: str = Field(
        "ssim", description="fitness: ssim, psnr, latent_mse, latent_cosine, clip_iqa, topiq or a registered one"
    )
    probes: Positive = Field(16, description="images that each schedule is scored on")
    batch_size: Positive | Literal["auto"] = Field(
        16,
        description="probes per run of the pipeline; `auto` measures it once per run: the smallest number whose time "
        "per probe is within 5 % of the fastest one's",
    )
    generations: int = Field(100, ge=0, description="generations after the start population")
    survivors: Positive = Field(4, description="survivors of each generation")
    offspring: Positive = Field(16, description="offspring of each generation")
    max_mutation: Positive = Field(5, description="largest level switch")
    racing_margin: float = Field(
        0.0,
        ge=0,
        description="evolution: offspring that are this many standard errors worse than the worst survivor are dropped "
        "after some batches of probes; 0 means no racing",
    )
    racing_probes: int = Field(4, ge=2, description="probes that are scored before offspring may be dropped")
    sensitivity_samples: Positive = Field(32, description="rows of the batch on which layer errors are measured")

    @model_validator(mode="after")
    def _something_to_race_with(self) -> SearchSection:
        if self.racing_margin and self.algorithm != "evolution":
            raise ValueError(f"racing_margin is for the evolution; {self.algorithm} scores schedules on all probes")
        if self.racing_margin and self.batch_size == "auto":
            raise ValueError("racing needs a batch_size below probes, not auto: offspring leave between batches")
        if self.racing_margin and max(int(self.batch_size), self.racing_probes) >= self.probes:
            raise ValueError("racing needs batch_size and racing_probes below probes: offspring leave between batches")
        return self


class EvaluationSection(_Section):
    """How the result is measured against the dense model and simpler schedules."""

    compare: tuple[Comparison, ...] = Field(
        ("uniform", "three-stage", "searched-uniform"), description="schedules to measure beside the result"
    )
    images: int = Field(256, ge=4, description="images that quality is measured on; no search saw them")
    batch_size: Positive = Field(64, description="images per run of the pipeline")
    deep_cache: Positive = Field(
        1, description="U-Nets: DeepCache's interval while pruned models are measured; 1 means no DeepCache"
    )
    first_block_cache: float = Field(
        0.0,
        ge=0,
        description="transformers: threshold of First Block Cache while pruned models are measured; 0 means none",
    )
    latency_batch_sizes: tuple[Positive, ...] = Field((1, 8, 32), min_length=1, description="images per timed run")
    latency_repeats: Positive = Field(20, description="timed runs of each side, alternating")

    @field_validator("compare")
    @classmethod
    def _once(cls, names: tuple[Comparison, ...]) -> tuple[Comparison, ...]:
        """A schedule named twice would be searched and then refused by the evaluation, at the end of the run."""
        if len(set(names)) < len(names):
            raise ValueError("each schedule may be named once")
        return names


class Recipe(_Section):
    """One run from start to end."""

    model: str = Field(description="zoo:NAME, a folder, or a Hugging Face id of a diffusers pipeline")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="data type of the weights")
    prompts: str = Field(
        "",
        description="text-to-image models: a file with one prompt per line, or COCO's captions file (.json); "
        "zoo:captions for the shipped ones",
    )
    device: str = Field("auto", description="auto (CUDA if there is one), cpu, cuda, cuda:1, …")
    seed: int = Field(0, ge=0, le=_MAX_SEED, description="of everything random in the run")
    stages: Positive = Field(10, description="stages of the denoising run, at most one per step")
    sampler: SamplerSection = SamplerSection()
    calibration: CalibrationSection = CalibrationSection()
    pruning: PruningSection = PruningSection()
    search: SearchSection = SearchSection()
    evaluation: EvaluationSection = EvaluationSection()

    @classmethod
    def read(cls, path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
        """Read a recipe from YAML.

        Args:
            path: The file.
            changes: Dotted key → value, put in the place of what the file says ({"search.sparsity": 0.3}).

        Raises:
            InputError: no such file, no YAML, an unknown key or an impossible value; every problem is listed.
        """
        content = read_yaml(Path(path))
        for key, value in (changes or {}).items():
            content = _with(content, key.split("."), value)
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: Any, origin: str = "recipe") -> Recipe:
        """Check a recipe given as plain dictionaries and lists."""
        try:
            # Strictness is about types that YAML already tells apart; a list may stand for a tuple.
            return cls.model_validate_json(_as_json(content))
        except ValidationError as error:
            problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
            raise InputError(f"{origin} cannot be used:\n{problems}") from error

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """Return the recipe with some values replaced; sections are merged key by key.

        Args:
            changes: Key → value, or section → {key: value}.

        Raises:
            InputError: an unknown key or an impossible value.
        """
        content = self.model_dump(mode="json")
        for key, value in changes.items():
            section = content.get(key)
            if isinstance(value, Mapping) and isinstance(section, Mapping):
                value = {**section, **value}  # noqa: PLW2901 (one of two ways to replace it)
            content[key] = value
        return Recipe.parse(content)

    def dump(self) -> str:
        """Return the resolved recipe, every key with its value, as YAML."""
        # Escaped, not as it is: PyYAML writes some characters (U+0085) plainly that it reads as line breaks.
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain values.

    Raises:
        InputError: no such file, one that is too large, or no YAML.
    """
    if not path.is_file():
        raise InputError(f"recipe={path}: no such file; give a YAML file, or the name of a shipped one: {_shipped()}.")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"recipe={path} is larger than {_MAX_BYTES} bytes.")
    try:
        return yaml.load(path.read_text("utf-8"), _Loader)  # a SafeLoader
    # PyYAML answers numbers too long and impossible dates with ValueError, deep nesting with RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no valid YAML: {error}") from error


def shipped(name: str) -> Path:
    """Return where the shipped recipe of that name lies ("demo", "paper/dit-obs"), whether there is one or not."""
    return _RECIPES / f"{name}.yaml"


class _Loader(yaml.SafeLoader):
    """YAML without aliases (they can blow up to gigabytes), tags, and repeated keys (the first would be lost)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases (*{event.anchor}) are not allowed in a recipe, line {line}; write it out")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags ({event.tag}) are not allowed in a recipe, line {line}; remove it")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        line = node.start_mark.line + 1
        strange = [key for key in keys if not isinstance(key, str)]
        if strange:
            raise yaml.YAMLError(f"the key {strange[0]!r} is no word, in the section of line {line}")
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.YAMLError(
                f"the key {', '.join(sorted(repeated))} appears twice, in the section of line {line}; keep one"
            )
        return super().construct_mapping(node, deep)


def _shipped() -> str:
    """Names of the recipes that come with the package."""
    found = [path for folder in ("", "paper") for path in sorted((_RECIPES / folder).glob("*.yaml"))]
    return ", ".join(path.relative_to(_RECIPES).with_suffix("").as_posix() for path in found)


def setting(text: str) -> tuple[str, Any]:
    """Read "search.sparsity=0.3": a dotted key and a value in YAML.

    Raises:
        InputError: no key, no equals sign, or a value that is no YAML.
    """
    key, sign, value = text.partition("=")
    if not sign or not all(part.isidentifier() for part in key.split(".")):
        raise InputError(f"--set {text!r}: give a key of the recipe and a value, such as search.sparsity=0.3.")
    try:
        return key, yaml.load(value, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--set {text!r}: the value is no valid YAML: {error}") from error


def _with(content: Any, keys: Sequence[str], value: Any) -> Any:
    """Return nested dictionaries with one value replaced; what is no dictionary is left for the check to refuse."""
    if not keys:
        return value
    if content is not None and not isinstance(content, Mapping):
        return content
    own = dict(content or {})
    return {**own, keys[0]: _with(own.get(keys[0]), keys[1:], value)}


def _as_json(content: Any) -> bytes:
    return json.dumps(content if content is not None else {}, default=str).encode()


def _explain(problem: Any) -> str:
    """One line about one problem: where, what, and the nearest known key."""
    where = ".".join(str(part) for part in problem["loc"]) or "the recipe"
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in problem["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"{where}: unknown key; {suggest(str(problem['loc'][-1]), section.model_fields)}"
    if problem["type"] == "missing":
        return f"{where}: is required."
    if problem["type"] == "float_type" and (power := _POWER.fullmatch(str(problem["input"]))):
        digits, fraction, sign, exponent = power.groups()
        written = f"{digits}{fraction or '.0'}e{sign or '+'}{exponent}"
        return f"{where}={problem['input']!r}: is text in YAML, which wants a point and a sign; write {written}."
    return f"{where}={problem['input']!r}: {problem['msg']}."
