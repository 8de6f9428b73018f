from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.models.base.robustbench_package import download, from_file, pretrained, untrained
from robustbench_cli.benchmarks.models.base.robustbench_zoo import find_entry
from robustbench_cli.core.errors import UserError

# The parts of RobustBench 1.1.1 that are used, with a linear network. Its loader loads any pickle, and prints.
UTILS = """
import os
from enum import Enum
from types import SimpleNamespace

import torch
from torch import nn

BenchmarkDataset = Enum("BenchmarkDataset", {"cifar_10": "cifar10"})
ThreatModel = Enum("ThreatModel", {"Linf": "Linf"})
timm = SimpleNamespace(is_model=lambda name: False)


class Ensemble(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = linear()

    def forward(self, x):
        return self.network(x).softmax(1)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


all_models = {BenchmarkDataset.cifar_10: {ThreatModel.Linf: {
    "Pang2020Boosting": {"model": linear, "gdrive_id": "b"},
    "Dai2021Parameterizing": {"model": Ensemble, "gdrive_id": "d"},
    "Chen2020Adversarial": {"model": Ensemble, "gdrive_id": ["1", "2"]},
    "Carmon2019Unlabeled": {"model": linear, "gdrive_id": "c"},
    "Gowal2021Improving_28_10_ddpm_100m": {"model": linear, "gdrive_id": "page"},
}}}


def download_gdrive_new(gdrive_id, fname_save):
    print(f"Downloading {fname_save}")
    if gdrive_id == "c":
        with open(fname_save, "w") as file:
            file.write("half")
        raise ConnectionError("no network")
    if gdrive_id == "page":
        with open(fname_save, "w") as file:
            file.write("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
        return
    torch.save({"state_dict": {"module." + k: v for k, v in linear().state_dict().items()}}, fname_save)


def load_model(model_name, model_dir, dataset, threat_model):
    facts = all_models[BenchmarkDataset(dataset)][ThreatModel(threat_model)][model_name]
    path = model_dir / dataset / threat_model / f"{model_name}.pt"
    os.makedirs(path.parent, exist_ok=True)
    if not os.path.isfile(path):
        download_gdrive_new(facts["gdrive_id"], path)
    state = torch.load(path, map_location=torch.device("cpu"), weights_only=False)["state_dict"]
    model = facts["model"]()
    model.load_state_dict({name.replace("module.", ""): tensor for name, tensor in state.items()})
    return model.eval()
"""

BOOSTING = find_entry("Pang2020Boosting")


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with the name and the functions of RobustBench."""
    folder = tmp_path / "site" / "robustbench"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "utils.py").write_text(UTILS)
    for name in ("robustbench", "robustbench.utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield
    for name in ("robustbench", "robustbench.utils"):
        sys.modules.pop(name, None)


def weights(folder: Path, *, prefix: str = "") -> tuple[Path, nn.Linear]:
    """A file of a linear network, and that network."""
    linear, path = nn.Linear(3072, 10), folder / "weights.pt"
    torch.save({"state_dict": {f"{prefix}1.{name}": tensor for name, tensor in linear.state_dict().items()}}, path)
    return path, linear


def test_a_network_that_only_robustbench_has(tmp_path: Path) -> None:
    """RobustBench builds the network and fills it with the user's file."""
    path, linear = weights(tmp_path, prefix="module.")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(from_file(BOOSTING, path)(images), linear(images.flatten(1)))
    assert untrained(BOOSTING)(images).shape == (2, 10)


def test_its_probabilities_become_logits(tmp_path: Path) -> None:
    """The softmax of the logits are the probabilities of the network."""
    path, linear = weights(tmp_path, prefix="network.")
    images = torch.rand(2, 3, 32, 32)
    logits = from_file(find_entry("Dai2021Parameterizing"), path)(images)
    torch.testing.assert_close(logits.softmax(1), linear(images.flatten(1)).softmax(1))


def saturated(folder: Path, weights: Tensor, bias: Tensor) -> nn.Module:
    """The network with the softmax at its end, all of whose pixels have the same weights."""
    path = folder / "saturated.pt"
    tensors = {"network.1.weight": weights[:, None].expand(10, 3072) / 3072, "network.1.bias": bias}
    torch.save({"state_dict": tensors}, path)
    return from_file(find_entry("Dai2021Parameterizing"), path).eval()


