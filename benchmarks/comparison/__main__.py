"""Prints the measured comparisons as tables in Markdown."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import median

import torch

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison.contest import Contest, Entry, distances, robust_accuracy, stands
from robustbench_cli.benchmarks.comparison.costs import certify_overhead, hrs_forward, pgd_overhead
from robustbench_cli.benchmarks.comparison.models import (
    ADVERSARIAL,
    DROPOUT,
    NOISE,
    PLAIN,
    SWITCHING,
    ImageSet,
    classified_right,
    test_images,
    trained,
    training_images,
)
from robustbench_cli.benchmarks.comparison.optimality import NORMS, compare_minimal_norm
from robustbench_cli.benchmarks.comparison.peers import BATCH, LIBRARIES, AutoAttackBudget, CWBudget, PGDBudget
from robustbench_cli.benchmarks.comparison.single import single_attacks, single_table
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.comparison.timing import ratio
from robustbench_cli.benchmarks.comparison.trainers import TRAINERS, compare_trainers
from robustbench_cli.benchmarks.devices import keep_freed_memory

OURS, *PEERS = LIBRARIES

TIMED = ((PLAIN, PGDBudget(norm="linf", eps=0.1)), (ADVERSARIAL, PGDBudget(norm="linf", eps=0.1)))
"""Runs of PGD whose time is compared."""

SCORED = (
    (PLAIN, PGDBudget(norm="linf", eps=0.02)),
    (PLAIN, PGDBudget(norm="l2", eps=0.5)),
    (ADVERSARIAL, PGDBudget(norm="l2", eps=1.5)),
)
"""Runs of PGD at other radii, at which some images stand and some do not: made once, to compare what they find."""

AUTOATTACKED = {PLAIN: 0.02, ADVERSARIAL: 0.1, SWITCHING: 0.02, NOISE: 0.05, DROPOUT: 0.02}
"""Radii in linf at which the standard suite is compared with AutoAttack, of each model."""


def main() -> None:
    """Reads the command line and prints what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m robustbench_cli.benchmarks.comparison", description=__doc__)
    parser.add_argument(
        "what",
        choices=("costs", "peers", "autoattack", "single", "minimal-norm", "trained"),
        help="what ours cost; how they stand beside other libraries'; the standard suite beside torchattacks' AutoAttack, "
        "and beside every single attack of torchattacks, Foolbox and ART; the minimal-norm attacks beside Foolbox's, "
        "torchattacks' and adv_lib's; adversarial training beside ART's",
    )
    parser.add_argument("--turns", type=int, default=3, help="times that a run is repeated whose time counts (3)")
    parser.add_argument("--images", type=int, default=500, help="test images, but for minimal norms (500)")
    parser.add_argument(
        "--cw-images", type=int, default=50, help="test images for minimal norms, of those classified right (50)"
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="the other libraries (all)")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=AUTOATTACKED,
        default=AUTOATTACKED,
        help="the models, but for costs and peers (all)",
    )
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=NORMS, help="the norms for minimal norms (all)")
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=TRAINERS, help="what to train by (all)")
    parser.add_argument("--epochs", type=int, default=5, help="of training (5)")
    parser.add_argument("--train-images", type=int, default=10_000, help="training images (10000)")
    given = parser.parse_args()
    threads = torch.get_num_threads()
    timed = "1 thread, processor seconds" if threads == 1 else f"{threads} threads, seconds of the clock"
    print(f"torch {torch.__version__}, {platform.machine()}, {timed}; ratios: median (lowest to highest) of the turns")
    if given.what == "costs":
        compare_costs(images=given.images, turns=given.turns)
    elif given.what == "autoattack":
        compare_autoattack(given.models, images=given.images)
    elif given.what == "single":
        compare_single(given.models, images=given.images)
    elif given.what == "minimal-norm":
        compare_minimal_norm(given.models, given.norms, images=given.cw_images)
    elif given.what == "trained":
        training, test = training_images(given.train_images), test_images(given.images)
        compare_trainers(given.trainers, training, test, epochs=given.epochs, turns=given.turns)
    else:
        compare_libraries(given.peers, images=given.images, cw_images=given.cw_images, turns=given.turns)


def compare_costs(*, images: int, turns: int) -> None:
    """Prints what our own attacks and defenses cost, beside the least that they could."""
    keep_freed_memory()
    defended = trained()[ADVERSARIAL]
    examples = classified_right(defended, test_images(images))
    measured = [
        (
            f"PGD, {norm}, no image falls",
            "as many forward and backward passes",
            pgd_overhead(defended, examples, norm, turns=turns),
        )
        for norm in ("linf", "l2")
    ]
    measured += [
        (f"HRS {label}, forward, 256 rows", "the network alone", hrs_forward(channels, rows=256, turns=10 * turns))
        for label, channels in (("[5][5]", (5, 5)), ("[10][10]", (10, 10)))
    ]
    measured += [
        (
            f"certify, {model}, 10 images, 10,000 samples",
            "as many forward passes",
            certify_overhead(model, images=10, turns=turns),
        )
        for model in ("small-cnn", "paper-cnn")
    ]
    rows = [(what, beside, str(found)) for what, beside, found in measured]
    print(f"\n{markdown(('what', 'over', 'ratio'), rows)}")


