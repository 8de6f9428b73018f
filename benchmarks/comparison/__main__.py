"""Runs a comparison and prints its tables in Markdown."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison.architectures import compare_architectures
from robustbench_cli.benchmarks.comparison.contest import Contest, Entry, distances, robust_accuracy, unbroken
from robustbench_cli.benchmarks.comparison.costs import certify_overhead, hrs_forward, pgd_overhead, training_overhead
from robustbench_cli.benchmarks.comparison.coverage import compare_coverage
from robustbench_cli.benchmarks.comparison.exact_networks import compare_exact
from robustbench_cli.benchmarks.comparison.gallery.confusion import GalleryRun, run_gallery
from robustbench_cli.benchmarks.comparison.latency import compare_latency
from robustbench_cli.benchmarks.comparison.models import (
    ADVERSARIAL,
    DROPOUT,
    NOISE,
    PLAIN,
    SWITCHING,
    ImageSet,
    correctly_classified,
    test_images,
    trained,
    training_images,
)
from robustbench_cli.benchmarks.comparison.optimality import NORMS, compare_minimal_norm
from robustbench_cli.benchmarks.comparison.peers import (
    BATCH,
    LIBRARIES,
    OFFICIAL,
    OURS,
    AutoAttackBudget,
    CWBudget,
    PGDBudget,
)
from robustbench_cli.benchmarks.comparison.single import single_attacks, single_table
from robustbench_cli.benchmarks.comparison.stores import compare_stores
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.comparison.timing import machine, ratio
from robustbench_cli.benchmarks.comparison.trainers import TRAINERS, compare_trainers
from robustbench_cli.benchmarks.devices import keep_freed_memory
from robustbench_cli.benchmarks.evaluation.checks.base.finding import BUDGETS
from robustbench_cli.core.cores import usable_cores
from robustbench_cli.core.errors import UserError, one_line

PEERS = [name for name in LIBRARIES if name not in {OURS, OFFICIAL}]

TIMED = ((PLAIN, PGDBudget(norm="linf", eps=0.1)), (ADVERSARIAL, PGDBudget(norm="linf", eps=0.1)))
"""Runs of PGD whose time is compared."""

SCORED = (
    (PLAIN, PGDBudget(norm="linf", eps=0.02)),
    (PLAIN, PGDBudget(norm="l2", eps=0.5)),
    (ADVERSARIAL, PGDBudget(norm="l2", eps=1.5)),
)
"""Runs of PGD at radii that break only some images. They run once, to compare the robust accuracy."""

AUTOATTACKED = {PLAIN: 0.02, ADVERSARIAL: 0.1, SWITCHING: 0.02, NOISE: 0.05, DROPOUT: 0.02}
"""The linf radius, for each model, at which the standard suite is compared with AutoAttack."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m robustbench_cli.benchmarks.comparison", description=__doc__)
    parser.add_argument(
        "what",
        choices=(
            *("costs", "peers", "autoattack", "single", "minimal-norm", "exact", "trained", "coverage", "gallery"),
            *("stores", "latency", "architectures"),
        ),
        help="costs: the cost of our own; peers: PGD and C&W beside other libraries'; autoattack: the standard suite beside "
        "the official AutoAttack; single: beside single attacks of torchattacks, Foolbox and ART; minimal-norm: our "
        "minimal-norm attacks beside Foolbox's, torchattacks' and adv_lib's; exact: minimal-norm and standard beside the exact "
        "distances of small networks; trained: adversarial training beside ART's; "
        "coverage: simulated evaluations, how often intervals, paired tests and early gates err; "
        "gallery: what the checks and AutoAttack notice in broken defenses, and the false alarms on honest models; "
        "stores: the processor time and the memory of commands on large stores and suites; "
        "latency: a forward pass of defended models over that of their networks without defenses; "
        "architectures: the percentile of one of the defense dsara among random ones of equal cost",
    )
    parser.add_argument("--turns", type=int, default=3, help="repetitions of a timed run (3)")
    parser.add_argument("--images", type=int, default=500, help="test images, except for minimal-norm (500)")
    parser.add_argument(
        "--cw-images", type=int, default=50, help="correctly classified test images for minimal-norm (50)"
    )
    parser.add_argument("--exact-images", type=int, default=60, help="correctly classified test images for exact (60)")
    parser.add_argument("--seconds", type=float, default=60, help="time limit for the exact distance of an image (60)")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="the other libraries (all)")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=AUTOATTACKED,
        default=AUTOATTACKED,
        help="the models, except for costs and peers (all)",
    )
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=NORMS, help="the norms for minimal-norm (all)")
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=TRAINERS, help="the trainers (all)")
    parser.add_argument("--epochs", type=int, default=5, help="training epochs (5)")
    parser.add_argument("--train-images", type=int, default=10_000, help="training images (10000)")
    parser.add_argument("--simulations", type=int, default=1000, help="simulated evaluations for coverage (1000)")
    parser.add_argument(
        "--cells", nargs="+", type=int, default=[10_000, 50_000], help="results in the stores for stores (10000 50000)"
    )
    parser.add_argument("--checkpoints", nargs="+", type=Path, default=[], help="the models for latency")
    parser.add_argument(
        "--architecture", default="", help="the one for architectures, as in --model dsara:ARCHITECTURE"
    )
    parser.add_argument("--random", type=int, default=20, help="random architectures of equal cost (20)")
    _add_gallery(parser.add_argument_group("gallery"))
    return parser