def test_an_underflowed_probability_does_not_blind_an_attack(tmp_path: Path) -> None:
    """The probability of one class is 0 in float32; two others are close. Without a clamp all gradients are NaN."""
    weights, bias = torch.zeros(10), torch.full((10,), -50.0)
    weights[0], bias[0], bias[1], bias[2] = 1.0, 0.0, 0.49, -500.0
    model, images = saturated(tmp_path, weights, bias), torch.full((4, 3, 32, 32), 0.5)
    assert (model(images).softmax(1)[:, 2] < 1e-30).all()
    result = evaluate(model, images, torch.zeros(4, dtype=torch.long), attack=PGD(steps=2), eps=0.03)
    assert (result.summary["clean_accuracy"], result.summary["robust_accuracy"]) == (1, 0)


def test_a_softmax_without_any_gradient_is_flagged(tmp_path: Path) -> None:
    """All classes but one have underflowed: nothing is left of the gradient, and the row says so."""
    weights, bias = torch.zeros(10), torch.full((10,), -500.0)
    weights[0], bias[0] = 1.0, 0.0
    model, images = saturated(tmp_path, weights, bias), torch.full((4, 3, 32, 32), 0.5)
    result = evaluate(model, images, torch.zeros(4, dtype=torch.long), attack=PGD(steps=2), eps=0.03)
    assert result.summary["robust_accuracy"] == 1
    assert "zero-gradient" in result.flags


def test_a_web_page_does_not_stay_in_the_cache(tmp_path: Path) -> None:
    """The host answers a download over its quota with a page; the next run downloads again."""
    entry, path = find_entry("Gowal2021Improving_28_10_ddpm_100m"), tmp_path / "a" / "weights.pt"
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*is a web page.*\): go online, or give"):
        download(entry, path)
    assert not list(path.parent.iterdir())


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """Our reader replaces RobustBench's, for the user's file and for a downloaded one."""
    path = tmp_path / "bad.pt"
    torch.save({"state_dict": {"1.weight": Path("x")}}, path)
    with pytest.raises(UserError, match=r"bad\.pt holds more than tensors, and loading that could run code"):
        from_file(BOOSTING, path)
    cached = tmp_path / "cache" / f"{BOOSTING.path}.pt"
    cached.parent.mkdir(parents=True)
    path.rename(cached)
    with pytest.raises(UserError, match=r"Pang2020Boosting\.pt holds more than tensors"):
        pretrained(BOOSTING, tmp_path / "cache")
    assert sys.modules["robustbench.utils"].torch is torch


def test_downloads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is there as a whole or not at all, and nothing is printed among the results."""
    assert pretrained(BOOSTING, tmp_path / "cache")(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    carmon = find_entry("Carmon2019Unlabeled")
    with pytest.raises(UserError, match=r"cannot be downloaded \(ConnectionError: no network\): go online, or give"):
        download(carmon, tmp_path / "a" / "carmon.pt")
    assert not list((tmp_path / "a").iterdir())
    download(BOOSTING, tmp_path / "a" / "b.pt")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.pt"]
    assert capsys.readouterr().out == ""


def test_what_does_not_go(tmp_path: Path) -> None:
    """One line each: an ensemble of several files, an entry that an older RobustBench lacks, a file of another network."""
    path, _ = weights(tmp_path)
    with pytest.raises(UserError, match="has several files: leave out --checkpoint"):
        from_file(find_entry("Chen2020Adversarial"), path)
    with pytest.raises(
        UserError, match="the installed RobustBench has no cifar10/Linf/Peng2023Robust: install a newer"
    ):
        from_file(find_entry("cifar10/Linf/Peng2023Robust"), path)
    torch.save({"state_dict": {"1.weight": torch.zeros(3)}}, path)
    with pytest.raises(UserError, match=r"weights\.pt does not fit robustbench:cifar10/Linf/Pang2020Boosting"):
        from_file(BOOSTING, path)


def test_a_package_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchattacks installs an old RobustBench whose requirements are missing: the line names what is missing."""
    (tmp_path / "site" / "robustbench" / "utils.py").write_text("import no_such_requirement")
    with pytest.raises(
        UserError, match=r"the network of .* needs robustbench, which cannot be imported: .*no_such_requirement"
    ):
        untrained(BOOSTING)
