"""The pytest plugin: the fixture ``advdef_gate`` fails a test where a model is less robust than a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustbench_cli.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from robustbench_cli.attacks.base.inputs import Images, Labels
    from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
    from robustbench_cli.benchmarks.interface.evaluated import Evaluated
    from robustbench_cli.benchmarks.interface.planned import Named
    from robustbench_cli.defenses.base.defense import Defense

__all__ = ["advdef_gate", "gate"]

_LOADING = ("weights", "model", "shape", "classes", "mean", "std", "class_names")
"""The keywords of ``advdef.load_model``."""


@pytest.fixture
def advdef_gate() -> Callable[..., Evaluated]:
    """A function that attacks a model and fails the test where a row breaks a limit; see :func:`gate`.

    ``advdef_gate(model, dataset="digits", attack="pgd", eps=0.1, robust_accuracy=0.4)``
    """

    def checked(*arguments: Any, **keywords: Any) -> Evaluated:
        try:
            return gate(*arguments, **keywords)
        except UserError as error:
            message = str(error)
        pytest.fail(f"advdef: {message}", pytrace=False)

    return checked


def gate(
    model: nn.Module | str | Path,
    /,
    *,
    dataset: Any = "digits",
    attack: Named = "pgd",
    defense: Defense | str | None = None,
    eps: float | str | None = None,
    n: int = 200,
    fail_on_flag: str | None = None,
    **keywords: Any,
) -> Evaluated:
    """Attacks a model and judges the result.

    Args:
        model: Images in [0, 1] to logits; or a checkpoint or the name of published weights, as ``advdef.load_model`` takes it.
        dataset: The name of a data set, whose first test images are attacked; or images and labels.
        attack: An attack, its name, a list of attacks, or the name of a suite, of which the worst case is judged.
        defense: A defense around the model, or its name; one that trains does so on the data set's training images.
        eps: The radius, such as ``"8/255"``; by default the data set's usual radius in linf.
        n: The number of images.
        fail_on_flag: A flag that fails the test; ``"any"`` for all.
        **keywords: Limits by column, such as ``robust_accuracy=0.4``: lower limits where higher is better, otherwise upper ones.
            The columns are those that one evaluation measures. For a file or a name, the keywords of ``advdef.load_model``, such
            as ``model="net.py:build"``, ``mean`` and ``std``; the shape and the classes of a file are by default those of the
            data set. All other keywords are those of ``advdef.evaluate``.

    Returns:
        The evaluation, for further tests.

    Raises:
        UserError: There is no limit, or an argument is not allowed.
    """
    # pytest itself must start without torch.
    import robustbench_cli as advdef
    from robustbench_cli.benchmarks.interface.planned import PlannedAttacks
    from robustbench_cli.benchmarks.reports.columns import COLUMNS

    # Other columns need a store: of undefended models, certificates or all corruptions.
    judged = {entry.name for entry in COLUMNS if entry.gate is not None and entry.only in {None, "radius"}}
    limits = {name: value for name, value in keywords.items() if name in judged}
    options, loading = _options(keywords, judged, in_memory=not isinstance(model, str | Path))
    if not limits and fail_on_flag is None:
        raise UserError("advdef_gate judges nothing: give a limit, such as robust_accuracy=0.4, or fail_on_flag='any'")
    norm = PlannedAttacks(attack).norm(options.get("norm"))
    loaded = advdef.load_dataset(dataset) if isinstance(dataset, str) else None
    test: Any = dataset if loaded is None else advdef.first_examples(loaded.split("test"), n)
    eps = loaded.eps if loaded is not None and eps is None and norm == "linf" else eps
    images, labels = (test.images, test.labels) if loaded is not None else (values[:n] for values in test)
    protected, label = _defended(_network(model, loading, loaded, images), defense, loaded, (images, labels))
    result = advdef.evaluate(protected, images, labels, attack=attack, eps=eps, **options)
    row = {
        **result.row,
        "dataset": dataset if isinstance(dataset, str) else "own-data",
        "model": str(model) if isinstance(model, str | Path) else type(model).__name__,
        "defense": label,
    }
    if broken := _broken(row, limits, fail_on_flag):
        pytest.fail("\n".join(broken), pytrace=False)
    return result


def _network(
    model: nn.Module | str | Path, loading: dict[str, Any], dataset: Dataset | None, images: Images
) -> nn.Module:
    """The model; a file that advdef did not write has by default the shape and the classes of the data set, as in a command.

    Args:
        model: See :func:`gate`.
        loading: The caller's keywords of ``advdef.load_model``.
        dataset: The data set; ``None`` if the caller gave images.
        images: The images to attack.
    """
    import robustbench_cli as advdef
    from robustbench_cli.attacks.base.inputs import checked_images
    from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info
    from robustbench_cli.benchmarks.weights.file_names import SUFFIXES

    if not isinstance(model, str | Path):
        return model
    is_file = isinstance(model, Path) or model.endswith(SUFFIXES)
    if is_file and read_info(Path(model), named=(loading.get("model"),)) is None:
        of_data = {
            "shape": tuple(checked_images(images).shape[1:]),
            "classes": None if dataset is None else dataset.classes,
        }
        loading = of_data | loading
    return advdef.load_model(model, **loading)


def _defended(
    network: nn.Module, defense: Defense | str | None, dataset: Dataset | None, examples: tuple[Images, Labels]
) -> tuple[nn.Module, str]:
    """The model with its defense, and the defense's label.

    Args:
        network: The model.
        defense: See :func:`gate`.
        dataset: The data set; ``None`` if the caller gave images.
        examples: The images to attack, and their labels.

    Raises:
        UserError: The defense trains, and there are no training images.
    """
    if defense is None:
        return network, "as given"
    import robustbench_cli as advdef
    from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
    from robustbench_cli.defenses import registry

    built = advdef.defense(defense) if isinstance(defense, str) else defense
    name = defense if isinstance(defense, str) else registry.name_of(type(built))
    if built.needs_fit and dataset is None:
        raise UserError(
            f"{name} trains, and the images are those to attack: give the name of a data set, or advdef.defend's model"
        )
    data = examples if dataset is None else dataset.split("train" if built.needs_fit else "test")
    return advdef.defend(network, built, data), MethodSpec.of(built, name=name).label


def _options(keywords: dict[str, Any], columns: set[str], *, in_memory: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords of ``advdef.evaluate``, and those of ``advdef.load_model``.

    Args:
        keywords: All keywords.
        columns: The columns that have limits.
        in_memory: Whether the model is neither a file nor a name.

    Raises:
        UserError: A keyword is unknown, or would load a model that is in memory.
    """
    from robustbench_cli.benchmarks.evaluation.context import RunContext
    from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions

    known = {*EvaluationOptions.model_fields, *(field.name for field in fields(RunContext)), "options", "context"}
    loading = {name: value for name, value in keywords.items() if name in _LOADING}
    options = {name: value for name, value in keywords.items() if name not in loading and name not in columns}
    for name in options:
        if name not in known:
            own = ("dataset", "attack", "defense", "n", "fail_on_flag", *_LOADING)
            raise UserError(f"advdef_gate has no parameter '{name}': {did_you_mean(name, [*own, *columns, *known])}")
    if loading and in_memory:
        name = next(iter(loading))
        raise UserError(f"advdef_gate: {name} is for a file or a name, and the model is in memory: leave it out")
    return options, loading


def _broken(row: dict[str, Any], limits: dict[str, float], flag: str | None) -> Sequence[str]:
    """What a row breaks, a line for each, with the figures of the row after them; empty where it breaks nothing.

    Args:
        row: The row by column.
        limits: The limits by column.
        flag: The flag that the row must not have; ``"any"`` for all.
    """
    import pandas as pd

    from robustbench_cli.benchmarks.reports.cases import measured
    from robustbench_cli.benchmarks.reports.gate_options import GATES
    from robustbench_cli.benchmarks.reports.readable import records
    from robustbench_cli.benchmarks.reports.requirements import judge, limit_in_its_direction, parse_requirement

    requirements = [limit_in_its_direction(f"{name}={value!r}") for name, value in limits.items()]
    if flag is not None:
        requirements.append(parse_requirement(next(gate for gate in GATES if gate.kind == "flag"), flag))
    table = pd.DataFrame([row])
    verdicts = [judge(requirement, table) for requirement in requirements]
    lines = [line for verdict in verdicts for line in (*verdict.broken, *verdict.missing)]
    return [f"advdef: {line}" for line in lines] + [f"advdef: {measured(*records(table))}"] if lines else []
