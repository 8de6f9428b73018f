"""The gallery of the page: for each class a clean image, its saliency, its perturbation magnified, the adversarial image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.attacks.base.models.special_labels import REJECTED
from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.benchmarks.reports.html.pictures import magnified, side_by_side
from robustbench_cli.benchmarks.reports.html.worst_case import groups_in_table
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages

__all__ = ["Gallery", "Pair", "galleries"]

_MOST_CLASSES = 10
_MOST_BYTES = 1_200_000
"""The size of all pictures of a page; further galleries are left out."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A clean and an adversarial image.

    Attributes:
        picture: The clean image, its saliency map where there is one, the perturbation and the adversarial image, as a ``data:``
            address.
        size: Width and height of the picture.
        index: The number of the image in the slice.
        label: Its class.
        before: The prediction on the clean image, in words.
        after: The prediction on the adversarial image, in words.
        factor: How much the perturbation is magnified.
        has_saliency: Whether the picture has the saliency map.
    """

    picture: str
    size: tuple[int, int]
    index: int
    label: int
    before: str
    after: str
    factor: float
    has_saliency: bool

    @property
    def alternative(self) -> str:
        """What the picture shows, for those who do not see it."""
        saliency = "; saliency" if self.has_saliency else ""
        return (
            f"Image {self.index} of class {self.label}: clean, predicted {self.before}{saliency}; perturbation magnified "
            f"{self.factor:.0f} times; adversarial, predicted {self.after}"
        )


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The images of one cell.

    Attributes:
        result: The result of the cell.
        pairs: One image for each class; a broken one where there is any.
    """

    result: Result
    pairs: Sequence[Pair]


def galleries(content: PageContent, notes: list[str]) -> Iterator[Gallery]:
    """The galleries of the attacks whose images are saved, the strongest attack of each model and threat.

    Args:
        content: The results, the table and the folder of the images.
        notes: Takes a line for each file that is damaged, and for galleries that have no room.
    """
    if content.images is None:
        return
    # It imports torch, which takes as long as the rest of the page.
    from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages

    size, left_out = 0, 0
    for results in groups_in_table(content):
        saved = [result for result in results if (content.images / f"{result.cell.id}.npz").exists()]
        if not saved:
            continue
        if size > _MOST_BYTES:
            left_out += 1
            continue
        strongest = min(saved, key=lambda result: result.summary["robust_accuracy"] or 0.0)
        try:
            images = SavedImages.read(content.images, strongest.cell.id)
            gallery = Gallery(result=strongest, pairs=list(_pairs(content, strongest, images)))
        except (UserError, ValueError, IndexError) as error:
            notes.append(str(error) if isinstance(error, UserError) else f"{strongest.cell.id}.npz has no such images")
            continue
        size += sum(len(pair.picture) for pair in gallery.pairs)
        yield gallery
    if left_out:
        notes.append(f"{left_out} more galleries are left out, so that the page stays small: choose rows with --where")


def _pairs(content: PageContent, result: Result, saved: SavedImages) -> Iterator[Pair]:
    together = content.read([result])
    clean = None if together is None else together[1].of_attack(0).clean
    if clean is not None and clean.shape[1] != len(saved.labels):
        clean = None
    for label in np.unique(saved.labels)[:_MOST_CLASSES]:
        index = _example(saved, clean, int(label))
        picture, factor = magnified(saved.images[index], saved.perturbed[index])
        maps = [] if saved.saliency is None else [saved.saliency[index][:, :, None]]
        address, *size = side_by_side([saved.images[index], *maps, picture, saved.perturbed[index]])
        yield Pair(
            picture=address,
            size=(size[0], size[1]),
            index=index,
            label=int(label),
            before="unknown" if clean is None else _prediction(clean[:, index]),
            after=_prediction(saved.predictions[:, index]),
            factor=factor,
            has_saliency=bool(maps),
        )


def _example(saved: SavedImages, clean: NDArray[np.int64] | None, label: int) -> int:
    """The first image of a class that the attack broke, or else the first of the class."""
    of_class = saved.labels == label
    wrong = (saved.predictions != label).mean(axis=0) > 0.5
    right = np.ones_like(wrong) if clean is None else (clean == label).mean(axis=0) > 0.5
    for candidates in (of_class & wrong & right, of_class & right, of_class):
        if candidates.any():
            return int(candidates.argmax())
    raise ValueError(label)


def _prediction(draws: NDArray[np.int64]) -> str:
    """The most frequent prediction, with its share of several draws."""
    answers, counts = np.unique(draws, return_counts=True)
    answer = int(answers[counts.argmax()])
    name = str(answer) if answer >= 0 else "rejected" if answer == REJECTED else "no class"
    return name if len(draws) == 1 else f"{name} in {counts.max()} of {len(draws)} draws"
