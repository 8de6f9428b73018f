"""``advdef sample-size``: how many images and draws a difference between two defenses needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.benchmarks.reports.readable import ReadableTable
from robustbench_cli.cli import tables
from robustbench_cli.cli.options import command, option, output_files, output_format

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.evaluation.statistics.sample_size import ComparisonPlan

__all__ = ["sample_size"]

_SHARE = click.FloatRange(min=0, max=1)

_COUNTS = ("images_paired", "draws_paired", "images_unpaired")


@command("sample-size")
@option(
    "--difference",
    type=click.FloatRange(min=0, max=1, min_open=True),
    required=True,
    group="Plan",
    help="Difference between the two accuracies that has to be found, such as 0.02.",
)
@option(
    "--accuracy",
    type=_SHARE,
    default=0.5,
    show_default=True,
    group="Plan",
    help="The higher of the two accuracies; near 0.5 most images are needed.",
)
@option(
    "--disagreement",
    type=_SHARE,
    group="Plan",
    help="Share of images that only one of the models gets right, by one draw of each (a_only + b_only of 'report --compare', over n). "
    " [default: as if the models were independent, which needs the most images]",
)
@option(
    "--draw-variance",
    type=_SHARE,
    default=0.0,
    show_default=True,
    group="Plan",
    help="Share of the answers' variance that comes from the draws of randomized models: draw_variance of 'report --protocols'.",
)
@option(
    "--repeats",
    type=click.IntRange(min=1),
    multiple=True,
    group="Plan",
    help="Draws that score an image.  [default: 1 without --draw-variance, else 1, 2, 5, 10, 20 and 50]",
)
@option(
    "--power",
    type=click.FloatRange(min=0.05, max=1, max_open=True),
    default=0.8,
    show_default=True,
    group="Plan",
    help="Probability to find the difference.",
)
@option(
    "--pairs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    group="Plan",
    help="Number of pairs that are compared, for Holm's correction of the level of 5 %.",
)
@output_format("table", *formats.format_names())
@output_files()
def sample_size(
    difference: float,
    accuracy: float,
    disagreement: float | None,
    draw_variance: float,
    repeats: tuple[int, ...],
    power: float,
    pairs: int,
    output_format: str,
    outputs: tuple[Path, ...],
) -> None:
    """Show how many images and draws a comparison of two defenses needs.

    "paired" is for 'advdef report --compare', with both models on the same images; "unpaired" for models on different images,
    such as a published figure beside one's own.
    """
    from robustbench_cli.benchmarks.evaluation.statistics.sample_size import ComparisonPlan

    tables.require_writable(outputs)
    plan = ComparisonPlan(
        accuracy=accuracy,
        difference=difference,
        disagreement=disagreement,
        draw_variance=draw_variance,
        level=0.05 / pairs,
        power=power,
    )
    table = _table(plan, repeats or ((1, 2, 5, 10, 20, 50) if draw_variance else (1,)))
    shown = ReadableTable(
        headers=["repeats", "images, paired", "draws, paired", "images, unpaired"],
        numeric=[True] * 4,
        lines=[[f"{value:,}" for value in row] for row in table[["repeats", *_COUNTS]].to_numpy().tolist()],
        title=f"to find {accuracy:g} against {plan.lower:g} with a probability of {power:g}",
        caption=[
            f"disagreement {plan.assumed_disagreement:.4g}{'' if disagreement is not None else ' (independent models)'}",
            f"draw variance {draw_variance:g}, level {plan.level:.3g}",
            "images: of each model; draws: images times repeats, of each model",
        ],
    )
    tables.show_other("sample-size", table, shown, output_format=output_format, outputs=outputs)


def _table(plan: ComparisonPlan, repeats: Sequence[int]) -> pd.DataFrame:
    """The images and draws that are needed for each number of repeats."""
    import pandas as pd

    from robustbench_cli.benchmarks.evaluation.statistics.sample_size import images_needed

    lines = []
    for number in repeats:
        paired = images_needed(plan, repeats=number)
        lines.append(
            {
                "difference": plan.difference,
                "accuracy": plan.accuracy,
                "disagreement": plan.assumed_disagreement,
                "draw_variance": plan.draw_variance,
                "level": plan.level,
                "power": plan.power,
                "repeats": number,
                "images_paired": paired,
                "draws_paired": paired * number,
                "images_unpaired": images_needed(plan, repeats=number, paired=False),
            }
        )
    return pd.DataFrame(lines, dtype=object)
