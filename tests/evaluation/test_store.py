"""Stored samples: killed, shared between processes, damaged; always the same samples, or an error."""

from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation.images import producer
from diff_es.evaluation.store import stored
from diff_es.sampling import Requests, SamplerConfig

REQUESTS = Requests.cycle(range(3), 20, 100)
SAMPLER = SamplerConfig(num_inference_steps=2, guidance_scale=2.0)


@dataclass(frozen=True)
class Settings:
    model: str
    steps: int = 2


def from_seeds(batch: Requests) -> dict[str, Tensor]:
    """Samples that depend on their own seed alone, exactly."""
    generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
    images = [torch.randint(0, 256, (4, 4, 3), generator=own, dtype=torch.uint8) for own in generators]
    return {
        "images": torch.stack(images),
        "latents": torch.stack([torch.randn(2, generator=own) for own in generators]),
    }


def fill(folder: Path, log: Path) -> None:
    """Takes a while, and says in a file what it made."""

    def slowly(batch: Requests) -> dict[str, Tensor]:
        time.sleep(0.05)
        with log.open("a") as file:
            print(*batch.seeds, file=file)
        return from_seeds(batch)

    stored(folder, REQUESTS, slowly, settings=Settings("tiny"), chunk=4, batch_size=2)


class Life:
    """A process that fills a folder. Forked: an import of diffusers takes longer than all the rest."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.log = log
        self.log.touch()
        self.process = multiprocessing.get_context("fork").Process(target=fill, args=(folder, log))
        self.process.start()

    @property
    def made(self) -> list[int]:
        return [int(seed) for seed in self.log.read_text().split()]

    def kill_after(self, count: int) -> None:
        while len(self.made) < count:
            time.sleep(0.001)
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL


def content(folder: Path) -> dict[str, bytes]:
    """Every file of the folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by one process without a stop."""
    folder = tmp_path_factory.mktemp("straight")
    stored(folder, REQUESTS, from_seeds, settings=Settings("tiny"), chunk=4)
    return folder


def test_samples_are_in_the_order_of_their_requests(tmp_path: Path) -> None:
    samples = stored(tmp_path / "new", REQUESTS, from_seeds, settings=Settings("tiny"), chunk=6, batch_size=4)
    expected = from_seeds(REQUESTS)
    assert (len(samples), samples.seeds) == (20, REQUESTS.seeds)
    assert [len(batch) for batch in samples.images()] == [6, 6, 6, 2]
    assert torch.equal(torch.cat(list(samples.images())), expected["images"])
    assert torch.equal(samples.tensor("latents"), expected["latents"])
    with pytest.raises(InputError, match=r"hold no 'depth'; they hold images, latents"):
        samples.tensor("depth")


def test_batches_are_read_when_asked_for(straight: Path, tmp_path: Path) -> None:
    samples = stored(tmp_path, REQUESTS, from_seeds, settings=Settings("tiny"), chunk=4)
    batches = samples.images()
    next(batches)
    samples.chunks[1].path.unlink()
    with pytest.raises(ArtifactError, match="000004-000007"):
        next(batches)


def test_what_is_there_is_not_made_again(straight: Path) -> None:
    before = content(straight)

    def never(batch: Requests) -> dict[str, Tensor]:
        raise AssertionError(f"made again: {batch}")

    samples = stored(straight, REQUESTS, never, settings=Settings("tiny"), chunk=4)
    assert content(straight) == before
    assert torch.equal(samples.tensor("images"), from_seeds(REQUESTS)["images"])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 64])
def test_the_batch_size_does_not_matter(straight: Path, tmp_path: Path, batch_size: int) -> None:
    stored(tmp_path, REQUESTS, from_seeds, settings=Settings("tiny"), chunk=4, batch_size=batch_size)
    assert content(tmp_path) == content(straight)


def test_killed_and_resumed_equals_uninterrupted(straight: Path, tmp_path: Path) -> None:
    folder, made = tmp_path / "images", 0
    for index in range(2):
        Life(folder, tmp_path / f"log {index}").kill_after(6)  # in the middle of its second chunk
        now = len(list(folder.glob("*.safetensors")))
        assert made < now < 5
        made = now
    assert (folder / ".000008-000011.lock").exists(), "the lock file of a killed process stays, and binds nobody"
    (folder / ".000008-000011.safetensors.4711.tmp").write_bytes(b"half of")
    fill(folder, tmp_path / "log")
    assert content(folder) == content(straight)


def test_two_processes_share_the_work(straight: Path, tmp_path: Path) -> None:
    pair = [Life(tmp_path / "images", tmp_path / f"log {index}") for index in range(2)]
    for life in pair:
        life.process.join()
        assert life.process.exitcode == 0 and life.made
    assert sorted(pair[0].made + pair[1].made) == list(REQUESTS.seeds), "each sample was made once"
    assert content(tmp_path / "images") == content(straight)


def test_a_chunk_of_a_process_that_dies_is_picked_up(straight: Path, tmp_path: Path) -> None:
    other, seen = Life(tmp_path / "images", tmp_path / "log"), list[int]()
    while not other.made:
        time.sleep(0.001)

    def beside(batch: Requests) -> dict[str, Tensor]:
        seen.extend(batch.seeds)
        if len(seen) == 4:  # the first chunk is the other's: this one begins with the second
            other.kill_after(2)
        return from_seeds(batch)

    stored(tmp_path / "images", REQUESTS, beside, settings=Settings("tiny"), chunk=4)
    assert seen[:4] == [104, 105, 106, 107] and set(seen) >= {100, 101, 102, 103}
    assert content(tmp_path / "images") == content(straight)


@pytest.mark.parametrize(
    ("settings", "chunk", "requests"),
    [
        (Settings("other"), 4, REQUESTS),
        (Settings("tiny", steps=3), 4, REQUESTS),
        (Settings("tiny"), 5, REQUESTS),
        (Settings("tiny"), 4, Requests.cycle(range(3), 8, 100)),
    ],
)
def test_a_folder_of_something_else_is_refused(
    straight: Path, settings: Settings, chunk: int, requests: Requests
) -> None:
    before = content(straight)
    with pytest.raises(InputError, match="choose another folder"):
        stored(straight, requests, from_seeds, settings=settings, chunk=chunk)
    assert {name: value for name, value in content(straight).items() if not name.startswith(".")} == before


def test_samples_of_other_seeds_are_refused(straight: Path) -> None:
    """Settings that forget the seeds do not make their samples interchangeable."""
    with pytest.raises(ArtifactError, match=r"000000-000003\.safetensors is damaged: it holds samples of other seeds"):
        stored(straight, Requests.cycle(range(3), 20, 0), from_seeds, settings=Settings("tiny"), chunk=4)


def damaged(straight: Path, folder: Path) -> Path:
    folder.mkdir()
    for name, value in content(straight).items():
        (folder / name).write_bytes(value)
    return folder / "000004-000007.safetensors"


@pytest.mark.parametrize("change", ["cut", "empty", "rows", "names", "checksum"])
def test_a_damaged_chunk_is_named(straight: Path, tmp_path: Path, change: str) -> None:
    path = damaged(straight, tmp_path / "copy")
    tensors = load_file(path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif change == "empty":
        path.write_bytes(b"")
    elif change == "rows":
        save_file({name: tensor if "sha256" in name else tensor[:3] for name, tensor in tensors.items()}, path)
    elif change == "names":
        save_file({"images": tensors["images"]}, path)
    else:
        save_file({name: tensor for name, tensor in tensors.items() if name != "latents/sha256"}, path)
    with pytest.raises(ArtifactError, match=r"000004-000007\.safetensors is damaged: .*; remove the file, and it will"):
        stored(path.parent, REQUESTS, from_seeds, settings=Settings("tiny"), chunk=4)
    path.unlink()
    stored(path.parent, REQUESTS, from_seeds, settings=Settings("tiny"), chunk=4)
    assert content(path.parent) == content(straight)


def test_a_flipped_bit_is_found_when_it_is_read(straight: Path, tmp_path: Path) -> None:
    path = damaged(straight, tmp_path / "copy")
    tensors = load_file(path)
    tensors["images"][0, 0, 0, 0] ^= 1
    save_file(tensors, path)
    samples = stored(path.parent, REQUESTS, from_seeds, settings=Settings("tiny"), chunk=4)
    assert samples.tensor("latents").shape == (20, 2)
    with pytest.raises(ArtifactError, match=r"000004-000007.*the sha256 of images differs"):
        list(samples.images())


def test_chunks_of_different_shape_are_refused(straight: Path, tmp_path: Path) -> None:
    path = damaged(straight, tmp_path / "copy")
    path.unlink()

    def larger(batch: Requests) -> dict[str, Tensor]:
        return {name: tensor.repeat_interleave(2, dim=1) for name, tensor in from_seeds(batch).items()}

    with pytest.raises(ArtifactError, match="remove what is wrong"):
        stored(path.parent, REQUESTS, larger, settings=Settings("tiny"), chunk=4)


@pytest.mark.parametrize("rows", [slice(1, None), slice(0, 0)])
def test_one_row_for_each_request(tmp_path: Path, rows: slice) -> None:
    def too_few(batch: Requests) -> dict[str, Tensor]:
        return {name: tensor[rows] for name, tensor in from_seeds(batch).items()}

    for produce in (too_few, lambda _: {}):
        with pytest.raises(InputError, match="one for each"):
            stored(tmp_path, REQUESTS, produce, settings=Settings("tiny"), chunk=4)
        assert not list(tmp_path.glob("*.safetensors"))


def test_nan_is_kept(tmp_path: Path) -> None:
    """What a broken sample means is for its reader to say."""

    def some_nan(batch: Requests) -> dict[str, Tensor]:
        return {"latents": torch.tensor([[torch.nan if seed % 7 == 0 else float(seed)] for seed in batch.seeds])}

    latents = stored(tmp_path, REQUESTS, some_nan, settings=Settings("tiny"), chunk=4).tensor("latents")
    assert latents.isnan().flatten().tolist() == [seed % 7 == 0 for seed in REQUESTS.seeds]


@pytest.mark.parametrize("sizes", [{"chunk": 0}, {"batch_size": -1}])
def test_sizes_below_one_are_refused(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        stored(tmp_path / "new", REQUESTS, from_seeds, settings=Settings("tiny"), **sizes)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="Cannot write"):
        stored(tmp_path / "file", REQUESTS, from_seeds, settings=Settings("tiny"))


@pytest.mark.parametrize("scheduler", [None, DDPMScheduler(clip_sample=False)], ids=["DDIM", "DDPM"])
def test_a_pipelines_images_do_not_depend_on_the_batch(
    tiny_pipe: DiTPipeline, tmp_path: Path, scheduler: object
) -> None:
    """Of an untrained model; batches of 3 and 7 differ by rounding, by one grey value at most."""
    pipe = DiTPipeline(tiny_pipe.transformer, tiny_pipe.vae, scheduler or tiny_pipe.scheduler)
    produce = producer(pipe, SAMPLER)
    sets = [
        stored(tmp_path / str(size), REQUESTS, produce, settings=Settings("tiny"), chunk=8, batch_size=size)
        for size in (3, 7)
    ]
    three, seven = (samples.tensor("images").int() for samples in sets)
    assert three.shape == (20, 16, 16, 3)
    assert (three - seven).abs().max() <= 1
    assert (three[0] - three[3]).abs().max() > 1, "same label, other seed"
