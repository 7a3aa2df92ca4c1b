"""The command line as a user meets it: exit codes, one line of JSON, quiet off a terminal, one message per error."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from diff_es import cli
from diff_es.errors import InputError
from diff_es.execution import Patience, RayWorkers
from run.tiny_run import Finished, tiny_settings

PROGRAM = "from diff_es.cli import main; main()"


def test_it_is_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "diff_es", "zoo", "list"], check=True, capture_output=True, text=True)
    assert "fashion-dit" in done.stdout


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line, which must be the only one."""
        (line,) = self.out.splitlines()
        return json.loads(line)


Command = Callable[..., Answer]


@pytest.fixture
def diff_es(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run one command in this process (importing torch takes seconds)."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["diff-es", *map(str, arguments)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


NAMES = ("run", "inspect", "generate", "evaluate", "bench", "verify", "reproduce", "env", "zoo")


@pytest.mark.parametrize("command", [(), *((name,) for name in NAMES), ("zoo", "list"), ("zoo", "train")], ids=" ".join)
def test_help(diff_es: Command, command: tuple[str, ...]) -> None:
    answer = diff_es(*command, "--help")
    assert answer.code == 0 and not answer.err
    assert f"Usage: diff-es {' '.join(command)}".strip() in answer.out
    if not command:
        assert {info.name or info.callback.__name__ for info in cli.app.registered_commands} == {*NAMES} - {"zoo"}
        for name in NAMES:
            assert f" {name} " in answer.out


def test_help_does_not_wait_for_torch() -> None:
    program = "import sys; sys.argv = ['diff-es', 'run', '--help']\nfrom diff_es.cli import app\ntry: app()\n"
    program += "except SystemExit: sys.exit({'torch', 'diffusers', 'matplotlib'} & set(sys.modules) != set())"
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("run",),
        ("run", "demo"),
        ("run", "demo", "-o", "x", "--no-such"),
        ("generate", "x", "--count", "0"),
        ("bench", "x", "--repeats", "0"),
        ("evaluate", "x", "-o", "x"),
        ("reproduce",),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(diff_es: Command, arguments: tuple[str, ...]) -> None:
    answer = diff_es(*arguments)
    assert answer.code == 2 and "Usage: diff-es" in answer.err and not answer.out


def test_inspect_accounts_for_every_parameter_and_mac(diff_es: Command, finished: Finished) -> None:
    seen = diff_es("inspect", finished.model, "--json").json
    assert seen["architecture"] == "DiTTransformer2DModel"
    parts = {part["name"]: part for part in seen["parts"]}
    assert sum(part["parameters"] for part in parts.values()) == seen["parameters"]
    assert sum(part["macs"] for part in parts.values()) == seen["macs"]
    # Two blocks of width 16 with four heads and an FFN of 64 channels, on 16 tokens.
    attention, ffn = parts["attention"], parts["ffn"]
    assert (attention["layers"], attention["groups"], ffn["layers"], ffn["groups"]) == (2, [4], 2, [64])
    assert attention["parameters"] == 2 * 4 * (16 * 16 + 16)
    assert ffn["parameters"] == 2 * (16 * 64 + 64 + 64 * 16 + 16)
    assert attention["macs"] == 2 * (4 * 16 * 16 * 16 + 2 * 16 * 16 * 16)
    assert ffn["macs"] == 2 * 2 * 16 * 16 * 64
    assert all(part["reason"] for name, part in parts.items() if name not in {"attention", "ffn"})


def test_inspect_as_a_table(diff_es: Command, finished: Finished) -> None:
    answer = diff_es("inspect", finished.model)
    assert answer.code == 0 and "attention" in answer.out and "DiTTransformer2DModel" in answer.out


def test_dry_run(diff_es: Command, finished: Finished, tmp_path: Path) -> None:
    arguments = ("run", finished.folder / "recipe.yaml", "-o", tmp_path / "run", "--dry-run")
    predicted = diff_es(*arguments, "--json").json
    times = {"search_seconds", "bank_seconds", "other_seconds", "seconds_per_image"}
    sizes = {"disk_bytes", "search_memory"}
    assert set(predicted) == {"evaluations", "calibration", "removed", "lost_to_rounding", *sizes, *times}
    assert predicted["search_memory"]["mode"] == "resident"
    assert all(predicted[name] > 0 for name in times)
    assert (predicted["calibration"]["sets"], predicted["calibration"]["live"]) == (3, 3)
    assert predicted["evaluations"] >= finished.result.search.evaluated
    assert str(predicted["evaluations"]) in diff_es(*arguments).out
    rounded = diff_es(*arguments, "--set", "stages=1", "--set", "search.sparsity=0.3")
    assert re.search(r"removed by the budget, at least *. 50\.0% of the groups", rounded.out)
    assert not (tmp_path / "run").exists()


def test_a_preset_takes_its_model_and_other_keys_from_the_command_line(
    diff_es: Command, finished: Finished, tmp_path: Path
) -> None:
    own = ("run", "fast", "-o", tmp_path / "run", "--dry-run", "--json")
    changes = ("--set", "sampler.steps=6", "--set", "search.generations=1", "--set", "pruning.levels=4")
    few = diff_es(*own, "--model", finished.model, *changes).json
    more = diff_es(*own, "--model", finished.model, *changes, "--set", "search.generations=3").json
    assert few["evaluations"] < more["evaluations"]
    refused = diff_es(*own, "--model", finished.model, "--set", "search.generation=3")
    assert refused.code == 1 and "did you mean 'generations'" in refused.err
    assert "model: is required" in diff_es(*own).err


def test_a_run_directory_may_have_the_name_of_its_recipe(
    diff_es: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    answer = diff_es("run", "demo", "--output", "demo", "--resume", "--dry-run", "--json")
    assert answer.code == 0 and answer.json["evaluations"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--worker-threads", 4), "worker_threads=4 is for workers, and there are none; give --workers too."),
        (("--workers", 1, "--worker-patience", 12), "worker_patience=12 is for workers, and there are none"),
        (("--workers", 2, "--worker-patience", 0), "worker_patience=0 must be more than 0 hours."),
        (("--workers", 2, "--worker-threads", 0), "worker_threads=0 must be at least 1."),
        (("--workers", 0), "workers=0 must be at least 1."),
        (("--ray-address", "ray://head:10001"), "ray_address='ray://head:10001': start the run on a machine"),
    ],
    ids=str,
)
def test_settings_of_workers_are_checked_first(
    diff_es: Command, finished: Finished, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    for dry in ((), ("--dry-run",)):
        answer = diff_es("run", finished.folder / "recipe.yaml", "-o", tmp_path / "run", *options, *dry)
        assert answer.code == 1 and message in answer.err
        assert not (tmp_path / "run").exists()


def test_a_dry_run_looks_for_ray(
    diff_es: Command, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diff_es.execution.ray_workers.find_spec", lambda name: None)
    answer = diff_es("run", finished.folder / "recipe.yaml", "-o", tmp_path / "run", "--workers", 2, "--dry-run")
    assert answer.code == 1 and "workers=2 need Ray" in answer.err


def test_the_command_in_the_report_asks_for_the_same_workers(
    diff_es: Command, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def noted(*_: object, **options: Any) -> Any:
        given.update(options)
        return finished.result

    monkeypatch.setattr("diff_es.run.compress", noted)
    pytest.importorskip("ray")
    options = ["--workers=3", "--worker-threads=2", "--worker-patience=1.5", "--ray-address=auto"]
    assert diff_es("run", finished.folder / "recipe.yaml", "-o", tmp_path / "run", *options).code == 0
    assert given["command"].split()[-4:] == options
    assert given["workers"] == RayWorkers(3, "auto", 2, Patience.of_hours(1.5))


def test_run_in_a_pipe_is_quiet_and_its_answer_is_json(finished: Finished, tmp_path: Path) -> None:
    """In a process of its own, resumed so that little is left to do."""
    folder = finished.copy(tmp_path / "run")
    (folder / "evaluation.json").unlink()
    arguments = ["run", str(folder / "recipe.yaml"), "-o", str(folder), "--resume", "--json"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True)
    bars = ("\r", "\x1b", "━", "%|", "it/s")
    assert not [mark for mark in bars if mark in done.stderr], done.stderr
    answer = Answer(0, done.stdout, done.stderr).json
    assert tuple(answer["levels"]) == finished.result.search.levels
    assert answer["fitness"] == finished.result.search.fitness
    assert answer["evaluation"]["schedules"][0]["name"] == "dense"
    assert Path(answer["report"]).exists()


def test_run_without_json_prints_the_comparison(diff_es: Command, finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "run [1]")
    answer = diff_es("run", folder / "recipe.yaml", "-o", folder, "--resume")
    assert answer.code == 0 and "dense" in answer.out and "[1]" in answer.out
    assert answer.err == ""


def test_run_says_first_what_calibration_and_bank_will_take(
    diff_es: Command, finished: Finished, tmp_path: Path
) -> None:
    folder = finished.copy(tmp_path / "run")
    shutil.rmtree(folder / "calibration")
    shutil.rmtree(folder / "bank")
    answer = diff_es("run", folder / "recipe.yaml", "-o", folder, "--resume", "--json")
    first, second = answer.err.replace("\n", " ").split("Bank of ")
    assert "Calibration of 3 sets: 3 while sampling once;" in first
    assert second.startswith("3 stages, 4 layers each: ") and "of solving" in second
    assert tuple(answer.json["levels"]) == finished.result.search.levels
    assert not logging.getLogger("diff_es").handlers, "the next command would say everything twice"


def test_generate_refuses_what_the_model_does_not_take(diff_es: Command, finished: Finished, tmp_path: Path) -> None:
    done = diff_es("generate", finished.folder / "pruned", "-o", tmp_path / "a", "--prompt", "a dog", "--device", "cpu")
    assert done.code == 1 and "prompts=['a dog'], but DiTPipeline makes images from class labels" in done.err
    assert not (tmp_path / "a").exists()


def test_generate_is_seeded_by_image(diff_es: Command, finished: Finished, tmp_path: Path) -> None:
    artefact = finished.folder / "pruned"
    first = diff_es("generate", artefact, "-o", tmp_path / "a", "--label", 3, "--label", 7, "--count", 3, "--seed", 5)
    assert first.code == 0 and f"3 images in {tmp_path / 'a'}" in first.out
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["label-3-seed-5.png", "label-3-seed-7.png", "label-7-seed-6.png"]
    diff_es("generate", artefact, "-o", tmp_path / "b", "--label", 7, "--count", 1, "--seed", 6, "--device", "cpu")
    with Image.open(tmp_path / "a" / names[2]) as one, Image.open(tmp_path / "b" / names[2]) as other:
        # Alone or in a batch of three: equal but for the rounding of matrix products.
        differences = [abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)]
    assert max(differences) <= 1


def test_bench_measures_dense_and_pruned(diff_es: Command, finished: Finished) -> None:
    artefact = finished.folder / "pruned"
    sizes = ("--batch-size", 2, "--batch-size", 1)
    seen = diff_es("bench", artefact, *sizes, "--repeats", 1, "--json").json
    costs = finished.result.evaluation.schedules[-1].cost
    assert (seen["pruned"]["macs"], seen["dense"]["macs_ratio"]) == (costs.macs, 1)
    timed = [(entry["batch_size"], entry["scope"]) for entry in seen["pruned"]["latency"]]
    assert timed == [(2, "denoiser"), (2, "pipeline"), (1, "denoiser"), (1, "pipeline")]
    answer = diff_es("bench", artefact, *sizes, "--repeats", 1)
    assert answer.code == 0 and "dense" in answer.out and "pruned" in answer.out


def test_verify(diff_es: Command, finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "run")
    answer = diff_es("verify", folder, "--json")
    assert answer.code == 0 and answer.json["intact"] is True
    for name in ("bank", "pruned"):
        assert answer.json["files"][name] == len(list((folder / name).iterdir()))
    assert diff_es("verify", folder / "pruned").code == diff_es("verify", folder / "bank").code == 0
    shard = folder / "bank" / "stage-02.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    broken = diff_es("verify", folder)
    assert broken.code == 1 and not broken.out
    assert broken.err.startswith("error: ") and "stage-02.safetensors is damaged" in broken.err
    assert broken.err.count("\n") == 1, "one line, however long the path"
    assert diff_es("verify", tmp_path).code == 1


def test_env(diff_es: Command) -> None:
    seen = diff_es("env", "--json").json
    assert seen["packages"]["diff-es"] and seen["device"] and seen["python"] == sys.version.split()[0]
    assert seen["python"] in diff_es("env").out


def test_zoo_list(diff_es: Command) -> None:
    models = diff_es("zoo", "list", "--json").json
    assert set(models) == {"fashion-vae", "fashion-dit", "fashion-sdxl", "fashion-flux", "fashion-classifier"}
    assert "fashion-dit" in diff_es("zoo", "list").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "no-such-recipe", "-o", "x"), ["no-such-recipe", "no such file"]),
        (("inspect", "zoo:fashion-dti"), ["fashion-dti", "did you mean 'fashion-dit'"]),
        (("inspect", "/nowhere/model"), ["/nowhere/model", "save_pretrained"]),
        (("verify", "/nowhere"), ["/nowhere", "manifest.json"]),
        (("generate", "/nowhere/pruned"), ["/nowhere/pruned", "manifest.json"]),
        (("zoo", "train", "fashion-x", "-o", "x"), ["fashion-x", "fashion-dit"]),
        (("bench", "/nowhere/pruned"), ["/nowhere/pruned", "manifest.json"]),
        (("evaluate", "zoo:fashion-dit", "--protocol", "fahsion", "-o", "x"), ["fahsion", "did you mean 'fashion'"]),
        (("reproduce", "table12"), ["table12", "did you mean 'table"]),
        (("reproduce", "table1", "--scale", "large"), ["large", "small"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_1(
    diff_es: Command, arguments: tuple[str, ...], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = diff_es(*arguments)
    assert answer.code == 1 and not answer.out
    assert answer.err.startswith("error: ") and "Traceback" not in answer.err
    for word in words:
        assert word in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", ["nan", "inf"])
def test_a_memory_limit_that_is_no_number_is_refused(diff_es: Command, finished: Finished, limit: str) -> None:
    answer = diff_es("generate", finished.folder / "pruned", "--memory-limit-gib", limit, "--device", "cpu")
    assert answer.code == 1 and answer.err == f"error: --memory-limit-gib={limit} must be a finite number.\n"


def test_a_table_records_the_whole_command(diff_es: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []

    def make(*_: Any, command: str, **__: Any) -> None:
        recorded.append(command)
        raise InputError("enough")

    monkeypatch.setattr("diff_es.reproduce.reproduce", make)
    monkeypatch.setattr("diff_es.run.judges.adm", lambda *_: None)
    diff_es("reproduce", "table1")
    files = ("--reference", "my images.npz", "--inception-weights", "w.pth")
    diff_es("reproduce", "table1", "--scale", "paper", "--model", "m", "--data", "d", *files)
    assert recorded == [
        "diff-es reproduce table1 --scale small",
        "diff-es reproduce table1 --scale paper --model=m --data=d '--reference=my images.npz' "
        "--inception-weights=w.pth",
    ]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_is_one_message_with_the_ways_out(
    diff_es: Command, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def app(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    answer = diff_es("run", "demo")
    assert answer.code == 1 and answer.err.startswith("error: Not enough memory.")
    assert answer.err.count("\n") == 1
    for section in ("search", "evaluation", "calibration"):
        assert f"{section}.batch_size" in answer.err
    assert "calibration.memory_limit_gib" in answer.err and "dtype" in answer.err


def test_an_error_that_nobody_expects_keeps_its_traceback(diff_es: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def app(**_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        diff_es("run", "demo")


def test_markup_in_an_error_is_printed_as_it_is(diff_es: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "[bold]r.yaml"
    recipe.write_text(json.dumps(tiny_settings("x", strange=1)))
    answer = diff_es("run", recipe, "-o", tmp_path / "run")
    assert answer.code == 1 and "[bold]r.yaml" in answer.err and "strange: unknown key" in answer.err


@pytest.mark.parametrize("unwanted", [True, False])
def test_colours_only_where_they_are_wanted(diff_es: Command, monkeypatch: pytest.MonkeyPatch, unwanted: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1") if unwanted else monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(cli, "_err", Console(stderr=True, force_terminal=True))
    answer = diff_es("verify", "/nowhere")
    assert answer.code == 1
    assert ("\x1b[31m" in answer.err) == (not unwanted)
