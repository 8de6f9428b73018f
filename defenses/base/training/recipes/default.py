"""The recipe without a name."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["Default"]


class Default(NamedRecipe):
    """Quick on this machine: AdamW, one cycle of the learning rate, and the data set's usual number of epochs.

    All other values are the defaults of the training and of the defense. ``--seconds`` chooses epochs, batch size,
    learning rate and steps of the attack for a budget.
    """

    paper: ClassVar[str] = (
        "Leslie N. Smith, Nicholay Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning "
        "Rates, 2017, arXiv 1708.07120 (the one-cycle schedule, of which ours is a variant)"
    )
