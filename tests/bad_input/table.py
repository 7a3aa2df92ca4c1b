"""The rows of the table, and the page that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bad_input.lab import Lab

REFUSED = "refused at once, nothing is written"


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        given: The bad input.
        happens: What it gets.
        message: As printed, with … for what differs from case to case; empty where the run goes on.
        provoke: Gives the input, and checks what the row says besides the message.
    """

    given: str
    happens: str
    message: str
    provoke: Callable[[Lab], object]

    @property
    def row(self) -> str:
        fence = "``" if "`" in self.message else "`"
        message = f"{fence}{self.message}{fence}" if self.message else "-"
        return f"| {self.given} | {self.happens} | {message} |"


CASES: list[Case] = []


def case(given: str, happens: str, message: str = "") -> Callable[[Callable[[Lab], object]], Callable[[Lab], object]]:
    def add(provoke: Callable[[Lab], object]) -> Callable[[Lab], object]:
        CASES.append(Case(given, happens, message, provoke))
        return provoke

    return add


def page() -> str:
    """The whole of docs/bad-input.md."""
    rows = "\n".join(case.row for case in CASES)
    return f"""# Bad input

Nothing is repaired silently. What cannot be used as given is one error, raised as `InputError` or `ArtifactError` in
Python and printed as one message with exit code 1 by `diff-es`. `…` stands for what differs from case to case (a path,
a hash, a longer list). Every row is a test in `tests/bad_input`, from which this page is written.

| input | what happens | message |
|---|---|---|
{rows}
"""
