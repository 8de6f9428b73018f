from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.cli.main import main
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.awp import AWP
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.data_parallel import data_parallel_gradients
from robustbench_cli.defenses.base.training.loading import Loader
from robustbench_cli.defenses.base.training.processes import Processes
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress
from robustbench_cli.defenses.fast_at import FastAT
from robustbench_cli.defenses.free_at import FreeAT
from robustbench_cli.defenses.hrs import HRS
from robustbench_cli.defenses.none import Undefended
from robustbench_cli.defenses.pgd_at import PGDAT

CPU = torch.device("cpu")
SGD = Recipe(epochs=2, batch_size=500, optimizer="sgd", lr=0.05, ema=0.9, held_out=0.1, held_out_eps=0)


class KilledError(Exception):
    """Ends a process."""


def trained(
    defense: Defense, recipe: Recipe, *, batch_norm: bool = False, **options: Any
) -> tuple[dict[str, Tensor], Trainer]:
    """Trains a small network on digits; its initial weights differ between processes."""
    torch.manual_seed(Processes.from_environment().rank)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8) if batch_norm else nn.Identity(), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10))
    example = torch.zeros(1, 1, 8, 8)
    torch.manual_seed(0)
    model = defense.protect(model, example)
    trainer = Trainer(load_dataset("digits").split("train"), recipe, seed=3, device=CPU, **options)
    defense.fit(model, trainer)
    return model.state_dict(), trainer


def store(folder: Path, tensors: dict[str, Tensor], **more: Any) -> None:
    """Writes the result of this process."""
    torch.save({"tensors": tensors, **more}, folder / f"{Processes.from_environment().rank}.pt")


def standard(folder: Path) -> None:
    """A standard training, without draws."""
    tensors, trainer = trained(Undefended(), SGD)
    store(folder, tensors, record=trainer.record["trained"]["training"])


def free(folder: Path) -> None:
    """Free adversarial training: the perturbation carries over from batch to batch."""
    store(folder, trained(FreeAT(eps=0.1, replays=2), SGD)[0])


