"""CUDA graphs on a pretended device in a process of its own; see tests/pretended/checks.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.models.graphed_passes import GraphedPasses
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.pgd import PGD
from tests.pretended.checks import failures_of, names_of

SIZES = (13, 12, 9, 16, 5, 13, 2, 8, 1, 6, 11)


class Network(nn.Sequential):
    """A small smooth network: ``(N, 1, 4, 4)`` to ``(N, 3)``."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
        self.eval().requires_grad_(False)


class Waiting(Network):
    """The host waits for the device in each pass."""

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = super().forward(rows)
        return logits if float(logits.sum()) < torch.inf else -logits


class Counting(Network):
    """Each pass adds one to the logits: a number that Python counts, and that a graph would repeat."""

    passes = 0

    def forward(self, rows: Tensor) -> Tensor:
        self.passes += 1
        logits: Tensor = super().forward(rows)
        return logits + self.passes


def deep_network() -> nn.Module:
    """Fifty operations on each row."""
    return nn.Sequential(*(nn.Tanh() for _ in range(50)), nn.Flatten())


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(count)).to("cuda")


def logits_and_gradients(model: Callable[[Tensor], Tensor], rows: Tensor) -> list[Tensor]:
    """Logits, and the gradients of each logit, by one forward pass and several backward passes."""
    leaf = rows.clone().requires_grad_()
    logits = model(leaf)
    gradients = [torch.autograd.grad(logits[:, k].sum(), leaf, retain_graph=True)[0] for k in range(logits.shape[1])]
    return [logits.detach().cpu(), *(gradient.cpu() for gradient in gradients)]


def check_results_are_the_models_own(launches: Callable[[], int]) -> None:
    """At every batch size, with and without gradients, before and after the recording."""
    model = Network().to("cuda")
    passes = GraphedPasses(model, name="network")
    for _ in range(2):
        for size in SIZES:
            rows = images(size)
            for found, expected in zip(
                logits_and_gradients(passes, rows), logits_and_gradients(model, rows), strict=True
            ):
                torch.testing.assert_close(found, expected)
            with torch.no_grad():
                torch.testing.assert_close(passes(rows).cpu(), model(rows).cpu())


def check_gradients_of_several_slopes_together(launches: Callable[[], int]) -> None:
    """DeepFool and FAB ask for those of several classes: vmap gives a recorded backward pass all slopes at once."""
    model, slopes = Network().to("cuda"), torch.eye(3).to("cuda").unsqueeze(1).expand(3, 8, 3)
    passes, rows = GraphedPasses(model, name="network"), images(8)
    gradients = []
    for function in (*[passes] * 5, model):
        leaf = rows.clone().requires_grad_()
        together = torch.func.vmap(partial(torch.autograd.grad, function(leaf), leaf))
        gradients.append(together(slopes)[0].cpu())
    assert gradients[0].shape == (3, 8, 1, 4, 4)
    for found in gradients[:-1]:
        torch.testing.assert_close(found, gradients[-1])


def check_a_recorded_pass_is_a_few_launches(launches: Callable[[], int]) -> None:
    """A copy, the graph and a copy of the result, where the network itself has many operations."""
    passes, rows, before, counts = GraphedPasses(deep_network(), name="deep"), images(8), 0, []
    for _ in range(6):
        before = launches()
        with torch.no_grad():
            passes(rows)
        counts.append(launches() - before)
    assert counts[0] == counts[1] == counts[2] >= 50
    assert counts[4] == counts[5] <= 4


def check_batches_up_to_a_power_of_two_share_a_graph(launches: Callable[[], int]) -> None:
    """A batch that shrinks is not recorded again."""
    passes = GraphedPasses(Network().to("cuda"), name="network")
    counts = []
    with torch.no_grad():
        for size in (16, 15, 14, 13, 12, 11, 10, 9):
            before = launches()
            passes(images(size))
            counts.append(launches() - before)
    assert len({*counts[4:]}) == 1


