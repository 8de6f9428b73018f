"""``advdef attack``: accuracy under attack of one or more defended models."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from robustbench_cli.attacks.base.norm import NORMS
from robustbench_cli.cli import console
from robustbench_cli.cli.completion import complete_names
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import (
    Common,
    command,
    computing,
    eot_option,
    first_images,
    option,
    output_file,
    repeats_option,
    warn_of_fewer_images,
)
from robustbench_cli.cli.param_types import EPS, SETTING, OneOf, Setting
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.attacks.base.eps import Eps
    from robustbench_cli.attacks.base.gradients.draws import Draws
    from robustbench_cli.attacks.base.norm import Norm
    from robustbench_cli.benchmarks.evaluation.options import Targeted
    from robustbench_cli.benchmarks.suites.config import AttackGroup
    from robustbench_cli.benchmarks.suites.suite import AttackChoice

__all__ = ["attack"]

TARGETS = ("next", "random", "least-likely", "all")


@command("attack")
@model_options(checkpoints=True)
@option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME",
    group="Attack",
    shell_complete=complete_names("attack", prefix="eot-"),
    help="Attack: a name of 'advdef list attacks'; 'eot-NAME' is NAME with --eot 10.  [default: pgd, cw-pgd and cw]",
)
@option(
    "--suite",
    "suite_name",
    metavar="NAME",
    group="Attack",
    shell_complete=complete_names("suite"),
    help="Attacks of a suite: a name of 'advdef list suites', or a .yaml file.",
)
@option(
    "--set",
    "settings",
    type=SETTING,
    multiple=True,
    group="Attack",
    help="Parameter of an attack, a defense or the training, such as pgd.steps=100.",
)
@option("--norm", type=OneOf(NORMS), group="Attack", help="Norm of the perturbation.  [default: linf]")
@option(
    "--eps",
    type=EPS,
    multiple=True,
    group="Attack",
    help="Radius of the perturbation, such as 0.1 or 8/255.  [default in linf: the data set's usual radius]",
)
@eot_option
@option(
    "--precision",
    type=OneOf(("float32", "bf16")),
    default="float32",
    show_default=True,
    group="Attack",
    help="Precision of the gradients of fixed-radius attacks; every image is scored in float32.",
)
@option(
    "--targeted",
    type=OneOf(TARGETS),
    group="Attack",
    help="Target class of a targeted attack.  [default: untargeted]",
)
@first_images("Number of test images, from the first on.")
@repeats_option
@output_file()
@option(
    "--save-images",
    type=click.Path(file_okay=False, path_type=Path),
    group="Output",
    help="Save the adversarial images to this folder (8 bits, .npz and .png), and score them again as saved.",
)
@computing
def attack(
    common: Common,
    words: ModelArgs,
    attacks: tuple[str, ...],
    suite_name: str | None,
    settings: tuple[Setting, ...],
    norm: Norm | None,
    eps: tuple[Eps, ...],
    eot: Draws | None,
    precision: Literal["float32", "bf16"],
    targeted: Targeted | None,
    n: int,
    repeats: int | None,
    output: Path | None,
    save_images: Path | None,
) -> None:
    """Attack a defended model and print what is left of its accuracy.

    Without a checkpoint the model is trained first, once, and kept in the cache folder. Without --attack: pgd, cw-pgd
    and cw, each adapted to the defense. What the store has already is not computed again.
    """
    from robustbench_cli.benchmarks.suites.config import AttackGroup
    from robustbench_cli.benchmarks.suites.grid import attack_choices, attack_kind
    from robustbench_cli.benchmarks.suites.load import read_suite
    from robustbench_cli.benchmarks.suites.plan import DEFAULT_ATTACKS, Part
    from robustbench_cli.benchmarks.suites.suite import Suite, usual_norm
    from robustbench_cli.cli.parameters import distribute, members_named
    from robustbench_cli.cli.session import attack_all, model_cache, note_other_norms, raise_failures, report_results
    from robustbench_cli.cli.tables import require_place

    if output is not None:
        require_place(output)
    if attacks and suite_name:
        raise UserError("--attack and --suite name attacks both: give one of them")
    groups: Sequence[AttackGroup]
    if suite_name:
        named = read_suite(suite_name)
        named.require_attacks_only(suite_name)
        groups = named.groups
    else:
        groups = [AttackGroup(attacks=tuple(members_named(attacks or DEFAULT_ATTACKS)))]
    kinds = {member.name: attack_kind(member) for group in groups for member in group.attacks}
    if suite_name:
        norms = {name: kind.norms for name, kind in kinds.items()}
        groups = _knowing(groups, norm or "linf", norms)
    parameters = distribute(settings, {**kinds, **words.kinds()})
    choices = [
        [
            choice
            for member in group.attacks
            for choice in attack_choices(member, parameters[member.name], eot, named=words.named())
        ]
        for group in groups
    ]
    if attacks and (norm is not None or eps):
        _require_known(choices[0], norm, eps)
    elif not suite_name and norm is not None:
        choices = [_knowing_of_the_usual(choices[0], norm)]
    elif eps:
        for group in choices:
            note_other_norms(group, usual_norm(group))
    with console.progress() as shown:
        dataset = words.dataset_name()
        cache = model_cache(common, dataset, words.recipe(parameters), shown)
        defended_models = functools.cache(lambda: words.defended_models(cache, parameters))
        parts = [
            Part(
                suite=Suite(
                    dataset=dataset,
                    n=n,
                    attacks=attacking,
                    norm=norm,
                    eps=eps,
                    targeted=targeted or "no",
                    repeats=repeats,
                    seeds=(common.seed,),
                    precision=precision,
                    cascade=group.cascade,
                    accounting=group.accounting,
                ),
                defended_models=defended_models,
            )
            for group, attacking in zip(groups, choices, strict=True)
        ]
        results, failures = attack_all(common, parts, shown, save_images=save_images)
    if results:
        warn_of_fewer_images(n, results[0].cell.n, dataset)
    report_results(common.store, results, failures, output)
    raise_failures(failures)


def _knowing(groups: Sequence[AttackGroup], norm: Norm, norms: Mapping[str, Sequence[Norm]]) -> Sequence[AttackGroup]:
    """The attacks of a suite that know a norm."""
    found = [group for group in groups if any(norm in member.among(norms[member.name]) for member in group.attacks)]
    return [group.knowing(norm, norms) for group in found or groups]


def _require_known(choices: Sequence[AttackChoice], norm: Norm | None, eps: Sequence[Eps]) -> None:
    """Makes sure that no attack that the user named passes over the norm, or the radii, that they gave.

    Raises:
        UserError: One does not know the norm.
    """
    from robustbench_cli.benchmarks.suites.suite import does_not_know, usual_norm

    for choice in choices:
        if norm is not None and norm not in choice.norms:
            raise does_not_know(choice, norm)
        if norm is None and usual_norm(choices) not in choice.norms:
            usual = usual_norm(choices)
            raise UserError(
                f"--eps {eps[0].text} is a radius in {usual}, the usual norm of these attacks: "
                f"{does_not_know(choice, usual)}; or give --norm"
            )


def _knowing_of_the_usual(choices: Sequence[AttackChoice], norm: Norm) -> list[AttackChoice]:
    """Of the attacks where the user names none, those that know their norm."""
    from robustbench_cli.benchmarks.suites.suite import does_not_know

    knowing = [choice for choice in choices if norm in choice.norms]
    if not knowing:
        raise does_not_know(choices[0], norm)
    for choice in choices:
        if choice not in knowing:
            console.note(f"{choice.spec.name} is left out: {does_not_know(choice, norm)}")
    return knowing
