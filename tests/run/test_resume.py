"""Whatever part of a run is lost, resuming makes it again, equal to what was there."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diff_es.errors import ArtifactError, InputError
from diff_es.run import Session, compress
from diff_es.run.measure import DENSE, Bench, Contestant, evaluation_samples
from run.tiny_run import Finished, outcome, tiny_recipe


def remove(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def make_all(session: Session) -> None:
    """Every step but timing and reporting, which take longest."""
    assert session.bank.num_levels == session.sensitivity.levels[-1] == 4
    contestants = [Contestant(DENSE, "")]
    for allocation in ("uniform", "sensitivity"):
        schedule = session.schedule(allocation)
        contestants.append(Contestant(f"searched, {allocation}", "", schedule, session.bank))
    session.pruned()
    bench = Bench(session.pipe, session.sampler, None)
    samples = evaluation_samples(session, bench, tuple(contestants))
    for own in samples.values():
        bench.assess(own, samples[DENSE], session.evaluation_images())


@pytest.mark.parametrize(
    "lost",
    [
        ("calibration",),
        ("calibration", "bank"),
        ("calibration/stage-01.safetensors", "bank"),
        ("bank/manifest.json",),
        ("bank/manifest.json", "bank/stage-02.safetensors"),
        ("search/sensitivity.json",),
        ("search",),
        ("search/uniform", "search/sensitivity/result.json"),
        ("search/sensitivity/journal.jsonl", "search/sensitivity/result.json"),
        ("pruned",),
        ("evaluation",),
        ("evaluation/dense",),
        ("evaluation/searched-sensitivity/000000-000003.safetensors", "evaluation/searched-sensitivity/quality.json"),
        ("evaluation/searched-uniform/quality.json",),
        ("calibration", "bank", "search", "pruned", "evaluation"),
    ],
    ids="+".join,
)
def test_a_lost_step_is_made_again(finished: Finished, tmp_path: Path, lost: tuple[str, ...]) -> None:
    folder = finished.copy(tmp_path / "run")
    remove(folder, *lost)
    make_all(Session(finished.recipe, folder))
    assert outcome(folder) == outcome(finished.folder)


def test_a_cut_journal_goes_on(finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = finished.copy(tmp_path / "run")
    journal = folder / "search" / "sensitivity" / "journal.jsonl"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    remove(folder, "search/sensitivity/result.json")
    journal.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    Session(finished.recipe, folder).search("sensitivity")
    assert "cut off an incomplete last line" in caplog.text
    assert outcome(folder) == outcome(finished.folder)
    assert journal.read_bytes().startswith(b"".join(lines[:4])), "what was known is not written again"


def test_resuming_measures_and_reports_again_and_sweeps_up(finished: Finished, tmp_path: Path) -> None:
    """Files that a killed process was writing neither stay nor reach a manifest."""
    folder = finished.copy(tmp_path / "run")
    remove(folder, "bank/manifest.json", "pruned", "evaluation.json", "figures", "report.html")
    chunk = "000000-000003.safetensors"
    remove(folder, f"evaluation/dense/{chunk}", "evaluation/searched-uniform/quality.json")
    (folder / "evaluation" / "dense" / f".{chunk}.4711.tmp").write_bytes(b"half")
    (folder / "evaluation" / "dense" / ".000000-000003.lock").write_bytes(b"")
    (folder / "bank" / ".stage-01.safetensors.4711.tmp").write_bytes(b"half")
    (folder / ".pruned.4711.tmp").mkdir()
    (folder / ".pruned.4711.tmp" / ".stage-00.safetensors.4711.tmp").write_bytes(b"half")
    (folder / "notes.tmp").write_text("of the user")
    again = compress(finished.recipe, folder, resume=True)
    assert (folder / "notes.tmp").exists()
    remove(folder, "notes.tmp")
    assert outcome(folder) == outcome(finished.folder)
    assert not list(folder.rglob("*.tmp")) and not list((folder / "evaluation").rglob("*.lock"))
    assert again.search == finished.result.search
    assert {path.name for path in (folder / "figures").iterdir()} == {
        path.name for path in (finished.folder / "figures").iterdir()
    }


def test_a_finished_run_is_taken(finished: Finished) -> None:
    with pytest.raises(InputError, match="holds a run already; go on with it by --resume"):
        compress(finished.recipe, finished.folder)


def test_another_recipe_is_refused_and_named(finished: Finished) -> None:
    before = outcome(finished.folder)
    other = tiny_recipe(finished.model, seed=3, search={"sparsity": 0.25})
    with pytest.raises(InputError, match=r"seed is 0 there, 3 here; search.sparsity is 0.5 there, 0.25 here"):
        compress(other, finished.folder, resume=True)
    assert outcome(finished.folder) == before


@pytest.mark.parametrize(
    ("damaged", "lost", "named"),
    [
        ("bank/stage-01.safetensors", (), "stage-01"),
        ("pruned/stage-01.safetensors", (), "stage-01"),
        ("search/sensitivity/journal.jsonl", ("search/sensitivity/result.json", "pruned"), "journal"),
        ("evaluation/dense/000000-000003.safetensors", ("evaluation.json", "evaluation/dense/quality.json"), "000003"),
        ("evaluation/searched-uniform/quality.json", ("evaluation.json",), "quality.json"),
        ("evaluation/searched-uniform/settings.json", ("evaluation.json",), "made with other settings"),
    ],
)
def test_damage_is_an_error_and_not_repaired(
    finished: Finished, tmp_path: Path, damaged: str, lost: tuple[str, ...], named: str
) -> None:
    folder = finished.copy(tmp_path / "run")
    remove(folder, *lost)
    path = folder / damaged
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80  # no ASCII any more: JSON is broken wherever it falls
    path.write_bytes(content)
    with pytest.raises((ArtifactError, InputError), match=named):
        compress(finished.recipe, folder, resume=True)
    assert path.read_bytes() == content


def test_images_of_another_run_are_refused(finished: Finished, tmp_path: Path) -> None:
    """The folder of a contestant says what its images depend on: here its schedule differs."""
    folder = finished.copy(tmp_path / "run")
    remove(folder, "evaluation.json", "evaluation/searched-uniform")
    (folder / "evaluation" / "searched-sensitivity").rename(folder / "evaluation" / "searched-uniform")
    with pytest.raises(InputError, match=r"searched-uniform was made with other settings"):
        compress(finished.recipe, folder, resume=True)


def test_a_signal_may_come_while_progress_is_being_written() -> None:
    """Streams refuse a second writer; the run must not end with an error of theirs."""
    script = (
        "import io, os, signal, sys\n"
        "from diff_es.ending import end_on_signals\n"
        "sent = []\n"
        "class Interrupted(io.RawIOBase):\n"
        "    def writable(self): return True\n"
        "    def write(self, content):\n"
        "        if not sent: sent.append(1); os.kill(os.getpid(), signal.SIGINT)\n"
        "        return len(content)\n"
        "end_on_signals('; a run goes on with --resume')\n"
        "sys.stderr = io.TextIOWrapper(io.BufferedWriter(Interrupted()))\n"
        "sys.stderr.buffer.write(b'half done'); sys.stderr.buffer.flush()"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ended.returncode == 128 + signal.SIGINT
    assert "stopped; a run goes on with --resume" in ended.stderr


@pytest.mark.parametrize(("command", "advice"), [("run", "; a run goes on with --resume"), ("bench", "")])
def test_a_signal_that_an_extension_takes_for_an_error_ends_the_command_too(command: str, advice: str) -> None:
    """As safetensors does where a signal comes while torch makes the storage of a tensor."""
    script = (
        "import os, signal\n"
        "from diff_es import cli\n"
        "def app(**_):\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    except SystemExit: raise ValueError('could not determine the shape') from None\n"
        "cli.app = app; cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", script, command], check=False, capture_output=True, text=True)
    assert ended.returncode == 128 + signal.SIGINT
    assert ended.stderr == f"Interrupt: stopped{advice}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_which_then_goes_on(finished: Finished, tmp_path: Path, number: signal.Signals) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(finished.recipe.dump())
    folder = tmp_path / "run"
    program = "from diff_es.cli import main; main()"
    command = [sys.executable, "-c", program, "run", str(recipe), "--output", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = folder / "search" / "sensitivity" / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "stopped; a run goes on with --resume" in errors and "Traceback" not in errors
    assert not (folder / "pruned").exists() and not list(folder.rglob("*.tmp"))
    make_all(Session(finished.recipe, folder))
    straight = {name: kept for name, kept in outcome(finished.folder).items() if name.startswith(("search", "pruned"))}
    assert straight == {name: kept for name, kept in outcome(folder).items() if name.startswith(("search", "pruned"))}


@pytest.mark.parametrize(
    ("damaged", "lost"),
    [
        ("bank/settings.json", ()),
        ("bank/stage-00.safetensors", ()),
        ("calibration/stage-00.safetensors", ("bank",)),
        ("search/sensitivity.json", ()),
        ("search/sensitivity/result.json", ()),
        ("pruned/manifest.json", ()),
        ("pruned/stage-01.safetensors", ()),
        ("evaluation.json", ()),
    ],
)
def test_what_is_to_be_removed_is_said_and_made_again(
    finished: Finished, tmp_path: Path, damaged: str, lost: tuple[str, ...]
) -> None:
    folder = finished.copy(tmp_path / "run")
    remove(folder, *lost)
    path = folder / damaged
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"Remove (.*), and --resume makes it again\.") as caught:
        compress(finished.recipe, folder, resume=True)
    said = Path(str(caught.value).rpartition("Remove ")[2].partition(", and")[0])
    assert said.is_relative_to(folder) and path.is_relative_to(said)
    remove(folder, str(said.relative_to(folder)))
    assert compress(finished.recipe, folder, resume=True).search.levels == finished.result.search.levels
    for name, kept in outcome(finished.folder).items():
        if name not in {"report.html", "evaluation.json"}:
            assert outcome(folder)[name] == kept, name


def test_of_what_no_run_makes_again_nothing_is_to_be_removed(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "run")
    (folder / "search" / "sensitivity" / "result.json").unlink()
    journal = folder / "search" / "sensitivity" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"fitness", b"fitnes5", 1))
    with pytest.raises(ArtifactError, match=r"journal\.jsonl.*damaged") as caught:
        compress(finished.recipe, folder, resume=True)
    assert "Remove" not in str(caught.value)