def _add_gallery(group: argparse._ArgumentGroup) -> None:
    """Adds the options of the gallery."""
    group.add_argument("--seeds", type=int, default=20, help="trainings of each honest model (20)")
    group.add_argument("--first-seed", type=int, default=0, help="the seed of the first training (0)")
    group.add_argument("--only", nargs="+", default=[], help="models (all)")
    group.add_argument("--budget", choices=BUDGETS, default="standard", help="of the audits (standard)")
    group.add_argument("--jobs", type=int, default=usable_cores(), help="processes (one per core)")
    group.add_argument(
        "--time-limit", type=float, default=math.inf, help="in seconds; the tables name what is missing then (none)"
    )
    group.add_argument("--results", type=Path, help="a file to which each result is written at once")
    group.add_argument(
        "--read",
        nargs="+",
        type=Path,
        default=[],
        help="make the tables from these files of --results, and audit nothing",
    )
    group.add_argument("--write", type=Path, help="a document; the tables are written between its two marks")


def _gallery_run(options: argparse.Namespace) -> GalleryRun:
    """What the options of the gallery ask for."""
    return GalleryRun(
        only=options.only,
        seeds=options.seeds,
        first_seed=options.first_seed,
        budget=options.budget,
        jobs=options.jobs,
        seconds=options.time_limit,
        read=options.read,
        results=options.results,
        document=options.write,
    )


def main() -> None:
    """Reads the command line and runs the comparison that it names."""
    parser = _parser()
    options = parser.parse_args()
    without_models: dict[str, Callable[[], None]] = {
        "coverage": lambda: compare_coverage(images=options.images, simulations=options.simulations),
        "gallery": lambda: run_gallery(_gallery_run(options)),
        "stores": lambda: compare_stores(cells=options.cells, turns=options.turns),
        "latency": lambda: compare_latency(options.checkpoints, turns=options.turns),
        "architectures": lambda: compare_architectures(
            options.architecture,
            count=options.random,
            epochs=options.epochs,
            images=options.images,
            jobs=options.jobs,
        ),
    }
    if options.what in without_models:
        try:
            without_models[options.what]()
        except UserError as error:
            parser.error(one_line(error))
        return
    print(machine())
    if options.what == "costs":
        compare_costs(images=options.images, turns=options.turns)
    elif options.what == "autoattack":
        compare_autoattack(options.models, images=options.images)
    elif options.what == "single":
        compare_single(options.models, images=options.images)
    elif options.what == "minimal-norm":
        compare_minimal_norm(options.models, options.norms, images=options.cw_images)
    elif options.what == "exact":
        compare_exact(images=options.exact_images, seconds=options.seconds)
    elif options.what == "trained":
        training, test = training_images(options.train_images), test_images(options.images)
        compare_trainers(options.trainers, training, test, epochs=options.epochs, turns=options.turns)
    else:
        compare_libraries(options.peers, images=options.images, cw_images=options.cw_images, turns=options.turns)


def compare_costs(*, images: int, turns: int) -> None:
    """Prints the cost of our attacks and defenses, relative to the passes that they need.

    Args:
        images: The number of test images.
        turns: Timed runs of each.
    """
    keep_freed_memory()
    defended = trained()[ADVERSARIAL]
    examples = correctly_classified(defended, test_images(images))
    ratios = [
        (
            f"PGD, {norm}, no image breaks",
            "as many forward and backward passes",
            pgd_overhead(defended, examples, norm, turns=turns),
        )
        for norm in ("linf", "l2")
    ]
    ratios += [
        (f"HRS {label}, forward, 256 rows", "the network alone", hrs_forward(channels, rows=256, turns=10 * turns))
        for label, channels in (("[5][5]", (5, 5)), ("[10][10]", (10, 10)))
    ]
    ratios += [
        (
            f"certify, {model}, 10 images, 10,000 samples",
            "as many forward passes",
            certify_overhead(model, images=10, turns=turns),
        )
        for model in ("small-cnn", "paper-cnn")
    ]
    ratios += [
        (
            f"pgd-at, {steps} steps, an epoch of 1,280 images, with crop and flip",
            "a bare loop without augmentation",
            training_overhead("small-cnn", steps=steps, batches=10, augmentations=("crop", "flip"), turns=turns),
        )
        for steps in (3, 10)
    ]
    rows = [(name, baseline, str(value)) for name, baseline, value in ratios]
    print(f"\n{markdown(('cost of', 'over', 'ratio'), rows)}")