def check_an_empty_batch_is_no_reason_to_give_up(launches: Callable[[], int]) -> None:
    """It runs as usual, and later batches are recorded."""
    passes, counts = GraphedPasses(deep_network(), name="deep"), []
    with torch.no_grad():
        for rows in [images(0)] * 5 + [images(8)] * 5:
            before = launches()
            assert passes(rows).shape == (len(rows), 16)
            counts.append(launches() - before)
    assert counts[-1] <= 4


def check_a_model_that_waits_runs_as_usual(launches: Callable[[], int]) -> None:
    """Its results are right, and one warning names it."""
    assert_not_recorded(Waiting(), "Waiting cannot be recorded as a CUDA graph")


def check_a_model_whose_passes_differ_runs_as_usual(launches: Callable[[], int]) -> None:
    """A graph would repeat the number of the pass in which it was recorded."""
    assert_not_recorded(Counting(), "gives other logits or gradients than the model")


def assert_not_recorded(model: nn.Module, message: str) -> None:
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("robustbench_cli.attacks.base.models.graphed_passes")
    logger.addHandler(handler)
    passes = GraphedPasses(model.to("cuda"), name=type(model).__name__)
    try:
        with torch.no_grad():
            for size in (8, 8, 8, 8, 4, 4, 4, 4):
                found = passes(images(size)).cpu()
    finally:
        logger.removeHandler(handler)
    expected = Network()(images(4).cpu())
    if isinstance(model, Counting):
        expected = expected + model.passes
    torch.testing.assert_close(found, expected)
    assert len(records) == 1
    assert message in records[0]


def check_too_little_memory_ends_no_attack(launches: Callable[[], int]) -> None:
    """Memory that runs out in a recording leaves the passes as they were; in a pass it is the caller's error."""

    class Large(Network):
        """A number of passes, and then memory runs out."""

        limit = 3

        def forward(self, rows: Tensor) -> Tensor:
            self.limit -= 1
            if self.limit < 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            logits: Tensor = super().forward(rows)
            return logits

    model = Large().to("cuda")
    passes = GraphedPasses(model, name="large")
    with torch.no_grad():
        passes(images(4)), passes(images(4)), passes(images(4))
        model.limit = 1
        with pytest.raises(torch.OutOfMemoryError):
            passes(images(4))
        model.limit = 1
        torch.testing.assert_close(passes(images(4)).cpu(), Network()(images(4).cpu()))


def check_a_backward_pass_must_follow_its_forward_pass(launches: Callable[[], int]) -> None:
    """The activations of an earlier pass are overwritten, which is an error and not a wrong gradient."""
    passes = GraphedPasses(Network().to("cuda"), name="network")
    leaf = images(4).requires_grad_()
    for _ in range(4):
        logits = passes(leaf)
    passes(images(4).requires_grad_())
    with pytest.raises(RuntimeError, match="must follow its forward pass"):
        logits.sum().backward()


def check_an_attack_finds_the_same_images(launches: Callable[[], int]) -> None:
    """PGD with several batches, restarts and images that leave; the same source without graphs is the reference."""
    model = Network().to("cuda")
    rows, labels = images(40), torch.arange(40, device="cuda") % 3
    found = []
    for graphs in (True, False):
        source = EOT(model, batch_size=16, graphs=graphs)
        attack = PGD(steps=12, restarts=2)
        threat = attack.threat(rows, norm="linf", eps=0.1, targeted=False)
        found.append(attack.run(source, rows, labels, threat, Random.of(0, rows)).cpu())
        source.gradient(rows, labels, cross_entropy)
    torch.testing.assert_close(*found)


CHECKS = names_of(globals())


@pytest.fixture(scope="module")
def failures() -> dict[str, str | None]:
    return failures_of(__file__)


@pytest.mark.parametrize("name", CHECKS)
def test_on_the_pretended_device(name: str, failures: dict[str, str | None]) -> None:
    assert failures[name] is None, failures[name]
