"""The result of a table: what was measured of each row, and which of the paper's claims hold here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diff_es.artifacts import read_record, write_record
from diff_es.evaluation import Cost, Environment, Measurement, MemoryRecord, Protocol
from diff_es.report import Verdict, judged
from diff_es.schedule import Levels

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Effort:
    """What it took to find one schedule.

    Attributes:
        seed: Of the search and its probes.
        levels: The schedule, stage 0 first.
        fitness: Its fitness on the search's own probes.
        evaluated: Different schedules that were scored.
        denoiser_calls: Denoiser calls that were run for them.
        replayed_calls: Denoiser calls that were answered from memory instead.
        search_seconds: Time for them.
        bank_seconds: Time for calibration, bank and sensitivity, which rows may share; None where it was made in
            several goes.
    """

    seed: int
    levels: Levels
    fitness: float
    evaluated: int
    denoiser_calls: int
    replayed_calls: int
    search_seconds: float
    bank_seconds: float | None


@dataclass(frozen=True)
class RowResult:
    """What was measured of one row.

    Attributes:
        name: The row's.
        group: What rows are sorted by.
        sparsity: The budget; 0 for the dense model.
        quality: Means over the searches; intervals over searches and images.
        cost: Of the first search's schedule.
        searches: One per seed; empty for the dense model.
        paper: The paper's values by the name of its metric.
    """

    name: str
    group: str
    sparsity: float
    quality: tuple[Measurement, ...]
    cost: Cost
    searches: tuple[Effort, ...]
    paper: dict[str, float]

    def measurement(self, metric: str) -> Measurement | None:
        """Return a measurement by its metric, None where it was not made."""
        return next((own for own in self.quality if own.metric == metric), None)


@dataclass(frozen=True)
class ClaimResult:
    """A claim of the paper, and whether it holds here.

    Attributes:
        better: The row that the paper calls better.
        worse: The other.
        paper_metric: What the paper compares them by; empty where the comparison is ours.
        metric: What they are compared by here.
        higher_is_better: Its direction.
        ours: Values of both.
        paper: The paper's values of both; None where it has none.
        interval: 95 % interval of how much better `better` is, in units of `metric`; None where nothing is drawn.
        examination: What explains a claim that does not hold or cannot be told apart.
    """

    better: str
    worse: str
    paper_metric: str
    metric: str
    higher_is_better: bool
    ours: tuple[float, float]
    paper: tuple[float, float] | None
    interval: tuple[float, float] | None
    examination: str = ""

    @property
    def advantage(self) -> float:
        """How much better `better` is, in units of `metric`; negative where it is worse."""
        better, worse = self.ours
        return better - worse if self.higher_is_better else worse - better

    @property
    def verdict(self) -> Verdict:
        """Whether the claim holds."""
        return judged(self.advantage, self.interval)


@dataclass(frozen=True)
class TableResult:
    """The result of a table.

    Attributes:
        table: Its name.
        scale: The name of the scale.
        rows: The dense model first.
        claims: The paper's claims.
        memory: Setting → memory of the row that the table names; empty where it names none.
        protocol: How it was measured.
        environment: Where costs and times were measured.
        command: The command line.
        format: Version of this record.
    """

    table: str
    scale: str
    rows: tuple[RowResult, ...]
    claims: tuple[ClaimResult, ...]
    memory: dict[str, MemoryRecord]
    protocol: Protocol
    environment: Environment
    command: str
    format: Literal[1] = 1

    def row(self, name: str) -> RowResult:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def write(self, path: Path) -> None:
        """Write the record, atomically."""
        write_record(path, self)

    @classmethod
    def read(cls, path: Path) -> TableResult:
        """Read the record.

        Raises:
            ArtifactError: the file is missing, damaged or of another format.
        """
        return read_record(path, cls)
