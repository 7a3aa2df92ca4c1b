"""Ray workers: one Ray, started once, that listens on this machine only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

import ray
import torch
from ray._private import worker as ray_driver

from diff_es.errors import InputError
from diff_es.execution import Done, ExecutionError, Failed, Patience, RayWorkers, Task
from diff_es.execution.processes import Process, is_gone
from diff_es.execution.ray_cluster import _own_handlers

from . import sockets
from .works import (
    Crash,
    Die,
    DieOpening,
    MakeList,
    MakeOneBroken,
    Raise,
    RaiseCoded,
    RaiseLock,
    Refuse,
    RefuseToOpen,
    ReturnLock,
    ReturnUnreadable,
    Square,
    UseGpu,
    WhoAmI,
)

pytestmark = pytest.mark.usefixtures("one_ray")


def squares(*numbers: int, seconds: float = 0.0) -> list[Task[Any]]:
    return [Task(f"square {n}", "square", Square(n, seconds)) for n in numbers]


def test_nothing_listens_beyond_this_machine() -> None:
    with RayWorkers(2).start(MakeList(), gpus=False) as workers:
        workers.wait_open()
        addresses = sockets.listening()
    assert addresses, "Ray does listen"
    assert all(address.startswith("127.") or address == "::1" for address in addresses), addresses


def test_usage_statistics_are_off() -> None:
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_every_worker_is_a_process_that_ends_with_the_context() -> None:
    with RayWorkers(2).start(MakeList(), gpus=False) as workers:
        workers.wait_open()
        ended = workers.run([Task(f"who {n}", "who", WhoAmI()) for n in range(2)])
        pids = {end.value for end in ended if isinstance(end, Done)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(map(is_gone, pids)), "latencies are measured next"


def test_faults_cost_their_own_task_at_most(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One worker dies once, one task always kills, one hangs; all others come once."""
    faults = [
        Task("mortal", "square", Die(once=tmp_path / "died")),
        Task("poison", "square", Die()),
        Task("endless", "square", Square(0, seconds=600)),
    ]
    fine = squares(*range(1, 9), seconds=0.05)
    with RayWorkers(2, patience=Patience(least=2.0)).start(MakeList(), gpus=False) as workers:
        ended = list(workers.run([*fine[:4], *faults, *fine[4:]]))
    assert sorted(end.task.name for end in ended) == sorted(task.name for task in (*faults, *fine)), "each once"
    values = {end.task.name: end.value for end in ended if isinstance(end, Done)}
    assert values == {"mortal": "survived", **{f"square {n}": n**2 for n in range(1, 9)}}
    reasons = {end.task.name: end.reason for end in ended if isinstance(end, Failed)}
    assert set(reasons) == {"poison", "endless"}
    assert "its worker process has died" in reasons["poison"]
    assert reasons["endless"].startswith("It did not end within 2 s (--worker-patience allows more).")
    assert capfd.readouterr().out == "", "results go to standard output, and nothing else"


def test_a_broken_gpu_costs_no_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RayWorkers(3).start(MakeOneBroken(tmp_path / "gpu"), gpus=False) as workers:
        generation = 0
        while workers.count == 3 and generation < 30:
            workers.wait_open()
            tasks = [Task(f"use {generation}.{n}", "use", UseGpu()) for n in range(4)]
            ended = list(workers.run(tasks))
            assert [end for end in ended if isinstance(end, Failed)] == []
            assert sorted(end.task.name for end in ended) == sorted(task.name for task in tasks)
            generation += 1
        assert workers.count == 2
        workers.wait_open()
    assert "3 workers died in a row in the same place (last on 127.0.0.1), which is not used any more" in caplog.text


