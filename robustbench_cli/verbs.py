"""The verbs of the Python interface that take attacks and defenses by name."""

from __future__ import annotations

import html
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Unpack

from robustbench_cli.core.python_messages import names_keywords

if TYPE_CHECKING:
    from torch import nn

    from robustbench_cli.attacks.base.attack import Attack
    from robustbench_cli.attacks.base.inputs import Images, Labels, Radius
    from robustbench_cli.benchmarks.interface.certify import Certified, CertifyOptions
    from robustbench_cli.benchmarks.interface.evaluate import Progress
    from robustbench_cli.benchmarks.interface.evaluated import Evaluated
    from robustbench_cli.benchmarks.interface.planned import Named
    from robustbench_cli.defenses.base.defense import Defense

__all__ = ["attack", "certify", "defense", "evaluate"]


def attack(name: str, /, **parameters: Any) -> Attack:
    """An attack by its name on the command line.

    Args:
        name: Such as ``"apgd-ce"``, ``"torchattacks:PGD"`` or ``"my_file.py:MyAttack"``.
        **parameters: See ``advdef show attack NAME``.

    Returns:
        The attack: give it to :func:`evaluate`, or call it, as in ``attack(model, images, labels, eps="8/255")``.

    Raises:
        UserError: The name or a parameter is unknown, or a value is not allowed.

    >>> import advdef
    >>> advdef.attack("pgd", steps=20)
    PGD(steps=20, step_size=None, restarts=1, random_start=True, l1_sparsity=0.03)
    """
    from robustbench_cli.attacks import registry

    built: Attack = registry.load(name)(**parameters)
    return built


def defense(name: str, /, **parameters: Any) -> Defense:
    """A defense by its name on the command line.

    Args:
        name: Such as ``"hrs"`` or ``"my_file.py:MyDefense"``.
        **parameters: See ``advdef show defense NAME``.

    Returns:
        The defense, for ``advdef.defend``.

    Raises:
        UserError: The name or a parameter is unknown, or a value is not allowed.

    >>> import advdef
    >>> advdef.defense("jpeg", quality=50).quality
    50
    """
    from robustbench_cli.defenses import registry

    built: Defense = registry.load(name)(**parameters)
    return built


@names_keywords
def evaluate(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    attack: Named = None,
    progress: bool | Callable[[int], None] | None = None,
    **keywords: Any,
) -> Evaluated:
    """Measures the accuracy of a model under one or several attacks, as ``advdef attack`` does.

    No attack is trusted: its images are projected into the ball and the box, and scored by the deployed rule on held-out draws.
    The clean image is always another candidate.

    Args:
        model: Images in [0, 1] to logits, normalization inside; it is left as it was.
        images: ``(N, C, H, W)``, floats in [0, 1] or uint8, as a tensor or an array.
        labels: ``(N,)`` in [0, K), of any integer type.
        attack: An attack with its parameters, such as ``PGD(steps=40)``; its name; the name or the file of a suite; or a list of
            attacks. ``None`` runs pgd, cw-pgd and cw.
        progress: Whether to show a progress bar. ``None`` shows one in a notebook and in an interactive session. A function is
            called after each batch with the number of images done.
        **keywords: Fields of :class:`~robustbench_cli.benchmarks.evaluation.options.EvaluationOptions`, such as ``eps="8/255"``,
            ``norm``, ``eot``, ``repeats`` and ``seed``, and of :class:`~robustbench_cli.benchmarks.evaluation.context.RunContext`,
            such as ``device`` and ``batch_size``; or both as objects, ``options`` and ``context``.

    Returns:
        The figures by column in ``summary``, the checks that speak against them in ``flags``, the images in ``to_frame()``. Of
        several attacks, these are of the per-image worst case, and ``table`` has a row for each attack.

    Raises:
        UserError: A name or a keyword is unknown, an input is not allowed, a radius is missing, the model does not give
            logits, the attack gives no images, or ``eot`` is exact and the draws of the model cannot be counted.
    """
    from robustbench_cli.benchmarks.interface.evaluate import evaluate_attacks

    if callable(progress):
        keywords["progress"] = progress
    with _shown(None if callable(progress) else progress) as report:
        return evaluate_attacks(model, images, labels, attack, report=report, **keywords)


@names_keywords
def certify(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    eps: Radius | Sequence[Radius],
    progress: bool | Callable[[int], None] | None = None,
    **options: Unpack[CertifyOptions],
) -> Certified:
    """Certifies a model, as ``advdef certify`` does: a lower bound of its accuracy that no attack can break.

    Args:
        model: Images in [0, 1] to logits, normalization inside; it is left as it was.
        images: ``(N, C, H, W)``, floats in [0, 1] or uint8, as a tensor or an array.
        labels: ``(N,)`` in [0, K), of any integer type.
        eps: The radius, or several.
        progress: See :func:`evaluate`.
        **options: ``sigma`` for a vote under noise, with ``n0``, ``samples`` and ``alpha``; or ``method``, ``norm`` and ``branches``;
            and ``seed``, ``device`` and ``batch_size``. See
            :class:`~robustbench_cli.benchmarks.interface.certify.CertifyOptions`.

    Returns:
        The certified accuracy at each radius in ``table``, and the class and the radius of each image in ``to_frame()``.

    Raises:
        UserError: An argument is not allowed, or the model cannot be certified.
    """
    from robustbench_cli.benchmarks.interface import certify as in_memory

    with _shown(None if callable(progress) else progress) as report:

        def done(number: int) -> None:
            report("certify", number, len(images))  # type: ignore[arg-type]
            if callable(progress):
                progress(number)

        return in_memory.certify(model, images, labels, eps, done, **options)


@contextmanager
def _shown(wanted: bool | None) -> Iterator[Progress]:
    """A function that shows the images done of each attack: in a notebook, or on a terminal."""
    in_notebook = _is_notebook()
    if not (wanted or (wanted is None and (in_notebook or hasattr(sys, "ps1")))):
        yield lambda *_: None
    elif in_notebook:
        yield _NotebookBars()
    else:
        from robustbench_cli.cli import console

        with console.progress() as bars:
            shown: dict[str, console.Bar] = {}

            def report(label: str, done: int, total: int) -> None:
                if label not in shown:
                    shown[label] = bars.add(label, total=total)
                shown[label].update(completed=done)

            yield report


def _is_notebook() -> bool:
    """Whether this is the kernel of a notebook, which displays HTML."""
    module = sys.modules.get("IPython")
    return hasattr(None if module is None else module.get_ipython(), "kernel")


class _NotebookBars:
    """A bar for each attack, below the cell of the notebook."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        # IPython has no annotations.
        page: Any = importlib.import_module("IPython.display")
        bar = page.HTML(
            f'<progress value="{done}" max="{total}"></progress> {html.escape(label)}: {done} of {total} images'
        )
        if label in self._handles:
            self._handles[label].update(bar)
        else:
            self._handles[label] = page.display(bar, display_id=True)
