"""What the report of a re-created paper table shows: ours beside the paper's, and which of its claims hold here.

The paper's numbers come from another model, data set and metric than ours: they stand beside each other, and what is
compared is who wins, never the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

from diff_es.errors import InputError
from diff_es.report.content import Gallery, Provenance, check_history

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diff_es.evaluation import Environment, Protocol
    from diff_es.report.content import FitnessPoint
    from diff_es.schedule import PruningSchedule

#: Lower and upper end of a 95 % interval.
Interval: TypeAlias = tuple[float, float]
Verdict: TypeAlias = Literal["holds", "does not hold", "cannot be told apart"]


def judged(advantage: float, interval: Interval | None) -> Verdict:
    """Say whether a claim holds: the interval of its advantage lies above, below or on both sides of 0.

    Args:
        advantage: How much better the one is that the claim calls better; negative where it is worse.
        interval: 95 % interval of the advantage; None where the values are exact.
    """
    low, high = interval or (advantage, advantage)
    # NaN compares false with everything: a measurement that broke tells nothing apart.
    if low > 0:
        return "holds"
    return "does not hold" if high < 0 else "cannot be told apart"


@dataclass(frozen=True)
class TableColumn:
    """One quantity of a table.

    Attributes:
        key: What `TableRow.values` calls it.
        title: Heading ("Fréchet distance on classifier features").
        higher_is_better: The direction; None where there is no better (a sparsity, a number of stages).
        form: Format of our values, as in `format(value, form)`.
        unit: Written after each value ("ms"); empty where there is none. A form that ends in % needs none.
        paper_title: What the paper's numbers in this column are ("FID, 50,000 images"); empty where it has none.
        interval_title: What the intervals in this column are ("95%", "p10–p90").
    """

    key: str
    title: str
    higher_is_better: bool | None = None
    form: str = ".3g"
    unit: str = ""
    paper_title: str = ""
    interval_title: str = "95%"

    def __post_init__(self) -> None:
        try:
            format(1.0, self.form)
        except ValueError as error:
            raise InputError(f"TableColumn.form={self.form!r} is no format of a number ({error}).") from error


@dataclass(frozen=True)
class Value:
    """One value of a table.

    Attributes:
        ours: Measured here (a mean or median over the search seeds); None where it was not, NaN where it broke.
        interval: Its 95 % interval over search seeds and samples, or what the column says; None where none was made.
        paper: The paper's number, in the unit of the paper; None where it has none.
        note: A few words below the value ("3 seeds", "slower than dense (0.84×)").
    """

    ours: float | None = None
    interval: Interval | None = None
    paper: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        check_interval("Value.interval", self.interval)


@dataclass(frozen=True)
class TableRow:
    """One method or setting.

    Attributes:
        name: Unique within its group ("Diff-ES").
        values: Key of a column → value; a column that is left out was not measured.
        group: Heading of the rows that belong together ("OBS, 50 %"); rows of a group follow each other.
        description: One sentence; may be empty.
        is_reference: Whether this row is what the others are compared with (the dense model); never marked as best.
    """

    name: str
    values: Mapping[str, Value]
    group: str = ""
    description: str = ""
    is_reference: bool = False


@dataclass(frozen=True)
class Claim:
    """A claim "A is better than B" of the paper, and whether it holds here.

    Attributes:
        sentence: The claim ("With OBS at 50 %, Diff-ES has a lower distance than MosaicDiff.").
        better: A, whom the claim calls better.
        worse: B.
        metric: What ours are measured by ("Fréchet distance on classifier features").
        ours: Our numbers for A and B.
        higher_is_better: Direction of `metric`.
        interval: 95 % bootstrap interval, over search seeds and samples, of `advantage`, or what `interval_title`
            says; None where our numbers are exact (counted, not sampled).
        paper: The paper's numbers for A and B; None where it only says so.
        paper_metric: What the paper's are measured by ("FID").
        examination: Why it does not hold or cannot be told apart; a claim that does not hold should have one.
        interval_title: What the interval is.
    """

    sentence: str
    better: str
    worse: str
    metric: str
    ours: tuple[float, float]
    higher_is_better: bool
    interval: Interval | None = None
    paper: tuple[float, float] | None = None
    paper_metric: str = ""
    examination: str = ""
    interval_title: str = "95%"

    def __post_init__(self) -> None:
        check_interval("Claim.interval", self.interval)

    @property
    def advantage(self) -> float:
        """How much better A is than B, in the unit of the metric; negative where B is better."""
        better, worse = self.ours
        return better - worse if self.higher_is_better else worse - better

    @property
    def verdict(self) -> Verdict:
        """Whether the claim holds."""
        return judged(self.advantage, self.interval)


@dataclass(frozen=True)
class PlotPoint:
    """One point: x is a number or the name of a category; y NaN where it is not known."""

    x: float | str
    y: float
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_interval("PlotPoint.interval", self.interval)


@dataclass(frozen=True)
class Series:
    """Points of one method or setting.

    Attributes:
        name: What the legend says.
        points: In order of x; at least one.
        from_paper: Whether they are the paper's: drawn hollow and dashed.
    """

    name: str
    points: tuple[PlotPoint, ...]
    from_paper: bool = False

    def __post_init__(self) -> None:
        if not self.points:
            raise InputError(f"Series {self.name!r} has no point; leave it out.")


@dataclass(frozen=True)
class Plot:
    """A plot of a table.

    Attributes:
        title: Heading.
        x_label: What x is.
        y_label: What y is, with its unit and direction ("SSIM to dense (higher is better)").
        series: At least one; x is a number everywhere or a category everywhere.
        kind: "lines" joins the points of a series; "bars" puts the series side by side, categories only.
        caption: What to see in it.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    kind: Literal["lines", "bars"] = "lines"
    caption: str = ""

    def __post_init__(self) -> None:
        kinds = {isinstance(point.x, str) for series in self.series for point in series.points}
        if len(kinds) != 1:
            raise InputError(f"Plot {self.title!r} needs series whose x are all numbers or all categories.")
        if self.kind == "bars" and kinds != {True}:
            raise InputError(f"Plot {self.title!r} is of bars, so its x must be names; use str(x) or kind='lines'.")


