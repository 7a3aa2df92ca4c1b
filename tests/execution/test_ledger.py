"""The rules of patience, without workers and without a clock."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.execution import Done, ExecutionError, Failed, Patience, Task
from diff_es.execution.ledger import Ledger


def task(name: str, kind: str = "candidate") -> Task[Any]:
    return Task(name, kind, print)


def ledger(**patience: Any) -> Ledger:
    """A ledger in whose account one task was done."""
    opened = Ledger(Patience(**patience))
    opened.done(Done(task("first"), None, 1.0))
    return opened


@given(st.lists(st.floats(0.001, 1e4), min_size=3))
def test_a_task_hangs_at_a_multiple_of_the_median_of_its_kind(seconds: list[float]) -> None:
    account = Ledger(Patience(factor=4.0, least=30.0))
    for index, taken in enumerate(seconds):
        account.done(Done(task(f"t{index}"), None, taken))
        account.done(Done(task(f"other {index}", "images"), None, 1e6))
    assert account.limit("candidate") == max(30.0, 4.0 * statistics.median(seconds), 2 * max(seconds))


def test_before_three_are_done_the_limit_is_the_unknown_one() -> None:
    account = Ledger(Patience(unknown=500.0))
    for index in range(2):
        assert account.limit("candidate") == 500.0
        account.done(Done(task(f"t{index}"), None, 1.0))
    assert account.limit("candidate") == 500.0


def test_a_task_is_given_up_at_the_second_death() -> None:
    account = ledger()
    assert account.died(task("poison"), "signal 9")
    assert account.verdicts() == []
    assert not account.died(task("poison"), "signal 11")
    assert account.verdicts() == [Failed(task("poison"), "signal 9; signal 11")]
    assert account.verdicts() == [], "each verdict comes once"


def test_a_reason_that_comes_twice_is_told_once() -> None:
    account = ledger()
    for _ in range(2):
        account.died(task("poison"), "signal 9")
    assert account.verdicts(final=True) == [Failed(task("poison"), "signal 9")]


def test_deaths_of_different_tasks_do_not_add_up() -> None:
    account = ledger()
    assert all(account.died(task(f"t{index}"), "signal 9") for index in range(5))


def test_no_verdict_before_anything_was_done() -> None:
    account = Ledger(Patience())
    for _ in range(2):
        account.died(task("poison"), "signal 9")
    assert account.verdicts() == []
    account.done(Done(task("fine"), None, 1.0))
    assert account.verdicts() == [Failed(task("poison"), "signal 9")]


def test_where_nothing_is_ever_done_the_run_ends() -> None:
    account = Ledger(Patience())
    for _ in range(2):
        account.died(task("poison"), "signal 9")
    with pytest.raises(ExecutionError, match="nothing was ever done: signal 9"):
        account.verdicts(final=True)


@given(st.lists(st.sampled_from(["opening", "task", "done"]), max_size=30))
def test_only_deaths_in_a_row_end_the_run(events: list[str]) -> None:
    account, in_a_row = Ledger(Patience(in_a_row=4)), 0
    for index, event in enumerate(events):
        if event == "done":
            account.done(Done(task(f"t{index}"), None, 1.0))
            in_a_row = 0
            continue
        in_a_row += 1
        dying = None if event == "opening" else task(f"t{index}")
        if in_a_row == 4:
            with pytest.raises(ExecutionError, match="4 workers died one after the other"):
                account.died(dying, "signal 9")
            return
        account.died(dying, "signal 9")


@pytest.mark.parametrize(
    "wrong", [{"deaths": 0}, {"factor": 1.0}, {"least": 0.0}, {"unknown": -1.0}, {"in_a_row": 0}], ids=str
)
def test_impatience_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"Patience.{next(iter(wrong))}="):
        Patience(**wrong)
