from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.devices import automatic_batch_size
from robustbench_cli.benchmarks.evaluation import pass_settings as module
from robustbench_cli.benchmarks.evaluation.pass_settings import PassSettings, pass_settings

CPU = torch.device("cpu")
IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Slow(nn.Module):
    """A convolution, and a model that multiplies a matrix many times if its features are in one memory layout.

    ``width`` makes an architecture of its own, since settings are remembered by architecture.
    """

    def __init__(self, layout: torch.memory_format | None, *, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, width, 3)
        self.layout = layout
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        features = self.convolution(images)
        if self.layout is not None and features.is_contiguous(memory_format=self.layout):
            matrix = torch.eye(400)
            for _ in range(20):
                matrix = matrix @ matrix
        logits: Tensor = features.mean((2, 3))
        return logits


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, and a process that knows nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_known", {})
    return platformdirs.user_cache_path("advdef") / "passes"


@pytest.mark.parametrize(
    ("slow", "layout"),
    [
        (torch.channels_last, "contiguous"),
        (torch.contiguous_format, "channels-last"),
        (None, "channels-last"),
    ],
)
def test_the_clearly_faster_layout_is_taken(slow: torch.memory_format | None, layout: str) -> None:
    """Where none is, it is always channels-last. The batch size on a CPU is the usual one."""
    settings = pass_settings(Slow(slow, width=5), IMAGES, CPU, "tf32")
    assert settings == PassSettings(rows=automatic_batch_size(CPU, (3, 8, 8)), layout=layout)


def test_a_model_that_runs_in_one_layout_only_gets_it() -> None:
    """Its features are reshaped by ``view``, which fails in channels-last."""

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 5, 3)

        def forward(self, images: Tensor) -> Tensor:
            features: Tensor = self.convolution(images)
            return features.view(len(images), -1)

    assert pass_settings(Views(), IMAGES, CPU, "tf32").layout == "contiguous"


def test_measuring_leaves_the_model_and_the_generators_alone() -> None:
    """A copy is timed, so that a model that counts its queries has answered none."""
    model = Slow(None, width=6).train()
    state, weight = torch.get_rng_state(), model.convolution.weight
    pass_settings(nn.Sequential(model, nn.Dropout()), IMAGES, CPU, "tf32")
    assert model.passes == 0
    assert model.training
    assert model.convolution.weight is weight
    assert weight.is_contiguous()
    assert weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_the_first_measurement_counts_for_all_later_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process reads it, another architecture has its own, and so has another shape."""
    pass_settings(Slow(torch.channels_last, width=7), IMAGES, CPU, "tf32")
    (file,) = folder.iterdir()
    monkeypatch.setattr(module, "_known", {})
    # Its attribute is no part of the architecture: measured again, this one would get channels-last.
    assert pass_settings(Slow(torch.contiguous_format, width=7), IMAGES, CPU, "float32").layout == "contiguous"
    assert [*folder.iterdir()] == [file]
    assert pass_settings(Slow(torch.contiguous_format, width=9), IMAGES, CPU, "tf32").layout == "channels-last"
    assert pass_settings(Slow(torch.contiguous_format, width=7), IMAGES[..., 1:], CPU, "tf32").layout == "channels-last"
    assert len([*folder.iterdir()]) == 3


def test_the_process_that_stores_first_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that measure a model at once take the same settings, or halves of one cell would differ."""
    other = PassSettings(rows=3, layout="contiguous")
    measured = module._measured

    def meanwhile(*arguments: object) -> PassSettings:
        (key,) = {module._key(Slow(None, width=8), IMAGES, CPU, "tf32")}
        module._remember(folder / f"{key}.json", key, other)
        return measured(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_measured", meanwhile)
    assert pass_settings(Slow(None, width=8), IMAGES, CPU, "tf32") == other


def test_few_rows_are_not_worth_a_measurement(folder: Path) -> None:
    """They pass with the usual settings, or with those of a measurement for more rows: 64 batches."""
    usual = PassSettings(rows=automatic_batch_size(CPU, (3, 8, 8)))
    slow, enough = Slow(torch.channels_last, width=10), 64 * usual.rows
    assert pass_settings(slow, IMAGES, CPU, "tf32", rows=enough - 1) == usual
    assert not folder.exists()
    assert pass_settings(slow, IMAGES, CPU, "tf32", rows=enough).layout == "contiguous"
    assert pass_settings(slow, IMAGES, CPU, "tf32", rows=1).layout == "contiguous"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-9],
        lambda text: text.replace("contiguous", "channels-last"),
        lambda text: text.replace('"rows": ', '"rows": 1'),
        lambda text: json.dumps(json.loads(text) | {"key": "0" * 64}),
        lambda text: "[1]",
        lambda text: '{"settings": {"rows": 0}}',
    ],
)
def test_a_damaged_file_is_measured_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[str], str]
) -> None:
    """It is replaced, without a word."""
    settings = pass_settings(Slow(torch.channels_last, width=5), IMAGES, CPU, "tf32")
    (file,) = folder.iterdir()
    content = file.read_text()
    assert damage(content) != content
    file.write_text(damage(content))
    monkeypatch.setattr(module, "_known", {})
    assert pass_settings(Slow(torch.channels_last, width=5), IMAGES, CPU, "tf32") == settings
    assert file.read_text() == content