def test_a_gpu_that_fails_without_killing_anybody_costs_no_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An uncorrectable memory error is an exception of Python, again and again, and no signal."""
    broken = UseGpu(torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nCompile with TORCH_USE…"))
    with RayWorkers(2).start(MakeOneBroken(tmp_path / "gpu"), gpus=False) as workers:
        generation = 0
        while workers.count == 2 and generation < 30:
            workers.wait_open()
            tasks = [Task(f"use {generation}.{n}", "use", broken) for n in range(10)]
            ended = list(workers.run(tasks))
            assert [end for end in ended if isinstance(end, Failed)] == []
            assert sorted(end.task.name for end in ended) == sorted(task.name for task in tasks)
            generation += 1
        assert workers.count == 1
        workers.wait_open()
    assert "3 workers died in a row in the same place" in caplog.text
    assert "AcceleratorError: CUDA error: uncorrectable ECC error encountered" in caplog.text
    assert "TORCH_USE" not in caplog.text


def test_a_task_that_fails_every_gpu_is_given_up_and_the_others_go_on() -> None:
    faults = {
        "assert": RuntimeError("CUDA error: device-side assert triggered"),
        "large": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB."),
    }
    poison = [Task(name, "square", Raise(error)) for name, error in faults.items()]
    with RayWorkers(2).start(MakeList(), gpus=False) as workers:
        list(workers.run([Task(f"who {n}", "who", WhoAmI()) for n in range(2)]))
        ended = list(workers.run([*poison, *squares(*range(1, 7), seconds=0.1)]))
    assert {end.task.name: end.value for end in ended if isinstance(end, Done)} == {
        f"square {n}": n**2 for n in range(1, 7)
    }
    reasons = {end.task.name: end.reason for end in ended if isinstance(end, Failed)}
    assert {name: reason.partition(" It last")[0] for name, reason in reasons.items()} == {
        name: f"{type(error).__name__}: {error}" for name, error in faults.items()
    }


def test_an_exception_is_raised_as_it_is_and_the_workers_go_on() -> None:
    with RayWorkers(1).start(MakeList(), gpus=False) as workers:
        with pytest.raises(InputError, match=r"^this cannot be used\.$") as raised:
            list(workers.run([Task("refused", "square", Refuse())]))
        assert "works.py" in str(raised.value.__cause__), "where it happened in the worker is kept"
        assert [end.value for end in workers.run(squares(3)) if isinstance(end, Done)] == [9]


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (RaiseCoded(), "no weights in /models"),
        (RaiseLock(), "_thread.lock"),
        (ReturnUnreadable(), "no number"),
        (ReturnLock(), "_thread.lock"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_sent_is_an_error_and_no_death(work: Any, told: str, caplog: pytest.LogCaptureFixture) -> None:
    with RayWorkers(1).start(MakeList(), gpus=False) as workers:
        with pytest.raises((ExecutionError, TypeError), match=told):
            list(workers.run([*squares(1), Task("silent", "square", work)]))
        assert "died" not in caplog.text
        assert [end.value for end in workers.run(squares(3)) if isinstance(end, Done)] == [9]


def test_results_of_a_run_that_was_left_do_not_come_later() -> None:
    with RayWorkers(2).start(MakeList(), gpus=False) as workers:
        left = workers.run([*squares(1), *squares(2, seconds=30)])
        next(left)
        left.close()
        assert [end.task.name for end in workers.run(squares(3))] == ["square 3"]


def test_a_verdict_of_a_run_that_failed_does_not_come_later() -> None:
    with RayWorkers(1).start(MakeList(), gpus=False) as workers:
        with pytest.raises(ExecutionError, match="nothing was ever done"):
            list(workers.run([Task("poison", "square", Die())]))
        assert [end.task.name for end in workers.run(squares(3))] == ["square 3"]


def test_a_worker_that_cannot_be_opened_says_why() -> None:
    with RayWorkers(1).start(RefuseToOpen(), gpus=False) as workers:
        for _ in range(2):
            with pytest.raises(InputError, match="model='nowhere' cannot be loaded"):
                list(workers.run(squares(1)))


def test_workers_that_die_while_they_are_opened_end_the_run() -> None:
    with (
        RayWorkers(1, patience=Patience(in_a_row=1)).start(DieOpening(), gpus=False) as workers,
        pytest.raises(ExecutionError, match=r"2 workers died one after the other.*out of memory on the device"),
    ):
        list(workers.run(squares(1)))


def test_a_crash_says_where() -> None:
    with RayWorkers(1).start(MakeList(), gpus=False) as workers:
        (failed,) = [
            end for end in workers.run([*squares(1), Task("crash", "square", Crash())]) if isinstance(end, Failed)
        ]
    assert "Fatal Python error: Segmentation fault / Current thread" in failed.reason
    assert "works.py" in failed.reason
    assert "Extension modules" not in failed.reason


@ray.remote(num_cpus=3)
class Neighbour:
    """Somebody else's work on the same cluster."""

    def there(self) -> bool:
        return True


