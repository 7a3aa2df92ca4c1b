"""Quality networks: our loading around piq's and pyiqa's own code, with randomly initialised weights.

No trained weights are read here: the numbers say nothing about images, only that both ways compute the same.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from diff_es.artifacts import sha256
from diff_es.errors import InputError
from diff_es.metrics import metrics, use_weights
from diff_es.metrics.no_reference import clip_iqa, topiq
from diff_es.metrics.no_reference.network import QualityNetwork, enlarge

NAMES = ("clip_iqa", "topiq")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is loaded, no cache is filled, and the network is off."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for network in (clip_iqa.CLIP_IQA, topiq.TOPIQ):
        monkeypatch.setattr(network, "_loaded", None)
    topiq._say_licence.cache_clear()
    yield
    for name in NAMES:
        use_weights(name, None)


def images(size: int = 224, count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def clip_network() -> nn.Module:
    """piq's CLIP with one block per layer, randomly initialised; the residual branches count."""
    clip = pytest.importorskip("piq").clip_iqa.clip
    torch.manual_seed(0)
    network = clip.CLIP(32, 224, (1, 1, 1, 1), 4, None, 77, 49408, 64, 1, 1).half().float().eval()
    for name, parameter in network.named_parameters():
        if "bn" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network.half().float()  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def random_clip(clip_network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "random.safetensors"
    safetensors.torch.save_file(clip_network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def script_clip(clip_network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in the form in which OpenAI publishes them."""
    path = tmp_path_factory.mktemp("script") / "RN50.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(clip_network, (images(64, 1), clip_iqa.tokens()), check_trace=False)
        torch.jit.save(traced, path)
    return path


@pytest.fixture(scope="session")
def random_topiq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pyiqa = pytest.importorskip("pyiqa")
    torch.manual_seed(1)
    metric = pyiqa.create_metric("topiq_nr", device=torch.device("cpu"), pretrained=False, backbone_pretrain=False)
    path = tmp_path_factory.mktemp("topiq") / "random.pth"
    torch.save({"params": metric.net.state_dict()}, path)
    return path


def piqs_own(script: Path) -> nn.Module:
    """piq.CLIPIQA as its users call it, with its cache filled by hand."""
    piq = pytest.importorskip("piq")
    cache = Path("~/.cache/clip").expanduser()
    cache.mkdir(parents=True)
    (cache / "RN50.pt").write_bytes(script.read_bytes())
    torch.save(clip_iqa.tokens(), cache / "clipiqa_tokens.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return piq.CLIPIQA().eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [224, 256])
def test_clip_iqa_with_random_weights_is_what_piq_computes(random_clip: Path, script_clip: Path, size: int) -> None:
    expected = piqs_own(script_clip)(images(size, 3)).reshape(-1)
    use_weights("clip_iqa", random_clip)
    found = metrics["clip_iqa"](images(size, 3))
    assert len(set(expected.tolist())) == 3 and 0 < float(expected.min()) < float(expected.max()) < 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_openais_archive_is_read_if_its_hash_is_right(
    random_clip: Path, script_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights in a TorchScript archive, whose hash stands in for OpenAI's."""
    use_weights("clip_iqa", random_clip)
    expected = metrics["clip_iqa"](images())
    use_weights("clip_iqa", script_clip)
    with pytest.raises(InputError, match=r"not OpenAI's RN50.pt \(its sha256 is [0-9a-f]{64}"):
        metrics["clip_iqa"](images())
    monkeypatch.setattr(clip_iqa, "RN50_SHA256", sha256(script_clip))
    torch.testing.assert_close(metrics["clip_iqa"](images()), expected)


def test_the_tokens_are_those_of_clips_own_tokeniser() -> None:
    """The two prompts in OpenAI's byte-pair encoding; its tokeniser is read without its package's broken __init__."""
    package = importlib.util.find_spec("clip")
    if package is None or package.origin is None:
        pytest.skip("openai-clip is not installed (pyiqa brings it)")
    spec = importlib.util.spec_from_file_location("tokeniser", Path(package.origin).with_name("simple_tokenizer.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bpe = module.SimpleTokenizer()
    start, end = (bpe.encoder[f"<|{word}oftext|>"] for word in ("start", "end"))
    for row, prompt in zip(clip_iqa.tokens().tolist(), ("Good photo.", "Bad photo."), strict=True):
        assert row[:5] == [start, *bpe.encode(prompt), end] and not any(row[5:]) and len(row) == 77


def test_topiq_with_random_weights_is_what_pyiqa_computes(random_topiq: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    direct = pyiqa.create_metric(
        "topiq_nr", device=torch.device("cpu"), backbone_pretrain=False, pretrained_model_path=str(random_topiq)
    )
    use_weights("topiq", random_topiq)
    for batch in (images(), images(256, 1)):
        expected = direct(batch).reshape(-1)
        torch.testing.assert_close(metrics["topiq"](batch), expected, rtol=1e-5, atol=1e-7)
    assert len(set(metrics["topiq"](images()).tolist())) == 2


@pytest.fixture(scope="session")
def loaded_topiq(random_topiq: Path) -> object:
    """Reading 180 MB for every test would take most of the time."""
    use_weights("topiq", random_topiq)
    return topiq.TOPIQ._load()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A metric whose randomly initialised weights are in use."""
    metric: str = request.param
    if metric == "topiq":
        monkeypatch.setattr(topiq.TOPIQ, "_loaded", request.getfixturevalue("loaded_topiq"))
    use_weights(metric, request.getfixturevalue({"clip_iqa": "random_clip", "topiq": "random_topiq"}[metric]))
    return metric


def test_an_image_that_is_not_finite_scores_nan_with_random_weights(name: str) -> None:
    batch = images()
    expected = metrics[name](batch[1:])
    batch[0, 0, 3, 4] = math.nan
    found = metrics[name](batch)
    torch.testing.assert_close(found[1:], expected)
    assert math.isnan(found[0]) and found.dtype == torch.float32
    assert metrics[name](torch.full((2, 3, 8, 8), math.nan)).isnan().all()


def test_small_images_are_enlarged_with_random_weights(name: str) -> None:
    small = images(16, 1)  # piq cannot read 16 pixels by itself
    found = metrics[name](small)
    assert found.isfinite().all() and torch.equal(found, metrics[name](enlarge(small)))


def test_no_gradients_are_kept_with_random_weights(name: str) -> None:
    batch = images(count=1).requires_grad_(True)
    assert not metrics[name](batch).requires_grad


def test_the_record_names_library_and_weights_with_random_weights(name: str, request: pytest.FixtureRequest) -> None:
    metric = metrics[name]
    path = request.getfixturevalue({"clip_iqa": "random_clip", "topiq": "random_topiq"}[name])
    assert metric.weights_sha256() == sha256(path)
    assert metric.version.split()[0] in ("piq", "pyiqa") and metric.version.split()[1][0].isdigit()
    assert not metric.reference and metric.higher_is_better and metric.needs == "images"
    assert metrics["ssim"].weights_sha256() == ""


def test_weights_are_read_once_with_random_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = metrics[name].function
    assert isinstance(network, QualityNetwork)
    first = metrics[name](images(count=1))

    def refuse(path: Path) -> nn.Module:
        raise AssertionError(path)

    monkeypatch.setattr(network, "_build", refuse)
    assert torch.equal(metrics[name](images(count=1)), first)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(32, 32, (224, 224)), (100, 300, (224, 672)), (32, 16, (448, 224))]
)
def test_enlarging_keeps_the_aspect_ratio_and_the_range(height: int, width: int, expected: tuple[int, int]) -> None:
    checks = (torch.arange(height)[:, None] + torch.arange(width)).remainder(2).float().expand(1, 3, -1, -1)
    large = enlarge(checks)
    assert large.shape == (1, 3, *expected)
    assert 0 <= float(large.min()) < 0.1 and 0.9 < float(large.max()) <= 1
    assert enlarge(large) is large


@pytest.mark.parametrize("metric", NAMES)
def test_missing_weights_offline_are_one_clear_line(metric: str) -> None:
    pytest.importorskip({"clip_iqa": "piq", "topiq": "pyiqa"}[metric])
    with pytest.raises(InputError) as caught:
        metrics[metric](images(count=1))
    message = str(caught.value)
    assert "\n" not in message
    for part in ("are missing", "HF_HUB_OFFLINE", f"DIFF_ES_WEIGHTS_{metric.upper()}", "use_weights", "https://"):
        assert part in message
    with pytest.raises(InputError, match="are missing"):
        metrics[metric].weights_sha256()


def test_a_failed_download_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("piq")
    published = clip_iqa._published()
    # A file address that does not exist fails as a network does that cannot be reached.
    gone = type(published)((tmp_path / "gone.pt").as_uri(), published.cache, published.sha256)
    monkeypatch.setattr(clip_iqa.CLIP_IQA, "_published", lambda: gone)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(InputError, match="could not be downloaded"):
        metrics["clip_iqa"](images(count=1))
    assert not published.cache.exists()


def test_a_download_with_another_hash_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("piq")
    published = clip_iqa._published()
    (tmp_path / "other.pt").write_bytes(b"something else")
    other = type(published)((tmp_path / "other.pt").as_uri(), published.cache, published.sha256)
    monkeypatch.setattr(clip_iqa.CLIP_IQA, "_published", lambda: other)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(InputError, match="invalid hash value"):
        metrics["clip_iqa"](images(count=1))
    assert not published.cache.exists()


def test_weights_named_in_the_environment_are_used(random_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFF_ES_WEIGHTS_CLIP_IQA", str(random_clip))
    assert metrics["clip_iqa"].weights_sha256() == sha256(random_clip)
    monkeypatch.setenv("DIFF_ES_WEIGHTS_CLIP_IQA", str(random_clip.with_name("gone.pt")))
    with pytest.raises(InputError, match=r"DIFF_ES_WEIGHTS_CLIP_IQA names .*gone.pt, which is no file"):
        metrics["clip_iqa"](images(count=1))


def test_naming_none_goes_back_to_the_library(random_clip: Path) -> None:
    use_weights("clip_iqa", random_clip)
    assert metrics["clip_iqa"].weights_sha256() == sha256(random_clip)
    use_weights("clip_iqa", None)
    with pytest.raises(InputError, match="are missing"):
        metrics["clip_iqa"].weights_sha256()


def test_weights_in_the_librarys_cache_are_used(random_topiq: Path, tmp_path: Path) -> None:
    cache = topiq._published().cache
    assert cache == tmp_path / "torch" / "hub" / "pyiqa" / "cfanet_nr_koniq_res50-9a73138b.pth"
    cache.parent.mkdir(parents=True)
    cache.symlink_to(random_topiq)
    assert metrics["topiq"].weights_sha256() == sha256(random_topiq)


def test_naming_no_file_or_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which is no file"):
        use_weights("topiq", tmp_path)
    with pytest.raises(InputError, match="did you mean 'topiq'"):
        use_weights("topic", tmp_path)


class Stranger:
    """Not a tensor."""


def _write_pickle(path: Path) -> None:
    torch.save({"params": {"x": Stranger()}}, path)


def _write_other_network(path: Path) -> None:
    torch.save({"params": {"x": torch.zeros(1)}}, path)


def _write_bare_state(path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, path)


def _write_noise(path: Path) -> None:
    path.write_bytes(b"\0" * 100)


def _write_nothing(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    "write", [_write_pickle, _write_other_network, _write_bare_state, _write_noise, _write_nothing]
)
def test_foreign_topiq_weights_are_one_clear_line(tmp_path: Path, write: Callable[[Path], None]) -> None:
    pytest.importorskip("pyiqa")
    path = tmp_path / "weights.pth"
    write(path)
    use_weights("topiq", path)
    with pytest.raises(InputError, match="does not hold the weights of TOPIQ") as caught:
        metrics["topiq"](images(count=1))
    assert "\n" not in str(caught.value)


def test_foreign_clip_weights_are_one_clear_line(tmp_path: Path) -> None:
    pytest.importorskip("piq")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\0" * 100)
    use_weights("clip_iqa", path)
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        metrics["clip_iqa"](images(count=1))
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="does not hold the weights of CLIP RN50"):
        metrics["clip_iqa"](images(count=1))


def test_the_licence_of_topiq_is_said_once_with_random_weights(
    random_topiq: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_weights("topiq", random_topiq)
    with caplog.at_level(logging.WARNING):
        metrics["topiq"](images(64, 1))
        topiq._build(random_topiq)
    said = [record.message for record in caplog.records if "non-commercial" in record.message]
    assert len(said) == 1 and "PolyForm Noncommercial" in said[0]


@pytest.mark.parametrize("metric", NAMES)
def test_bad_images_are_refused(metric: str) -> None:
    with pytest.raises(InputError, match=r"in \[0, 1\], got values from -1 to 1"):
        metrics[metric](torch.tensor([-1.0, 1.0]).repeat(1, 3, 8, 4))
    with pytest.raises(InputError, match=r"shape \(N, 3, H, W\)"):
        metrics[metric](torch.zeros(2, 4, 8, 8))
    with pytest.raises(InputError, match=r"shape \(N, 3, H, W\)"):
        metrics[metric](torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(("metric", "package", "extra"), [("clip_iqa", "piq", "eval"), ("topiq", "pyiqa", "iqa")])
def test_a_missing_extra_is_one_clear_line(
    metric: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs {package}: pip install 'diff-es\[{extra}\]'"):
        metrics[metric](images(count=1))