class CleanAWP(AWP):
    """Adversarial weight perturbation on clean images, without draws."""

    def perturb(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return images


def weight_perturbation(folder: Path) -> None:
    """A training whose loss uses a gradient itself."""
    store(folder, trained(CleanAWP(eps=0.1, gamma=0.3), SGD)[0])


def missing_gradients(folder: Path) -> None:
    """Gradients of a share: the second process lacks one of them, and both lack another."""
    trainer = Trainer(load_dataset("digits").split("train"), SGD, seed=3, device=CPU)
    rank, parameters = Processes.from_environment().rank, [torch.zeros(2), torch.zeros(3), torch.zeros(1)]
    local = [torch.full((2,), 1.0 + 4 * rank), None if rank else torch.ones(3), None]
    store(folder, {}, gradients=trainer.average_gradients(local, parameters, 1 + 2 * rank))


def switching(folder: Path) -> None:
    """Several trainings one after the other, in which the frozen blocks draw."""
    store(folder, trained(HRS(channels=(2, 2), split=("2",)), Recipe(epochs=1, batch_size=500))[0])


def adversarial(folder: Path) -> None:
    """Adversarial training with random starts and batch norm."""
    store(folder, trained(PGDAT(eps=0.1, steps=2), Recipe(epochs=2), batch_norm=True)[0])


def numbers_drawn() -> list[float]:
    """Random numbers that a loss draws in the steps of a training."""
    numbers: list[float] = []

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        numbers.append(torch.rand(1).item())
        return functional.cross_entropy(network(images), labels)

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    trainer = Trainer(load_dataset("digits").split("train"), SGD, seed=3, device=CPU)
    trainer.fit(network, name="training", loss=loss)
    return numbers


def drawing(folder: Path) -> None:
    """A training that stores its random numbers."""
    store(folder, {}, numbers=numbers_drawn())


def fast(folder: Path) -> None:
    """A training that measures an accuracy after each epoch."""
    tensors, trainer = trained(FastAT(eps=0.1), Recipe(epochs=2, batch_size=500))
    store(folder, tensors, record=trainer.record["trained"]["adversarial training"])


def killed(folder: Path) -> None:
    """A training whose first process is killed after an epoch."""

    def kill(progress: TrainingProgress) -> None:
        if Processes.from_environment().rank == 0:
            raise KilledError

    trained(PGDAT(eps=0.1, steps=2), Recipe(epochs=2), batch_norm=True, resume=folder / "state", progress=kill)


def resumed(folder: Path) -> None:
    """The same training, resumed."""
    done: list[int] = []
    state = folder.parent / "killed" / "state"
    if Processes.from_environment().rank == 0:
        shutil.copy(state, folder)
    tensors, _ = trained(
        PGDAT(eps=0.1, steps=2),
        Recipe(epochs=2),
        batch_norm=True,
        resume=state,
        progress=lambda progress: done.append(progress.epoch),
    )
    store(folder, tensors, done=done)


def another_recipe(folder: Path) -> None:
    """A training with the resume file of another one, which the first process reads."""
    trained(Undefended(), Recipe(epochs=3), resume=folder.parent / "killed" / "state")


def tiny_batches(folder: Path) -> None:
    """Batches too small for two processes."""
    trained(Undefended(), Recipe(batch_size=1))


def one_step(folder: Path) -> None:
    """A step on 5 images, 2 of them in the second process. Some parameters and buffers are used by one process alone."""
    processes = Processes.connect(CPU)
    network = Parts()
    images, labels = five_images()

    def gradients(network: Any, images: Tensor, labels: Tensor, parameters: Any) -> Any:
        network.rank = processes.rank
        value = functional.cross_entropy(network(images), labels)
        return value, torch.autograd.grad(value, parameters, allow_unused=True)

    value, slopes = data_parallel_gradients(gradients, processes)(
        network, images[processes.share], labels[processes.share], list(network.parameters())
    )
    names = [name for name, _ in network.named_parameters()]
    store(folder, network.state_dict(), value=value, slopes=dict(zip(names, slopes, strict=True)))


TRAIN = ["train", "--dataset", "digits", "--defense", "gaussian-noise", "--epochs", "1"]


def train_command(folder: Path) -> int:
    """``advdef train``."""
    return main([*TRAIN, "-o", str(folder / "model.safetensors")])


def diverging_command(folder: Path) -> int:
    """``advdef train`` with an error in all processes."""
    return main([*TRAIN, "--set", "train.lr=1e38", "-o", str(folder / "model.safetensors")])


def command_with_an_unreadable_image(folder: Path) -> int:
    """``advdef train`` with an error in one process, while the other waits for its gradients."""
    batch = Loader.batch

    def unreadable(loader: Loader, indices: Tensor) -> tuple[Tensor, Tensor]:
        if Processes.from_environment().rank:
            raise UserError("image 7 cannot be read")
        return batch(loader, indices)

    Loader.batch = unreadable  # type: ignore[method-assign]
    return main([*TRAIN, "-o", str(folder / "model.safetensors")])


def sweep_command(folder: Path) -> int:
    """A command that cannot share its work between processes."""
    return main(["sweep", "quick", "--store", str(folder / "runs")])


class Parts(nn.Module):
    """A network with parts that only one process uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 3)
        self.second_only, self.unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        self.register_buffer("counters", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("untouched", torch.tensor(0.1, dtype=torch.float64))
        self.rank = 0

    def forward(self, images: Tensor) -> Tensor:
        self.norm(images)
        self.counters[self.rank] += self.rank + 1
        return self.linear(images) * (self.second_only if self.rank else 1)


def five_images() -> tuple[Tensor, Tensor]:
    """Five images with labels."""
    return torch.rand(5, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1])


Scenario = Callable[[Path], int | None]

SCENARIOS: list[Scenario] = [
    *(
        standard,
        free,
        weight_perturbation,
        missing_gradients,
        switching,
        adversarial,
        drawing,
        fast,
        killed,
        resumed,
        another_recipe,
        tiny_batches,
    ),
    *(one_step, train_command, diverging_command, command_with_an_unreadable_image, sweep_command),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Scenario], Ended]:
    """Runs all scenarios in two processes each; looks up the result of one."""
    folder = tmp_path_factory.mktemp("together")
    names = [scenario.__name__ for scenario in SCENARIOS]
    program = Path(__file__).parents[3] / "together.py"
    completed = subprocess.run(
        [sys.executable, program, __file__, folder, *names],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    codes = json.loads(completed.stdout)

    def ended(scenario: Scenario) -> Ended:
        return Ended(codes[scenario.__name__], folder / scenario.__name__)

    return ended


class Ended:
    """The exit codes, the output and the stored results of two processes."""

    def __init__(self, codes: list[int], folder: Path) -> None:
        self.codes = codes
        self.out = [(folder / f"{rank}.out").read_text() for rank in (0, 1)]
        self.err = [(folder / f"{rank}.err").read_text() for rank in (0, 1)]
        self.folder = folder

    @property
    def stored(self) -> list[dict[str, Any]]:
        """The stored results; both processes must have succeeded."""
        assert self.codes == [0, 0], self.err
        return [torch.load(self.folder / f"{rank}.pt") for rank in (0, 1)]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights, which must be exactly the same in both processes."""
        first, second = (result["tensors"] for result in self.stored)
        assert all(torch.equal(first[name], second[name]) for name in first)
        return first  # type: ignore[no-any-return]


Run = Callable[[Scenario], Ended]


def test_two_processes_train_the_same_network_as_one(run: Run) -> None:
    """Without draws, up to rounding; with a running mean, held-out images and unequal shares of a batch."""
    alone, trainer = trained(Undefended(), SGD)
    together = run(standard)
    for name, tensor in together.weights.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-6)
    expected = trainer.record["trained"]["training"]
    for result in together.stored:
        assert result["record"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert result["record"]["held_out_accuracy"] == pytest.approx(expected["held_out_accuracy"], abs=0.01)


def test_the_perturbation_carries_over(run: Run) -> None:
    """Each row of the perturbation belongs to an index in the batch, whichever process has it."""
    alone, _ = trained(FreeAT(eps=0.1, replays=2), SGD)
    for name, tensor in run(free).weights.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4)