def compare_libraries(peers: Sequence[str], *, images: int, cw_images: int, turns: int) -> None:
    """Prints what our attacks and those of other libraries find, and how long they take."""
    names = [OURS, *peers]
    print(", ".join(f"{name} {version(LIBRARIES[name].distribution)}" for name in names))
    print(f"The peers are given {BATCH} images at once; each library runs in a process of its own.", flush=True)
    defended_models, examples = trained(), test_images(images)
    with Contest(names) as contest:
        for runs, repeated in ((TIMED, turns), (SCORED, 1)):
            for model, budget in runs:
                entries = contest.run(defended_models[model], examples, budget, turns=repeated)
                print(f"\n{budget}, {model} model, {len(examples)} images\n")
                print(pgd_table(entries, defended_models[model], examples, budget), flush=True)
        for model, defended in defended_models.items():
            right = classified_right(defended, examples, most=cw_images)
            entries = contest.run(defended, right, CWBudget(), turns=1)
            print(f"\n{CWBudget()}, {model} model, {len(right)} images that it classifies right\n")
            print(cw_table(entries, defended, right), flush=True)


def compare_autoattack(models: Sequence[str], *, images: int) -> None:
    """Prints what the standard suite and torchattacks' AutoAttack break, and how long they take."""
    names = [OURS, "torchattacks"]
    print(", ".join(f"{name} {version(LIBRARIES[name].distribution)}" for name in names), flush=True)
    defended_models, examples = trained(models), test_images(images)
    with Contest(names) as contest:
        for model, defended in defended_models.items():
            budget = AutoAttackBudget(norm="linf", eps=AUTOATTACKED[model])
            entries = contest.run(defended, examples, budget, turns=1)
            print(f"\n{budget}, {model} model, {len(examples)} images\n")
            print(autoattack_table(entries, defended, examples, budget), flush=True)


def compare_single(models: Sequence[str], *, images: int) -> None:
    """Prints what single attacks of other libraries break of the images that the standard suite leaves."""
    defended_models, examples = trained(models), test_images(images)
    with Contest([OURS]) as contest:
        for model, defended in defended_models.items():
            budget = AutoAttackBudget(norm="linf", eps=AUTOATTACKED[model])
            found = contest.run(defended, examples, budget, turns=1)[OURS]
            left = stands(defended.load(), examples, found.perturbed, budget)
            print(
                f"\n{budget.norm} {budget.eps:g}, {model} model, {len(examples)} images; {OURS}: standard suite, ",
                end="",
            )
            print(f"{100 * left.double().mean():.1f} % in {found.seconds[0]:.0f} s\n", flush=True)
            print(single_table(defended, examples, left, single_attacks(budget.eps), budget), flush=True)


def autoattack_table(
    entries: Mapping[str, Entry], defended: DefendedModel, examples: ImageSet, budget: AutoAttackBudget
) -> str:
    """The robust accuracy that each library leaves, how many images it alone breaks, and its time."""
    model = defended.load()
    standing = {name: stands(model, examples, entry.perturbed, budget) for name, entry in entries.items()}
    rows = []
    for name, entry in entries.items():
        others = torch.stack([left for other, left in standing.items() if other != name])
        rows.append(
            (
                name,
                f"{100 * standing[name].double().mean():.1f} %",
                str(int((~standing[name] & others.all(0)).sum())),
                f"{median(entry.seconds):.1f}",
                str(ratio(entry.seconds, entries[OURS].seconds)),
            )
        )
    return markdown(("library", "robust accuracy", "broken by it alone", "seconds", f"over {OURS}"), rows)


def pgd_table(entries: Mapping[str, Entry], defended: DefendedModel, examples: ImageSet, budget: PGDBudget) -> str:
    """The robust accuracy that each library's PGD leaves, and its time."""
    model = defended.load()
    rows = [
        (
            name,
            f"{100 * robust_accuracy(model, examples, entry.perturbed, budget):.1f} %",
            f"{median(entry.seconds):.2f}",
            str(ratio(entry.seconds, entries[OURS].seconds)),
        )
        for name, entry in entries.items()
    ]
    return markdown(("library", "robust accuracy", "seconds", f"over {OURS}"), rows)


def cw_table(entries: Mapping[str, Entry], defended: DefendedModel, examples: ImageSet) -> str:
    """How many images each library's C&W attack fools, from how near, and its time."""
    model = defended.load()
    rows = []
    for name, entry in entries.items():
        found = distances(model, examples, entry.perturbed)
        rows.append(
            (
                name,
                f"{100 * found.isfinite().double().mean():.1f} %",
                f"{found.median():.3f}",
                f"{median(entry.seconds) / len(examples):.2f}",
                str(ratio(entry.seconds, entries[OURS].seconds)),
            )
        )
    return markdown(("library", "fooled", "median l2", "seconds an image", f"over {OURS}"), rows)


if __name__ == "__main__":
    main()