def test_a_busy_cluster_is_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("diff_es.execution.ray_actors._SAY_WAITING_AFTER", 1.0)
    neighbour = Neighbour.remote()
    ray.get(neighbour.there.remote())
    with RayWorkers(2, patience=Patience(unknown=3.0)).start(MakeList(), gpus=False) as workers:
        ended = list(workers.run(squares(*range(1, 8), seconds=0.7)))
        assert [end for end in ended if isinstance(end, Failed)] == []
        assert "Waiting for Ray to give 1 more CPU to workers; it has 4, 0 of them free." in caplog.text
        ray.kill(neighbour)
        workers.wait_open()
    assert "died" not in caplog.text


def test_a_cluster_that_has_lost_its_machines_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diff_es.execution.ray_actors._SAY_WAITING_AFTER", 1.0)
    neighbour = Neighbour.options(num_cpus=4).remote()
    ray.get(neighbour.there.remote())
    with RayWorkers(1).start(MakeList(), gpus=False) as workers:
        monkeypatch.setattr(ray, "cluster_resources", dict)
        with pytest.raises(ExecutionError, match="No worker is left, and Ray has 0 × CPU"):
            list(workers.run(squares(1)))
    ray.kill(neighbour)


def test_a_stopped_process_is_ended_too() -> None:
    """A process that is stopped does not hear Ray."""
    with RayWorkers(1, patience=Patience(least=1.0)).start(MakeList(), gpus=False) as workers:
        (first,) = workers.run([Task("who", "who", WhoAmI())])
        assert isinstance(first, Done)
        list(workers.run(squares(1, 2, 3)))
        os.kill(first.value, signal.SIGSTOP)
        (end,) = workers.run(squares(4))
    assert isinstance(end, Done)
    assert is_gone(first.value)


def test_too_many_workers_for_the_machine() -> None:
    with (
        pytest.raises(InputError, match="workers=3 need 6 × CPU, and Ray has 4; lower workers"),
        RayWorkers(3, threads=2).start(MakeList(), gpus=False),
    ):
        pass


def test_a_gpu_for_each_where_there_is_none() -> None:
    with (
        pytest.raises(InputError, match="workers=2 need 2 × GPU, and Ray has 0; lower workers"),
        RayWorkers(2).start(MakeList(), gpus=True),
    ):
        pass


def test_ray_is_left_as_it_was() -> None:
    """Signals end the program in its own way, and a Ray that was there stays."""
    before = signal.getsignal(signal.SIGTERM)
    with RayWorkers(1).start(MakeList(), gpus=False):
        assert signal.getsignal(signal.SIGTERM) is before
    assert ray.is_initialized()
    assert ray_driver.print_to_stdstream.__module__ == "diff_es.execution.ray_cluster"


def test_a_handler_of_another_language_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with _own_handlers():
        pass


def test_a_process_of_another_user_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not Process(os.getpid(), "here", "", "").kill("here")(), "it is seen to live on"


_PROGRAM = """
import sys
from diff_es import cli
from diff_es.execution import RayWorkers, Task
from execution.works import MakeList, Square, WhoAmI

def work(**_):
    with RayWorkers(2).start(MakeList(), gpus=False) as workers:
        for end in workers.run([Task(f"who {n}", "who", WhoAmI()) for n in range(2)]):
            print(end.value, flush=True)
        list(workers.run([Task("endless", "square", Square(0, 600.0))]))

cli.app = work
cli.main()
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow)],
    ids=["TERM", "KILL"],
)
def test_a_program_that_is_ended_takes_its_workers_with_it(number: int, code: int) -> None:
    command = [sys.executable, "-c", _PROGRAM]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        workers = [int(program.stdout.readline()) for _ in range(2)]
        program.send_signal(number)
        assert program.wait(timeout=60) == code
    patience = time.monotonic() + 30
    while not all(map(is_gone, workers)):
        assert time.monotonic() < patience
        time.sleep(0.05)
