"""The recipe of Wu et al. (NeurIPS 2020)."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["Awp2020"]

_CODE = "trades_AWP/train_trades_cifar.py"


class Awp2020(NamedRecipe):
    """TRADES-AWP on WRN-34-10: adversarial weight perturbation of TRADES, from the tenth epoch on."""

    paper: ClassVar[str] = (
        "Wu, Xia, Wang: Adversarial Weight Perturbation Helps Robust Generalization. NeurIPS 2020, arXiv 2004.05884"
    )
    code: ClassVar[str] = f"github.com/csdongxian/AWP, {_CODE}"
    defenses: ClassVar = ("awp",)
    datasets: ClassVar = ("cifar10", "cifar100")
    values: ClassVar = {
        "model": ("wrn-34-10", f"{_CODE}: --arch"),
        "train.epochs": (200, f"{_CODE}: --epochs"),
        "train.batch_size": (128, f"{_CODE}: --batch-size"),
        "train.optimizer": ("sgd", f"{_CODE}: optim.SGD"),
        "train.lr": (0.1, f"{_CODE}: --lr"),
        "train.momentum": (0.9, f"{_CODE}: --momentum"),
        "train.nesterov": (False, f"{_CODE}: optim.SGD without nesterov"),
        "train.weight_decay": (5e-4, f"{_CODE}: --weight-decay"),
        "train.decayed": ("all", f"{_CODE}: optim.SGD(model.parameters())"),
        "train.schedule": ("multistep", f"{_CODE}: adjust_learning_rate"),
        "train.milestones": (
            (99 / 200, 149 / 200),
            f"{_CODE}: adjust_learning_rate, from epochs 100 and 150 of 1 to 200",
        ),
        "train.augmentations": ("crop,flip", f"{_CODE}: RandomCrop(32, padding=4), RandomHorizontalFlip()"),
        "defense.objective": ("trades", f"{_CODE}: TradesAWP"),
        "defense.gamma": (0.005, f"{_CODE}: --awp-gamma"),
        "defense.warmup": (9 / 200, f"{_CODE}: --awp-warmup, perturbed from epoch 10 of 1 to 200"),
        "defense.beta": (6.0, f"{_CODE}: --beta"),
        "defense.eps": (8 / 255, f"{_CODE}: --epsilon"),
        "defense.steps": (10, f"{_CODE}: --num-steps"),
        "defense.step_size": (2 / 255, f"{_CODE}: --step-size"),
        "defense.attack_mode": ("eval", f"{_CODE}: perturb_input, model.eval()"),
    }
