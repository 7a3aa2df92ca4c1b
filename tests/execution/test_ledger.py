"""The rules of patience, without workers and without a clock."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.execution import Done, ExecutionError, Failed, Patience, Task
from diff_es.execution.ledger import Ledger

PLACES = 2


def task(name: str, kind: str = "candidate") -> Task[Any]:
    return Task(name, kind, print)


def ledger(**patience: Any) -> Ledger:
    """A ledger in whose account one task was done."""
    account = Ledger(Patience(**patience), PLACES)
    account.done(Done(task("first"), None, 1.0), 0)
    return account


@given(st.lists(st.floats(0.001, 1e4), min_size=3))
def test_a_task_hangs_at_a_multiple_of_the_median_of_its_kind(seconds: list[float]) -> None:
    account = Ledger(Patience(factor=4.0, least=30.0), PLACES)
    for index, taken in enumerate(seconds):
        account.done(Done(task(f"t{index}"), None, taken), 0)
        account.done(Done(task(f"other {index}", "images"), None, 1e6), 0)
    assert account.limit(task("next")) == max(30.0, 4.0 * statistics.median(seconds), 2 * max(seconds))


def test_before_three_are_done_the_limit_is_the_unknown_one() -> None:
    account = Ledger(Patience(unknown=500.0), PLACES)
    for index in range(2):
        assert account.limit(task("next")) == 500.0
        account.done(Done(task(f"t{index}"), None, 1.0), 0)
    assert account.limit(task("next")) == account.limit(None) == 500.0


def test_a_task_that_may_take_hours_has_them_until_it_is_known_better() -> None:
    account = Ledger(Patience(unknown=500.0, lengthy=9000.0, least=30.0), PLACES)
    lengthy = replace(task("calibration of stages (0, 1)", "calibration"), lengthy=True)
    assert account.limit(lengthy) == 9000.0
    for index in range(3):
        account.done(Done(replace(lengthy, name=f"t{index}"), None, 40.0), 0)
    assert account.limit(lengthy) == 400.0


def test_patience_of_hours_holds_for_everything() -> None:
    account = Ledger(Patience.of_hours(2), PLACES)
    assert {account.limit(None), account.limit(task("t")), account.limit(replace(task("t"), lengthy=True))} == {7200.0}
    for index in range(3):
        account.done(Done(task(f"t{index}"), None, 1.0), 0)
    assert account.limit(task("t")) == 7200.0


def test_a_task_is_given_up_at_the_second_death() -> None:
    account = ledger()
    assert account.died(task("poison"), 0, "signal 9")
    assert account.verdicts() == []
    assert not account.died(task("poison"), 1, "signal 11")
    assert account.verdicts() == [Failed(task("poison"), "signal 9; signal 11")]
    assert account.verdicts() == [], "each verdict comes once"


def test_a_reason_that_comes_twice_is_told_once() -> None:
    account = ledger()
    for place in range(2):
        account.died(task("poison"), place, "signal 9")
    assert account.verdicts(final=True) == [Failed(task("poison"), "signal 9")]


def test_deaths_of_different_tasks_do_not_add_up() -> None:
    account = ledger()
    assert all(account.died(task(f"t{index}"), index % PLACES, "signal 9") for index in range(5))


def test_no_verdict_before_anything_was_done() -> None:
    account = Ledger(Patience(), PLACES)
    for place in range(2):
        account.died(task("poison"), place, "signal 9")
    assert account.verdicts() == []
    account.done(Done(task("fine"), None, 1.0), 0)
    assert account.verdicts() == [Failed(task("poison"), "signal 9")]


def test_where_nothing_is_ever_done_the_run_ends() -> None:
    account = Ledger(Patience(), PLACES)
    for place in range(2):
        account.died(task("poison"), place, "signal 9")
    with pytest.raises(ExecutionError, match="nothing was ever done: signal 9"):
        account.verdicts(final=True)


@given(st.lists(st.sampled_from(["opening", "task", "done"]), max_size=30))
def test_only_deaths_in_a_row_end_the_run(events: list[str]) -> None:
    """As many as are put up with beyond one for each place: a machine that is lost takes all its workers."""
    account, in_a_row = Ledger(Patience(in_a_row=2), places=3), 0
    for index, event in enumerate(events):
        if event == "done":
            account.done(Done(task(f"t{index}"), None, 1.0), index % 3)
            in_a_row = 0
            continue
        in_a_row += 1
        dying = None if event == "opening" else task(f"t{index}")
        if in_a_row == 5:
            with pytest.raises(ExecutionError, match="5 workers died one after the other"):
                account.died(dying, index % 3, "signal 9")
            return
        account.died(dying, index % 3, "signal 9")


def test_the_tasks_of_a_run_that_is_over_are_forgotten() -> None:
    account = ledger()
    for place in range(2):
        account.died(task("poison"), place, "signal 9")
    account.died(task("unlucky"), 0, "signal 9")
    account.forget()
    assert account.verdicts(final=True) == []
    assert not account.withheld(task("unlucky"), 0)


def test_a_task_is_not_guilty_of_two_deaths_in_one_place() -> None:
    account = ledger()
    assert account.died(task("unlucky"), 1, "signal 9")
    assert account.withheld(task("unlucky"), 1)
    assert not account.withheld(task("unlucky"), 0)
    assert account.died(task("unlucky"), 1, "signal 9"), "a GPU may be broken"
    assert not account.died(task("unlucky"), 0, "signal 9")


def test_where_only_one_place_is_left_two_deaths_there_are_enough() -> None:
    account = ledger()
    account.leave(1)
    assert account.died(task("poison"), 0, "signal 9")
    assert not account.withheld(task("poison"), 0)
    assert not account.died(task("poison"), 0, "signal 9")


def test_with_more_deaths_than_places_a_task_goes_round() -> None:
    account = ledger(deaths=3)
    assert account.died(task("poison"), 0, "signal 9")
    assert account.died(task("poison"), 1, "signal 9")
    assert not account.withheld(task("poison"), 0)
    assert not account.died(task("poison"), 0, "signal 9")


def test_a_place_where_worker_after_worker_dies_is_not_used_any_more() -> None:
    account = Ledger(Patience(in_place=2), places=3)
    for index in range(2):
        account.died(task(f"t{index}"), 2, "signal 9")
        account.done(Done(task(f"fine {index}"), None, 1.0), 0)
        assert account.retire_if_dead(2) == (index == 1)
    assert not account.retire_if_dead(1)
    assert account.died(task("t0"), 1, "signal 9"), "what happened in a bad place is no evidence"
    assert not account.died(task("t0"), 0, "signal 9")


def test_what_was_done_in_a_place_clears_it() -> None:
    account = Ledger(Patience(in_place=2), places=2)
    for index in range(5):
        account.died(task(f"t{index}"), 0, "signal 9")
        account.done(Done(task(f"fine {index}"), None, 1.0), 0)
        assert not account.retire_if_dead(0)


def test_the_last_place_is_used_to_the_end() -> None:
    account = Ledger(Patience(in_place=1), places=2)
    for place, retires in ((0, True), (1, False)):
        account.died(task(f"t{place}"), place, "signal 9")
        assert account.retire_if_dead(place) == retires


@pytest.mark.parametrize(
    "wrong",
    [
        {"deaths": 0},
        {"factor": 1.0},
        {"least": 0.0},
        {"unknown": -1.0},
        {"lengthy": 0.0},
        {"in_a_row": 0},
        {"in_place": 0},
    ],
    ids=str,
)
def test_impatience_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"Patience.{next(iter(wrong))}="):
        Patience(**wrong)
