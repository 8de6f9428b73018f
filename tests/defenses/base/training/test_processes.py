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
    """Stands for whatever ends a process."""


def trained(
    defense: Defense, recipe: Recipe, *, batch_norm: bool = False, **options: Any
) -> tuple[dict[str, Tensor], Trainer]:
    """The weights of a small network after a training on digits, from weights that differ from process to process."""
    torch.manual_seed(Processes.from_environment().rank)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8) if batch_norm else nn.Identity(), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10))
    example = torch.zeros(1, 1, 8, 8)
    torch.manual_seed(0)
    model = defense.protect(model, example)
    trainer = Trainer(load_dataset("digits").split("train"), recipe, seed=3, device=CPU, **options)
    defense.fit(model, trainer)
    return model.state_dict(), trainer


def keep(folder: Path, tensors: dict[str, Tensor], **more: Any) -> None:
    """Writes what a process has come to."""
    torch.save({"tensors": tensors, **more}, folder / f"{Processes.from_environment().rank}.pt")


def plainly(folder: Path) -> None:
    """A training whose loss draws nothing."""
    tensors, trainer = trained(Undefended(), SGD)
    keep(folder, tensors, record=trainer.record["trained"]["training"])


def freely(folder: Path) -> None:
    """One that hands a perturbation from batch to batch."""
    keep(folder, trained(FreeAT(eps=0.1, replays=2), SGD)[0])