def test_without_a_cache_folder_the_process_remembers(folder: Path) -> None:
    """A file in the folder's place is no error, and the settings do not change within the process."""
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    assert pass_settings(Slow(torch.channels_last, width=5), IMAGES, CPU, "tf32").layout == "contiguous"
    assert pass_settings(Slow(torch.contiguous_format, width=5), IMAGES, CPU, "tf32").layout == "contiguous"


def test_a_model_that_cannot_be_measured_gets_the_usual_settings(folder: Path) -> None:
    """Nothing is timed or stored where there is no convolution, or where the model cannot be copied or fails."""
    usual = PassSettings(rows=automatic_batch_size(CPU, (3, 8, 8)))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    uncopied = Slow(torch.channels_last, width=5)
    uncopied.generator = iter([])  # type: ignore[assignment]
    uncopied.lock = (number for number in ())  # type: ignore[assignment]
    failing = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Unflatten(1, (7, 7)))
    for model in (linear, uncopied):
        assert pass_settings(model, IMAGES, CPU, "tf32") == usual
    assert not folder.exists()
    assert pass_settings(failing, IMAGES, CPU, "tf32") == usual


class Timed(module._Passes):
    """Passes that take ``fixed + rows`` times 10 ns, up to a number of rows that fit the memory."""

    def __init__(self, fixed: float, fit: int) -> None:
        super().__init__(nn.Identity(), IMAGES, "tf32")
        self.fixed, self.fit = fixed, fit

    def seconds(self, rows: int) -> float:
        if rows > self.fit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (self.fixed + rows) / 10**8


@pytest.mark.parametrize(
    ("fixed", "fit", "rows"),
    [
        # The smallest power of 2 whose rate rows / (fixed + rows) is at least 1 / 1.05 of the largest that is measured.
        (0, 10**6, 1),
        (1, 10**6, 16),
        (10, 10**6, 128),
        (10**6, 10**6, 256),
        # A pass of more than 0.25 s is long enough.
        (3 * 10**7, 10**6, 1),
        # As many as fit, or the first.
        (10**6, 100, 64),
        (10**6, 1, 1),
        (10**6, 0, 1),
    ],
)
def test_a_batch_grows_while_that_pays(fixed: float, fit: int, rows: int) -> None:
    """Up to four times the usual 64 rows, and never to more than fit the memory."""
    assert Timed(fixed, fit).fastest_rows(64) == rows


def test_settings_in_a_deeply_nested_file_count_as_missing(folder: Path) -> None:
    model = Slow(None, width=9)
    pass_settings(model, IMAGES, CPU, "float32")
    (file,) = folder.iterdir()
    file.write_text("[" * 200_000)
    module._known.clear()
    assert isinstance(pass_settings(model, IMAGES, CPU, "float32"), PassSettings)


def test_a_model_whose_description_raises_an_error_gets_the_usual_settings() -> None:
    class Undescribed(Slow):
        def extra_repr(self) -> str:
            raise AttributeError("width")

    assert isinstance(pass_settings(Undescribed(None, width=10), IMAGES, CPU, "float32"), PassSettings)