def compare_libraries(peers: Sequence[str], *, images: int, cw_images: int, turns: int) -> None:
    """Prints the results and the times of our attacks and of other libraries'.

    Args:
        peers: The other libraries.
        images: The number of test images for PGD.
        cw_images: The number of correctly classified test images for C&W.
        turns: Timed runs of each.
    """
    names = [OURS, *peers]
    print(", ".join(f"{name} {version(LIBRARIES[name].distribution)}" for name in names))
    print(f"The peers get batches of {BATCH} images; each library runs in its own process.", flush=True)
    defended_models, examples = trained(), test_images(images)
    with Contest(names) as contest:
        for runs, repeated in ((TIMED, turns), (SCORED, 1)):
            for model, budget in runs:
                entries = contest.run(defended_models[model], examples, budget, turns=repeated)
                print(f"\n{budget}, {model} model, {len(examples)} images\n")
                print(pgd_table(entries, defended_models[model], examples, budget), flush=True)
        for model, defended in defended_models.items():
            right = correctly_classified(defended, examples, most=cw_images)
            entries = contest.run(defended, right, CWBudget(), turns=1)
            print(f"\n{CWBudget()}, {model} model, {len(right)} correctly classified images\n")
            print(cw_table(entries, defended, right), flush=True)


def compare_autoattack(models: Sequence[str], *, images: int) -> None:
    """Prints the results and the times of the standard suite and of the official AutoAttack.

    Args:
        models: Names of the models; see :func:`~.models.trained`.
        images: The number of test images.
    """
    names = [OURS, OFFICIAL]
    print(", ".join(f"{name} {version(LIBRARIES[name].distribution)}" for name in names), flush=True)
    defended_models, examples = trained(models), test_images(images)
    with Contest(names) as contest:
        for model, defended in defended_models.items():
            budget = AutoAttackBudget(norm="linf", eps=AUTOATTACKED[model])
            entries = contest.run(defended, examples, budget, turns=1)
            print(f"\n{budget}, {model} model, {len(examples)} images\n")
            print(autoattack_table(entries, defended, examples, budget), flush=True)


def compare_single(models: Sequence[str], *, images: int) -> None:
    """Prints how many images single attacks of other libraries break that the standard suite does not.

    Args:
        models: Names of the models; see :func:`~.models.trained`.
        images: The number of test images.
    """
    defended_models, examples = trained(models), test_images(images)
    with Contest([OURS]) as contest:
        for model, defended in defended_models.items():
            budget = AutoAttackBudget(norm="linf", eps=AUTOATTACKED[model])
            entry = contest.run(defended, examples, budget, turns=1)[OURS]
            left = unbroken(defended.load(), examples, entry.perturbed, budget)
            print(
                f"\n{budget.norm} {budget.eps:g}, {model} model, {len(examples)} images; {OURS}: standard suite, ",
                end="",
            )
            print(f"{100 * left.double().mean():.1f} % in {entry.seconds[0]:.0f} s\n", flush=True)
            print(single_table(defended, examples, left, single_attacks(budget.eps), budget), flush=True)


def autoattack_table(
    entries: Mapping[str, Entry], defended: DefendedModel, examples: ImageSet, budget: AutoAttackBudget
) -> str:
    """A table of each library's robust accuracy, the images that it alone breaks, and its time.

    Args:
        entries: The results by library, ours among them.
        defended: The model.
        examples: N images.
        budget: Gives the norm and the radius.
    """
    model = defended.load()
    left = {name: unbroken(model, examples, entry.perturbed, budget) for name, entry in entries.items()}
    rows = []
    for name, entry in entries.items():
        rest = torch.stack([images for other, images in left.items() if other != name])
        rows.append(
            (
                name,
                f"{100 * left[name].double().mean():.1f} %",
                str(int((~left[name] & rest.all(0)).sum())),
                f"{median(entry.seconds):.1f}",
                str(ratio(entry.seconds, entries[OURS].seconds)),
            )
        )
    return markdown(("library", "robust accuracy", "broken by it alone", "seconds", f"over {OURS}"), rows)


def pgd_table(entries: Mapping[str, Entry], defended: DefendedModel, examples: ImageSet, budget: PGDBudget) -> str:
    """A table of the robust accuracy under each library's PGD, and its time.

    Args:
        entries: The results by library, ours among them.
        defended: The model.
        examples: N images.
        budget: Gives the norm and the radius.
    """
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
    """A table of the success rate of each library's C&W attack, its median distance and its time.

    Args:
        entries: The results by library, ours among them.
        defended: The model.
        examples: N images.
    """
    model = defended.load()
    rows = []
    for name, entry in entries.items():
        lengths = distances(model, examples, entry.perturbed)
        rows.append(
            (
                name,
                f"{100 * lengths.isfinite().double().mean():.1f} %",
                f"{lengths.median():.3f}",
                f"{median(entry.seconds) / len(examples):.2f}",
                str(ratio(entry.seconds, entries[OURS].seconds)),
            )
        )
    return markdown(("library", "fooled", "median l2", "seconds per image", f"over {OURS}"), rows)


if __name__ == "__main__":
    main()
