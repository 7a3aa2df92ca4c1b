"""What the contract suite must know of a denoiser family: a tiny random model, a call of it, and what is expected."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diff_es.denoisers import Call, each_tensor

#: The groups of one layer: for each of its families "head" or "channel", and how many.
Groups: TypeAlias = tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class Family:
    """One denoiser family, tiny.

    Attributes:
        name: As the documents call it.
        build: Makes the model; its weights are overwritten afterwards.
        call: Train timestep → the arguments that the family's own pipeline passes there, with seeded tensors.
        groups: Expected groups of every layer by path, in the order in which they run.
        passes: Prefix of block paths → names of the inputs that such a block, skipped, returns.
        positional: How many arguments the pipeline passes by position (the timestep among them, where more than one).
        smaller: (model, path, kept heads) → a new attention module of that many heads; for families whose norm runs
            across the heads, where a removed head changes the others.
        linear_attention: Last names of attention modules that are linear in the tokens.
        on_meta: Whether diffusers' own forward runs on the meta device (Lumina2's reads values of its mask).
        whole_graph: Whether diffusers' own forward can be compiled as one graph.
    """

    name: str
    build: Callable[[], nn.Module]
    call: Callable[[float], Call]
    groups: Mapping[str, Groups]
    passes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"": ("hidden_states",)})
    positional: int = 0
    smaller: Callable[[Any, str, int], nn.Module] | None = None
    linear_attention: tuple[str, ...] = ()
    on_meta: bool = True
    whole_graph: bool = True

    @property
    def masks(self) -> bool:
        """Whether removing a head is the same as zeroing its columns."""
        return self.smaller is None

    def model(self) -> Any:
        """Return a fresh copy of the model; every copy has the same weights."""
        return copy.deepcopy(_dense(self))

    def pipe(self) -> Any:
        """Return a pipeline that holds a fresh copy of the model."""
        return pipeline_of(self.model())

    def returned(self, path: str) -> tuple[str, ...]:
        """Return the names of the inputs that the block at `path`, skipped, returns."""
        prefix = max((known for known in self.passes if path.startswith(known)), key=len)
        return self.passes[prefix]


class OnlyDenoiser(DiffusionPipeline):  # type: ignore[misc]
    """The part of a pipeline that pruning and routing look at."""

    model_cpu_offload_seq = "transformer->unet"
    _optional_components = ("transformer", "unet")

    def __init__(self, scheduler: Any, transformer: Any = None, unet: Any = None) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler, transformer=transformer, unet=unet)


def pipeline_of(denoiser: nn.Module) -> OnlyDenoiser:
    name = "unet" if isinstance(denoiser, UNet2DConditionModel) else "transformer"
    return OnlyDenoiser(DDIMScheduler(), **{name: denoiser})


@cache
def _dense(family: Family) -> nn.Module:
    torch.manual_seed(0)
    return _randomised(family.build())


def _randomised(model: nn.Module) -> nn.Module:
    """Give every parameter a value that counts: no norm of ones, no gate or bias of zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * values)
            elif parameter.ndim == 1 or not parameter.any() or not parameter.isfinite().all():
                parameter.copy_(0.3 * values)
    return model.eval().requires_grad_(False)


def heads(count: int) -> Groups:
    return (("head", count),)


def channels(count: int) -> Groups:
    return (("channel", count),)


def each(paths: Iterable[str], layers: Mapping[str, Groups]) -> dict[str, Groups]:
    """The same layers in every block."""
    return {f"{path}.{name}".removesuffix("."): groups for path in paths for name, groups in layers.items()}


def noise(*shape: int, seed: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(int(1000 * seed)))


def cast(call: Call, dtype: torch.dtype) -> Call:
    """A call in another floating-point type, as a pipeline of that type passes it."""
    cast_: Call = each_tensor(call, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return cast_


def output(model: Any, call: Call) -> Tensor:
    """The prediction of one call."""
    with torch.no_grad():
        result = model(**call, return_dict=False)[0]
    return torch.stack(list(result)) if isinstance(result, list) else result


class KeepDoubles(TorchFunctionMode):
    """Leave float64 as it is where a forward asks for float32 (rotary embeddings, some norms).

    A difference in the last bit of a double may become one in the last bit of a float there, which would hide whether
    two models are the same in float64.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        narrowing = func is Tensor.float or (func is Tensor.to and torch.float32 in args)
        if narrowing and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))
