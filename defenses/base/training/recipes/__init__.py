"""The named recipes of trainings, one file each; a file named ``rice_2020.py`` is ``rice-2020``."""

from robustbench_cli.core.registry import Registry

__all__ = ["registry"]

registry = Registry(
    kind="recipe", package=__name__, base="robustbench_cli.defenses.base.training.named_recipe:NamedRecipe"
)