def test_the_weight_perturbation_uses_the_whole_batch(run: Run) -> None:
    """Adversarial weight perturbation in two processes equals that in one, up to rounding, for a large perturbation."""
    alone, _ = trained(CleanAWP(eps=0.1, gamma=0.3), SGD)
    for name, tensor in run(weight_perturbation).weights.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-5)


def test_gradients_are_averaged_by_images(run: Run) -> None:
    """One image has the gradient 1, three images have 5. A missing gradient counts as 0, unless both processes lack it."""
    for result in run(missing_gradients).stored:
        both, one, none = result["gradients"]
        assert both.tolist() == [4, 4]
        assert one.tolist() == [0.25] * 3
        assert none is None


@pytest.mark.parametrize("scenario", [switching, adversarial, fast])
def test_both_processes_end_with_the_same_weights(run: Run, scenario: Scenario) -> None:
    """Although each draws for its own share."""
    ended = run(scenario)
    assert ended.weights
    first, second = ended.stored
    for measured in ("watched_accuracy", "loss"):
        assert first.get("record", {}).get(measured) == second.get("record", {}).get(measured)


def test_processes_draw_independently(run: Run) -> None:
    """The first process draws what a single process draws. The second draws other numbers."""
    first, second = (result["numbers"] for result in run(drawing).stored)
    assert first == numbers_drawn()
    assert len(second) == len(first)
    assert not set(first) & set(second)


def test_killed_and_resumed(run: Run) -> None:
    """If one process is killed, the other ends too. Both resume to exactly the same weights. One alone can resume too."""
    ended = run(killed)
    assert ended.codes == [70, 70]
    assert "KilledError" in ended.err[0]
    assert "UserError: another of the 2 processes has ended" in ended.err[1]
    second = run(resumed)
    assert [result["done"] for result in second.stored] == [[2], [2]]
    whole = run(adversarial).weights
    assert all(torch.equal(tensor, whole[name]) for name, tensor in second.weights.items())
    alone: list[int] = []
    trained(
        PGDAT(eps=0.1, steps=2),
        Recipe(epochs=2),
        batch_norm=True,
        resume=second.folder / "state",
        progress=lambda progress: alone.append(progress.epoch),
    )
    assert alone == [2]


