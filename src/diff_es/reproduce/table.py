"""What a table of the paper consists of: rows that are recipes, and what the paper claims of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from diff_es.errors import InputError
from diff_es.registry import Registry

if TYPE_CHECKING:
    from diff_es.evaluation import Scope
    from diff_es.recipe import Recipe
    from diff_es.reproduce.scale import Scale


@dataclass(frozen=True)
class Row:
    """One row: a recipe, and what the paper measured of it.

    Attributes:
        name: Unique within the table; rows of different tables that have one recipe share all work.
        group: What the rows are sorted by (the pruner); rows of one group follow each other.
        recipe: Name of the shipped recipe that it starts from.
        changes: What the row changes in it, section by section.
        searched: Whether the row depends on the seed of the search; then it is made once for every seed of the scale.
        generations: Share of the scale's generations.
        probes: Share of the scale's probes.
        paper: The paper's values by the name of the metric ("FID"); empty for rows that the paper does not have.
        scale: The only scale that has the row ("paper" where weights cannot be shipped); empty for all.
    """

    name: str
    group: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    searched: bool = True
    generations: float = 1.0
    probes: float = 1.0
    paper: Mapping[str, float] = field(default_factory=dict)
    scale: str = ""

    def recipes(self, scale: Scale) -> tuple[Recipe, ...]:
        """The recipes at a scale: one per seed for a searched row, else one."""
        seeds = scale.seeds if self.searched else scale.seeds[:1]
        share = {"generations": self.generations, "probes": self.probes}
        return tuple(scale.recipe(self.recipe, seed=seed, **share, **self.changes) for seed in seeds)


@dataclass(frozen=True)
class Claim:
    """A comparison: one row is better than another.

    Attributes:
        better: Name of the better row; "dense" is the dense model, "stitched", "resident" and "gather" are settings.
        worse: Name of the other.
        metric: By which of the paper's metrics ("FID", "MACs"), by "latency, batch 8", "runtime" or "memory"; or by
            "SSIM", which is ours: it is what small searches maximise, and tells schedules apart with few images.
        paper: The paper's values of both, where the rows do not hold them.
    """

    better: str
    worse: str
    metric: str = "FID"
    paper: tuple[float, float] | None = None


@dataclass(frozen=True)
class Table:
    """One table or figure of the paper.

    Attributes:
        name: What the command line calls it ("table1").
        title: Heading.
        introduction: What it shows, for readers.
        rows: Its rows; the dense model is always measured beside them.
        claims: What the paper concludes.
        latency: Batch sizes at which latency is measured; empty where the table has none.
        scopes: What is timed: whole pipeline calls, denoiser calls, or both.
        memory: Name of the row whose memory is measured, stitched, resident and gathered; empty where none is.
        dense: The paper's values of the dense model.
    """

    name: str
    title: str
    introduction: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    latency: tuple[int, ...] = ()
    scopes: tuple[Scope, ...] = ("pipeline",)
    memory: str = ""
    dense: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise InputError(f"Table {self.name} has a row twice: {names}.")
        groups = [group for group, _ in groupby(row.group for row in self.rows)]
        if len(set(groups)) < len(groups):
            raise InputError(f"Table {self.name} has rows of one group apart: {groups}.")
        for claim in self.claims:
            if missing := {claim.better, claim.worse} - set(names) - SPECIAL:
                raise InputError(f"Table {self.name} claims something of {sorted(missing)}, which it lacks.")
        if self.memory and self.memory not in names:
            raise InputError(f"Table {self.name} has no row {self.memory!r} to measure the memory of.")

    def at(self, scale: str) -> Table:
        """Return the table with the rows that a scale has, and the claims that speak of these only."""
        rows = tuple(row for row in self.rows if row.scale in ("", scale))
        names = {row.name for row in rows} | SPECIAL
        claims = tuple(claim for claim in self.claims if {claim.better, claim.worse} <= names)
        return replace(self, rows=rows, claims=claims)


tables: Registry[Table] = Registry("table")

#: Rows that every table has, or that its memory is measured in.
SPECIAL = frozenset({"dense", "stitched", "resident", "gather"})