@dataclass(frozen=True, eq=False)
class TableReport:
    """Everything that the report of a re-created table shows.

    Attributes:
        title: Heading ("Table 1, on fashion-dit").
        introduction: What the table asks and how it was re-created, a paragraph each.
        columns: The quantities.
        rows: The methods or settings, groups together.
        protocol: How ours was measured.
        environment: Where ours was measured.
        claims: What the paper says, and whether it holds here.
        plots: Drawn below the table.
        schedules: Name → pruning schedule; all with one number of stages or not.
        history: Name of a search → its generations, in order.
        fitness: What the searches maximised.
        gallery: Images of the rows.
        provenance: Command, recipe, notes, licences, checksums.
    """

    title: str
    introduction: tuple[str, ...]
    columns: tuple[TableColumn, ...]
    rows: tuple[TableRow, ...]
    protocol: Protocol
    environment: Environment
    claims: tuple[Claim, ...] = ()
    plots: tuple[Plot, ...] = ()
    schedules: Mapping[str, PruningSchedule] = field(default_factory=dict)
    history: Mapping[str, tuple[FitnessPoint, ...]] = field(default_factory=dict)
    fitness: str = "fitness"
    gallery: Gallery = field(default_factory=Gallery)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        if not keys or not self.rows or len(set(keys)) < len(keys):
            raise InputError(f"TableReport needs rows, and columns with distinct keys; it has {keys}.")
        for row in self.rows:
            if unknown := [key for key in row.values if key not in keys]:
                raise InputError(f"TableReport row {row.name!r} has values of {unknown}; the columns are {keys}.")
        names = [(row.group, row.name) for row in self.rows]
        if len(set(names)) < len(names):
            raise InputError(f"TableReport.rows has a row twice: {names}.")
        groups = [row.group for row in self.rows]
        if sum(now != last for last, now in pairwise(groups)) + 1 > len(set(groups)):
            raise InputError(f"TableReport.rows of one group must follow each other, got {groups}.")
        check_history("TableReport.history", self.history)


def check_interval(name: str, interval: Interval | None) -> None:
    """Refuse an interval whose ends are swapped; NaN ends may be there.

    Raises:
        InputError: the lower end lies above the upper one.
    """
    if interval is not None and not any(map(math.isnan, interval)) and interval[0] > interval[1]:
        raise InputError(f"{name}={interval} must be (lower end, upper end).")