class Still(AWP):
    """Adversarial weight perturbation whose images are the clean ones, so that it draws nothing."""

    def perturb(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return images


def moving_weights(folder: Path) -> None:
    """One whose loss looks at a gradient on the way."""
    keep(folder, trained(Still(eps=0.1, gamma=0.3), SGD)[0])


def a_gradient_of_one(folder: Path) -> None:
    """Gradients of a share, of which the second process lacks one and both another."""
    trainer = Trainer(load_dataset("digits").split("train"), SGD, seed=3, device=CPU)
    rank, parameters = Processes.from_environment().rank, [torch.zeros(2), torch.zeros(3), torch.zeros(1)]
    own = [torch.full((2,), 1.0 + 4 * rank), None if rank else torch.ones(3), None]
    keep(folder, {}, gradients=trainer.average_gradients(own, parameters, 1 + 2 * rank))


def switching(folder: Path) -> None:
    """One in which finished parts of the network draw, and several trainings follow one another."""
    keep(folder, trained(HRS(channels=(2, 2), split=("2",)), Recipe(epochs=1, batch_size=500))[0])


def adversarially(folder: Path) -> None:
    """One that draws where its attack starts, with batch norm."""
    keep(folder, trained(PGDAT(eps=0.1, steps=2), Recipe(epochs=2), batch_norm=True)[0])


def numbers_drawn() -> list[float]:
    """What a loss draws in each step of a training."""
    numbers: list[float] = []

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        numbers.append(torch.rand(1).item())
        return functional.cross_entropy(network(images), labels)

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    trainer = Trainer(load_dataset("digits").split("train"), SGD, seed=3, device=CPU)
    trainer.fit(network, name="training", loss=loss)
    return numbers


def drawing(folder: Path) -> None:
    """One that keeps what it has drawn."""
    keep(folder, {}, numbers=numbers_drawn())


def watched(folder: Path) -> None:
    """One that measures an accuracy after each epoch."""
    tensors, trainer = trained(FastAT(eps=0.1), Recipe(epochs=2, batch_size=500))
    keep(folder, tensors, record=trainer.record["trained"]["adversarial training"])


def killed(folder: Path) -> None:
    """One whose first process is killed after an epoch, and which then goes on."""

    def kill(progress: TrainingProgress) -> None:
        if Processes.from_environment().rank == 0:
            raise KilledError

    trained(PGDAT(eps=0.1, steps=2), Recipe(epochs=2), batch_norm=True, resume=folder / "state", progress=kill)


def going_on(folder: Path) -> None:
    """What :func:`killed` left undone."""
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
    keep(folder, tensors, done=done)


def with_another_recipe(folder: Path) -> None:
    """One that finds the file of another training, which its first process alone reads."""
    trained(Undefended(), Recipe(epochs=3), resume=folder.parent / "killed" / "state")


def with_tiny_batches(folder: Path) -> None:
    """One of which a process would have nothing to do."""
    trained(Undefended(), Recipe(batch_size=1))


def one_step(folder: Path) -> None:
    """One step on 5 images, of which the second process has 2, with parts that not every process uses or changes."""
    processes = Processes.connect(CPU)
    network = Parts()
    images, labels = five()

    def gradients(network: Any, images: Tensor, labels: Tensor, parameters: Any) -> Any:
        network.rank = processes.rank
        value = functional.cross_entropy(network(images), labels)
        return value, torch.autograd.grad(value, parameters, allow_unused=True)

    value, slopes = data_parallel_gradients(gradients, processes)(
        network, images[processes.share], labels[processes.share], list(network.parameters())
    )
    names = [name for name, _ in network.named_parameters()]
    keep(folder, network.state_dict(), value=value, slopes=dict(zip(names, slopes, strict=True)))


TRAIN = ["train", "--dataset", "digits", "--defense", "gaussian-noise", "--epochs", "1"]


def by_command(folder: Path) -> int:
    """``advdef train``."""
    return main([*TRAIN, "-o", str(folder / "model.safetensors")])


def with_too_high_a_rate(folder: Path) -> int:
    """``advdef train`` that fails for all alike."""
    return main([*TRAIN, "--set", "train.lr=1e38", "-o", str(folder / "model.safetensors")])


def with_an_unreadable_image(folder: Path) -> int:
    """``advdef train`` that fails in one process, while the other is about to exchange gradients with it."""
    batch = Trainer.batch

    def unreadable(trainer: Trainer, indices: Tensor) -> tuple[Tensor, Tensor]:
        if Processes.from_environment().rank:
            raise UserError("image 7 cannot be read")
        return batch(trainer, indices)

    Trainer.batch = unreadable  # type: ignore[method-assign]
    return main([*TRAIN, "-o", str(folder / "model.safetensors")])


def another_command(folder: Path) -> int:
    """A command that each process would do from beginning to end."""
    return main(["sweep", "quick", "--store", str(folder / "runs")])


class Parts(nn.Module):
    """A network of which each process uses another part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 3)
        self.seconds, self.nobodys = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        self.register_buffer("places", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("untouched", torch.tensor(0.1, dtype=torch.float64))
        self.rank = 0

    def forward(self, images: Tensor) -> Tensor:
        self.norm(images)
        self.places[self.rank] += self.rank + 1
        return self.linear(images) * (self.seconds if self.rank else 1)


def five() -> tuple[Tensor, Tensor]:
    """Five rows with labels."""
    return torch.rand(5, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1])


Scenario = Callable[[Path], int | None]

SCENARIOS: list[Scenario] = [
    *(
        plainly,
        freely,
        moving_weights,
        a_gradient_of_one,
        switching,
        adversarially,
        drawing,
        watched,
        killed,
        going_on,
        with_another_recipe,
        with_tiny_batches,
    ),
    *(one_step, by_command, with_too_high_a_rate, with_an_unreadable_image, another_command),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Scenario], Ended]:
    """How each of the scenarios ended in two processes."""
    folder = tmp_path_factory.mktemp("together")
    names = [scenario.__name__ for scenario in SCENARIOS]
    program = Path(__file__).parents[3] / "together.py"
    done = subprocess.run(
        [sys.executable, program, __file__, folder, *names],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)

    def ended(scenario: Scenario) -> Ended:
        return Ended(codes[scenario.__name__], folder / scenario.__name__)

    return ended


class Ended:
    """What two processes left."""

    def __init__(self, codes: list[int], folder: Path) -> None:
        self.codes = codes
        self.out = [(folder / f"{rank}.out").read_text() for rank in (0, 1)]
        self.err = [(folder / f"{rank}.err").read_text() for rank in (0, 1)]
        self.folder = folder

    @property
    def kept(self) -> list[dict[str, Any]]:
        """What each has kept, once both have."""
        assert self.codes == [0, 0], self.err
        return [torch.load(self.folder / f"{rank}.pt") for rank in (0, 1)]

    @property
    def weights(self) -> dict[str, Tensor]:
        """What both have, to the last bit."""
        first, second = (kept["tensors"] for kept in self.kept)
        assert all(torch.equal(first[name], second[name]) for name in first)
        return first  # type: ignore[no-any-return]


Run = Callable[[Scenario], Ended]


def test_two_train_what_one_does(run: Run) -> None:
    """To rounding, where the loss draws nothing: with a running mean, held-out images and batches of unequal shares."""
    alone, trainer = trained(Undefended(), SGD)
    together = run(plainly)
    for name, tensor in together.weights.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-6)
    expected = trainer.record["trained"]["training"]
    for kept in together.kept:
        assert kept["record"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert kept["record"]["held_out_accuracy"] == pytest.approx(expected["held_out_accuracy"], abs=0.01)


def test_a_perturbation_goes_from_batch_to_batch(run: Run) -> None:
    """A row keeps to its place in the batch, whichever process has it."""
    alone, _ = trained(FreeAT(eps=0.1, replays=2), SGD)
    for name, tensor in run(freely).weights.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4)


def test_weights_move_by_the_gradient_of_the_whole_batch(run: Run) -> None:
    """Adversarial weight perturbation in two processes is that in one, to rounding, and a large move shows it."""
    alone, _ = trained(Still(eps=0.1, gamma=0.3), SGD)
    for name, tensor in run(moving_weights).weights.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-5)


def test_gradients_are_averaged_by_images(run: Run) -> None:
    """One image has the gradient 1 and three have 5; what one process lacks counts as 0, what both lack stays away."""
    for kept in run(a_gradient_of_one).kept:
        both, one, none = kept["gradients"]
        assert both.tolist() == [4, 4]
        assert one.tolist() == [0.25] * 3
        assert none is None


@pytest.mark.parametrize("scenario", [switching, adversarially, watched])
def test_both_end_with_the_same(run: Run, scenario: Scenario) -> None:
    """Whatever each draws for its own share."""
    ended = run(scenario)
    assert ended.weights
    first, second = ended.kept
    for measured in ("watched_accuracy", "loss"):
        assert first.get("record", {}).get(measured) == second.get("record", {}).get(measured)


def test_the_shares_draw_for_themselves(run: Run) -> None:
    """The first of two draws what one alone does, and the second something else."""
    first, second = (kept["numbers"] for kept in run(drawing).kept)
    assert first == numbers_drawn()
    assert len(second) == len(first)
    assert not set(first) & set(second)


def test_killed_and_resumed(run: Run) -> None:
    """When one is killed the other ends too; together they go on, to the very weights that they would have had, or one alone."""
    ended = run(killed)
    assert ended.codes == [70, 70]
    assert "KilledError" in ended.err[0]
    assert "UserError: another of the 2 processes has ended" in ended.err[1]
    resumed = run(going_on)
    assert [kept["done"] for kept in resumed.kept] == [[2], [2]]
    whole = run(adversarially).weights
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.weights.items())
    alone: list[int] = []
    trained(
        PGDAT(eps=0.1, steps=2),
        Recipe(epochs=2),
        batch_norm=True,
        resume=resumed.folder / "state",
        progress=lambda progress: alone.append(progress.epoch),
    )
    assert alone == [2]


def test_mistakes_are_told_to_all(run: Run) -> None:
    """What one process finds out, and what all find out."""
    for err in run(with_another_recipe).err:
        assert "is a training with another recipe: delete it" in err
    for err in run(with_tiny_batches).err:
        assert "UserError: 2 processes cannot share batches of 1 from 1297 images: give a larger batch_size" in err


def test_a_step_of_unequal_shares(run: Run) -> None:
    """Loss, gradients and batch statistics are the means over all images; what one process alone has or changes, stays."""
    ended = run(one_step)
    kept = ended.kept[0]
    images, labels = five()
    network = Parts()
    logits = network.linear(images) * torch.stack([torch.ones(3), network.seconds])[torch.arange(5) % 2]
    value = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(kept["value"], value.detach())
    weight, seconds = torch.autograd.grad(value, [network.linear.weight, network.seconds])
    torch.testing.assert_close(kept["slopes"]["linear.weight"], weight)
    torch.testing.assert_close(kept["slopes"]["seconds"], seconds)
    assert kept["slopes"]["nobodys"] is None
    torch.testing.assert_close(ended.weights["norm.running_mean"], 0.1 * images.mean(0))
    assert ended.weights["places"].tolist() == [1, 2]
    assert ended.weights["untouched"].item() == 0.1


def test_one_prints_and_writes(run: Run) -> None:
    """The command's report and notes come once, and so does its checkpoint, which says how many trained it."""
    ended = run(by_command)
    assert ended.codes == [0, 0]
    assert ended.out[0].startswith(f"{ended.folder}/model.safetensors: small-cnn with gaussian-noise on digits")
    assert len(ended.err[0].splitlines()) == 2
    assert ended.out[1] == ended.err[1] == ""
    (checkpoint,) = ended.folder.glob("*.safetensors*")
    info = read_info(checkpoint)
    assert info is not None
    assert info.training["stages"][0]["processes"] == 2


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        (with_too_high_a_rate, "training diverged in epoch 1, its loss is nan: give a lower lr"),
        (with_an_unreadable_image, "image 7 cannot be read"),
        (
            another_command,
            "advdef sweep was started 2 times by a launcher, which only 'advdef train' is for",
        ),
    ],
)
def test_one_line_tells_why_all_end(run: Run, scenario: Scenario, told: str) -> None:
    """Whether all have met the fault or one; no process waits for another that is gone."""
    ended = run(scenario)
    assert ended.codes == [2, 2]
    lines = [line for err in ended.err for line in err.splitlines() if not line.startswith("training small-cnn")]
    assert len(lines) == 1
    assert lines[0].startswith(f"advdef: error: {told}")
    assert not any(ended.out)


def test_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is connected where no launcher is, nor where a scheduler tells of tasks without a launcher's places."""
    assert Processes.from_environment() == Processes.connect(CPU) == Processes(1, 0)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert Processes.from_environment() == Processes(1, 0)


def test_without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"pip install 'advdef\[accelerate\]'"):
        Processes.connect(CPU)


def test_what_fails_for_others_is_no_lost_process() -> None:
    """A process that has run out of memory tells so itself."""

    def fail() -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError), Processes(2, 0)._connected():
        fail()


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("cuda:0", "--device cuda:0 for 2 processes: give cuda, and each takes one"),
        ("cuda", "a machine with 2 processes needs as many GPUs, and has 1: start fewer, or give --device cpu"),
    ],
)
def test_a_gpu_for_each(
    monkeypatch: pytest.MonkeyPatch, advdef: Callable[..., Any], tmp_path: Path, device: str, told: str
) -> None:
    """Several processes take GPUs by themselves, and need as many."""
    environment = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    ended = advdef(*TRAIN, "--device", device, "-o", str(tmp_path / "model.safetensors"))
    assert ended.code == 2
    assert ended.err == f"advdef: error: {told}\n"
