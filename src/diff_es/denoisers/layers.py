"""What is removed, and what it owns: layers, families of like groups, and the rows and columns that each group has.

Declarative records, and the index arithmetic that follows from them. Nothing here decides what goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from diff_es.schedule import groups_removed

#: "parallel": attention and FFN side by side, whose outputs one linear adds up.
LayerKind: TypeAlias = Literal["attention", "ffn", "parallel", "block"]
GroupKind: TypeAlias = Literal["head", "channel", "block"]


@dataclass(frozen=True)
class Span:
    """Rows (or columns) of one weight that groups own: group g has `size` of them, from offset + g · size on.

    Attributes:
        path: Path of the module from the denoiser; of a norm, the entries of its weight are its rows.
        size: Rows or columns per group.
        offset: Where the span begins, in a weight that serves several (fused q, k, v; the halves of a gated FFN).
        scored: Whether pruners that look at weights read these rows (a norm's or a depthwise convolution's say
            nothing about what the group computes from its input).
    """

    path: str
    size: int = 1
    offset: int = 0
    scored: bool = True

    def of(self, groups: Tensor) -> Tensor:
        """Return the rows or columns of the given groups, in their order, int64, shape (groups × size,)."""
        within = torch.arange(self.size, device=groups.device)
        return (self.offset + groups[:, None] * self.size + within).flatten()


@dataclass(frozen=True)
class GroupAttribute:
    """An attribute that must follow the number of kept groups (`heads`, `inner_dim`, …).

    Attributes:
        module: Path of the module that holds it, from the denoiser.
        name: Its name.
        per_group: Its value is per_group × kept groups.
        as_shape: Whether that number is kept as a tuple of one (`normalized_shape` of a norm).
    """

    module: str
    name: str
    per_group: int
    as_shape: bool = False

    def value(self, groups: int) -> int | tuple[int]:
        """Return its value when so many groups are kept."""
        number = self.per_group * groups
        return (number,) if self.as_shape else number


@dataclass(frozen=True)
class Absent:
    """What becomes of a module's forward when no group of a family is left.

    Attributes:
        module: Path of the module.
        forward: A function of (self, *args, **kwargs).
    """

    module: str
    forward: Callable[..., Any]


@dataclass(frozen=True)
class GroupFamily:
    """Like groups of one layer: the heads of an attention, the channels of an FFN, or a block (its own one group).

    Attributes:
        kind: "head", "channel" or "block".
        count: Number of groups.
        rows: Where the groups are produced: q, k, v; the first FFN linear, twice where it is gated.
        columns: Where they are consumed: the output projections.
        attributes: What else must follow the number of kept groups.
        absent: What replaces a forward that cannot run without groups; None where it can.
        multiple: The number of kept groups is rounded up to a multiple of this, where some go and some stay: matrix
            units like round widths.
    """

    kind: GroupKind
    count: int
    rows: tuple[Span, ...] = ()
    columns: tuple[Span, ...] = ()
    attributes: tuple[GroupAttribute, ...] = ()
    absent: Absent | None = None
    multiple: int = 1

    def removed(self, num_levels: int) -> tuple[int, ...]:
        """Return how many groups each level removes, non-decreasing, from none to all of them."""
        kept = (self.count - removed for removed in groups_removed(self.count, num_levels))
        return tuple(self.count - min(self.count, -(-own // self.multiple) * self.multiple) for own in kept)


@dataclass(frozen=True)
class Layer:
    """One attention, one FFN, both in one (parallel), or one block.

    Groups are numbered through all families: those of the second follow those of the first. A level ℓ of H removes
    ℓ/H of *each* family, or a little less where widths are rounded.

    Attributes:
        name: Path of the module from the denoiser; it identifies the layer everywhere.
        kind: "attention", "ffn", "parallel" or "block".
        families: One, or two for a parallel layer (heads, channels).
    """

    name: str
    kind: LayerKind
    families: tuple[GroupFamily, ...]

    @property
    def num_groups(self) -> int:
        """Number of groups of all families."""
        return sum(family.count for family in self.families)

    @property
    def firsts(self) -> tuple[int, ...]:
        """Number of each family's first group."""
        return (0, *accumulate(family.count for family in self.families[:-1]))

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Paths of the modules whose rows produce the groups, each once."""
        return tuple(dict.fromkeys(span.path for family in self.families for span in family.rows))

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Paths of the linears whose columns consume the groups, each once; none for a block."""
        return tuple(dict.fromkeys(span.path for family in self.families for span in family.columns))

    @cached_property
    def scored(self) -> tuple[str, ...]:
        """Those of `inputs` that pruners score groups by."""
        return tuple(dict.fromkeys(span.path for family in self.families for span in family.rows if span.scored))

    def removed(self, num_levels: int) -> tuple[int, ...]:
        """Return how many groups each level removes, over all families."""
        counts = (family.removed(num_levels) for family in self.families)
        return tuple(sum(level) for level in zip(*counts, strict=True))

    def lost(self, removed: Sequence[int]) -> tuple[Counter[str], Counter[str]]:
        """Return how many rows each of `inputs` loses and how many columns each of `outputs`.

        Args:
            removed: Number of groups that leave, for each family.
        """
        rows, columns = Counter[str](), Counter[str]()
        for family, count in zip(self.families, removed, strict=True):
            for lost, spans in ((rows, family.rows), (columns, family.columns)):
                for span in spans:
                    lost[span.path] += span.size * count
        return rows, columns

    def in_multiples(self, multiple: int) -> Layer:
        """Return the layer with the number of kept channels rounded up to a multiple; heads and blocks stay free."""
        if all(own.multiple == multiple for own in self.families if own.kind == "channel"):
            return self
        families = (replace(own, multiple=multiple) if own.kind == "channel" else own for own in self.families)
        return replace(self, families=tuple(families))

    def split(self, groups: Tensor) -> tuple[Tensor, ...]:
        """Return the groups of each family, in their order, numbered from 0 within the family."""
        bounds = zip(self.firsts, self.families, strict=True)
        return tuple(groups[(groups >= first) & (groups < first + own.count)] - first for first, own in bounds)

    def kept_rows(self, path: str, kept: Tensor, length: int) -> Tensor:
        """Return the rows of a weight that stay when only `kept` groups do, ascending.

        Args:
            path: One of `inputs`.
            kept: Group numbers.
            length: Rows of the dense weight.
        """
        return self._kept(path, kept, length, lambda family: family.rows)

    def kept_columns(self, path: str, kept: Tensor, length: int) -> Tensor:
        """Return the columns of a weight that stay when only `kept` groups do, ascending.

        Args:
            path: One of `outputs`.
            kept: Group numbers.
            length: Columns of the dense weight.
        """
        return self._kept(path, kept, length, lambda family: family.columns)

    def _kept(self, path: str, kept: Tensor, length: int, spans: Callable[[GroupFamily], Iterable[Span]]) -> Tensor:
        """Every index but those of removed groups: what no group owns stays."""
        stays = torch.ones(length, dtype=torch.bool, device=kept.device)
        for family, own in zip(self.families, self.split(kept), strict=True):
            every = torch.arange(family.count, device=kept.device)
            for span in spans(family):
                if span.path == path:
                    stays[span.of(every)] = False
                    stays[span.of(own)] = True
        return stays.nonzero().flatten()


def block(path: str, forward: Callable[..., Any]) -> Layer:
    """Return a block as a layer: it is its own one group, and `forward` is what passing it by means."""
    return Layer(path, "block", (GroupFamily("block", 1, absent=Absent(path, forward)),))


def stack(denoiser: nn.Module, *names: str) -> tuple[str, ...]:
    """Return the paths of the blocks of one or more module lists, list after list."""
    return tuple(f"{name}.{i}" for name in names for i in range(len(denoiser.get_submodule(name))))  # type: ignore[arg-type]