def test_all_processes_raise_an_error(run: Run) -> None:
    """Both an error in one process and an error in all processes."""
    for err in run(another_recipe).err:
        assert "is a training with another recipe: delete it" in err
    for err in run(tiny_batches).err:
        assert "UserError: 2 processes cannot share batches of 1 from 1297 images: give a larger batch_size" in err


def test_a_step_of_unequal_shares(run: Run) -> None:
    """Loss, gradients and batch statistics are means over all images. What one process alone uses or changes is not halved."""
    ended = run(one_step)
    result = ended.stored[0]
    images, labels = five_images()
    network = Parts()
    logits = network.linear(images) * torch.stack([torch.ones(3), network.second_only])[torch.arange(5) % 2]
    value = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(result["value"], value.detach())
    weight, second_only = torch.autograd.grad(value, [network.linear.weight, network.second_only])
    torch.testing.assert_close(result["slopes"]["linear.weight"], weight)
    torch.testing.assert_close(result["slopes"]["second_only"], second_only)
    assert result["slopes"]["unused"] is None
    torch.testing.assert_close(ended.weights["norm.running_mean"], 0.1 * images.mean(0))
    assert ended.weights["counters"].tolist() == [1, 2]
    assert ended.weights["untouched"].item() == 0.1


def test_one_process_prints_and_writes(run: Run) -> None:
    """The output appears once. The only checkpoint records the number of processes."""
    ended = run(train_command)
    assert ended.codes == [0, 0]
    assert ended.out[0].startswith(f"{ended.folder}/model.safetensors: small-cnn with gaussian-noise on digits")
    assert len(ended.err[0].splitlines()) == 2
    assert ended.out[1] == ended.err[1] == ""
    (checkpoint,) = ended.folder.glob("*.safetensors*")
    info = read_info(checkpoint, named=())
    assert info is not None
    assert info.training["stages"][0]["processes"] == 2


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        (diverging_command, "training diverged in epoch 1, its loss is nan: give a lower lr"),
        (command_with_an_unreadable_image, "image 7 cannot be read"),
        (
            sweep_command,
            "advdef sweep was started 2 times by a launcher, which only 'advdef train' is for",
        ),
    ],
)
def test_the_error_is_printed_once(run: Run, scenario: Scenario, message: str) -> None:
    """For an error in one process or in all. No process waits for another one that has ended."""
    ended = run(scenario)
    assert ended.codes == [2, 2]
    lines = [line for err in ended.err for line in err.splitlines() if not line.startswith("training small-cnn")]
    assert len(lines) == 1
    assert lines[0].startswith(f"advdef: error: {message}")
    assert not any(ended.out)


def test_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a launcher nothing is connected, also if a scheduler sets ``WORLD_SIZE``."""
    assert Processes.from_environment() == Processes.connect(CPU) == Processes(1, 0)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert Processes.from_environment() == Processes(1, 0)


def test_without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"pip install 'advdef\[accelerate\]'"):
        Processes.connect(CPU)


def test_out_of_memory_is_no_lost_connection() -> None:
    """An out-of-memory error is raised unchanged."""

    def fail() -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError), Processes(2, 0)._connected():
        fail()


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:0", "--device cuda:0 for 2 processes: give cuda, and each takes one"),
        ("cuda", "a machine with 2 processes needs as many GPUs, and has 1: start fewer, or give --device cpu"),
    ],
)
def test_each_process_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, advdef: Callable[..., Any], tmp_path: Path, device: str, message: str
) -> None:
    """Several processes choose their GPUs themselves, and need one each."""
    environment = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    ended = advdef(*TRAIN, "--device", device, "-o", str(tmp_path / "model.safetensors"))
    assert ended.code == 2
    assert ended.err == f"advdef: error: {message}\n"
