"""Facts about an architecture: what can be pruned, what a pruned layer must change, and how to call the denoiser.

Declarative records only. Nothing here decides what goes, and nothing changes a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import nn

from diff_es.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

LayerKind: TypeAlias = Literal["attention", "ffn", "block"]
#: Per-sample conditions of a denoiser call, e.g. {"class_labels": (N,)}; every tensor has N rows.
Conditions: TypeAlias = "Mapping[str, Tensor]"


@dataclass(frozen=True)
class GroupAttribute:
    """An integer attribute that must follow the number of kept groups (`heads`, `inner_dim`, …).

    Attributes:
        module: Path of the module that holds it, from the denoiser.
        name: Its name.
        per_group: Its value is per_group × kept groups.
    """

    module: str
    name: str
    per_group: int


@dataclass(frozen=True)
class Layer:
    """One attention module, one FFN, or one block, and the linears that its groups pass through.

    Attributes:
        name: Path of the module from the denoiser; it identifies the layer everywhere.
        kind: "attention" (groups are heads), "ffn" (channels) or "block" (the block is its one group).
        num_groups: Number of removable groups.
        group_size: Columns of the output projection that one group owns (head dimension; 1 for a channel).
        inputs: Paths of the linears whose rows produce the groups (q, k, v; the first FFN linear).
        output: Path of the linear whose columns consume the groups; empty for a block.
        halves: Stacked copies of the groups in the rows of `inputs` (2 for a gated FFN such as GEGLU).
        attributes: What else must follow the number of kept groups.
        absent: What the module's forward becomes when no group is left, as a function of (self, *args, **kwargs);
            None where a module without groups runs as it is.
    """

    name: str
    kind: LayerKind
    num_groups: int
    group_size: int = 1
    inputs: tuple[str, ...] = ()
    output: str = ""
    halves: int = 1
    attributes: tuple[GroupAttribute, ...] = ()
    absent: Callable[..., Any] | None = None


def plain_linear(denoiser: nn.Module, path: str) -> nn.Linear:
    """Return the linear at `path`, having checked that it is a plain one with its weights in memory.

    Raises:
        UnsupportedModelError: it is LoRA-wrapped, quantised or parametrised, or its weights are on the meta device.
    """
    linear: nn.Linear = denoiser.get_submodule(path)  # type: ignore[assignment]
    kind = type(linear)
    if kind.__module__ != "torch.nn.modules.linear":
        raise UnsupportedModelError(
            f"{path} is a {kind.__module__}.{kind.__name__}, not a plain linear: fuse LoRA layers, and prune "
            "before quantising."
        )
    if type(linear.weight) is not nn.Parameter:
        raise UnsupportedModelError(f"The weight of {path} is a {type(linear.weight).__name__}: prune, then quantise.")
    if linear.weight.is_meta:
        raise UnsupportedModelError(
            f"{path} has no weights in memory (sequential offload?): load the pipeline plainly, or use "
            "enable_model_cpu_offload()."
        )
    return linear


@dataclass(frozen=True)
class DenoiserSpec:
    """Everything the other rooms need to know about one denoiser class.

    Attributes:
        architecture: Name of the diffusers class.
        width_layers: denoiser → its attention and FFN layers, in the order in which they run.
        blocks: denoiser → its droppable blocks, in the order in which they run.
        timestep_argument: Name of the forward argument that holds the timestep.
        timestep_position: Its position where pipelines pass it positionally (0 = first after self).
        train_units: Converts the value that reaches the denoiser to train units (0…T).
        call: (latents (N, C, h, w), timesteps (N,), conditions) → keyword arguments of the denoiser's forward.
        unconditional: conditions → the conditions of the unconditional half of classifier-free guidance.
        conditions: (pipe, class labels or prompts) → conditions, checked for range.
        left_alone: (part, reason) for everything with weights that is never pruned.
    """

    architecture: str
    width_layers: Callable[[nn.Module], tuple[Layer, ...]]
    blocks: Callable[[nn.Module], tuple[Layer, ...]]
    timestep_argument: str
    timestep_position: int
    train_units: Callable[[float], float]
    call: Callable[[Tensor, Tensor, Conditions], dict[str, Any]]
    unconditional: Callable[[Conditions], Conditions]
    conditions: Callable[[Any, Any], Conditions]
    left_alone: tuple[tuple[str, str], ...]

    def layers(self, denoiser: nn.Module, *, blocks: bool) -> tuple[Layer, ...]:
        """Return the blocks (depth pruning) or the attention and FFN layers (width pruning)."""
        return self.blocks(denoiser) if blocks else self.width_layers(denoiser)

    def timestep(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """Read the timestep of a denoiser call, in train units.

        Raises:
            UnsupportedModelError: the call carries no timestep.
        """
        if self.timestep_argument in kwargs:
            value = kwargs[self.timestep_argument]
        elif len(args) > self.timestep_position:
            value = args[self.timestep_position]
        else:
            raise UnsupportedModelError(f"{self.architecture} was called without {self.timestep_argument!r}.")
        return self.train_units(float(value.max() if hasattr(value, "max") else value))
