"""The recipe of Pang et al. (ICLR 2021)."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["Pang2021"]

_CODE = "train_cifar.py"
_README = "README.md, baseline setting"


class Pang2021(NamedRecipe):
    """The bag of tricks for adversarial training: its baseline on WRN-34-10, which ends soon after the decay of the rate."""

    paper: ClassVar[str] = (
        "Pang, Yang, Dong, Su, Zhu: Bag of Tricks for Adversarial Training. ICLR 2021, arXiv 2010.00467"
    )
    code: ClassVar[str] = f"github.com/P2333/Bag-of-Tricks-for-AT, {_CODE} and README.md"
    defenses: ClassVar = ("pgd-at",)
    datasets: ClassVar = ("cifar10",)
    values: ClassVar = {
        "model": ("wrn-34-10", f"{_README}: architecture"),
        "train.epochs": (110, f"{_README}: total epoch"),
        "train.batch_size": (128, f"{_README}: batch size"),
        "train.optimizer": ("sgd", f"{_README}: momentum SGD"),
        "train.lr": (0.1, f"{_README}: learning rate"),
        "train.momentum": (0.9, f"{_CODE}: momentum=0.9"),
        "train.nesterov": (False, f"{_README}: --optimizer momentum"),
        "train.weight_decay": (5e-4, f"{_README}: weight decay"),
        "train.decayed": ("all", f"{_CODE}: model.parameters() unless --l2"),
        "train.label_smoothing": (0.0, f"{_CODE}: --labelsmooth is off (the README calls about 0.2 useful)"),
        "train.schedule": ("multistep", f"{_README}: --lr-schedule piecewise"),
        "train.milestones": ((100 / 110, 105 / 110), f"{_README}: decay at epochs 100 and 105"),
        "train.schedule_position": ("next-step", f"{_CODE}: lr_schedule(epoch + (i + 1) / len(train_batches))"),
        "train.augmentations": ("crop,flip", f"{_CODE}: pad(..., 4), Crop(32, 32), FlipLR()"),
        "defense.eps": (8 / 255, f"{_README}: --epsilon 8"),
        "defense.steps": (10, f"{_README}: --attack-iters 10"),
        "defense.step_size": (2 / 255, f"{_README}: --pgd-alpha 2"),
        "defense.attack_mode": ("eval", f"{_README}: BN mode, --BNeval"),
    }
    departures: ClassVar = (
        "give --mean 0.4914,0.4822,0.4465 --std 0.2471,0.2435,0.2616 for the authors' normalization, which is inside the network",
        "after each step the authors pass the clean batch in train() mode, so batch norm's running statistics see it too",
    )
