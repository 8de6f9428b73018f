"""The recipe of Rice et al. (ICML 2020)."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["Rice2020"]

_CODE = "train_cifar.py"


class Rice2020(NamedRecipe):
    """PGD adversarial training of PreActResNet-18 with early stopping: the epoch with the best held-out robust accuracy."""

    paper: ClassVar[str] = (
        "Rice, Wong, Kolter: Overfitting in adversarially robust deep learning. ICML 2020, arXiv 2002.11569"
    )
    code: ClassVar[str] = f"github.com/locuslab/robust_overfitting, {_CODE}"
    defenses: ClassVar = ("pgd-at",)
    datasets: ClassVar = ("cifar10", "cifar100")
    values: ClassVar = {
        "model": ("preact-resnet18", f"{_CODE}: --model"),
        "train.epochs": (200, f"{_CODE}: --epochs"),
        "train.batch_size": (128, f"{_CODE}: --batch-size"),
        "train.optimizer": ("sgd", f"{_CODE}: torch.optim.SGD"),
        "train.lr": (0.1, f"{_CODE}: --lr-max"),
        "train.momentum": (0.9, f"{_CODE}: momentum=0.9"),
        "train.nesterov": (False, f"{_CODE}: torch.optim.SGD without nesterov"),
        "train.weight_decay": (5e-4, f"{_CODE}: weight_decay=5e-4"),
        "train.decayed": ("all", f"{_CODE}: model.parameters() unless --l2"),
        "train.schedule": ("multistep", f"{_CODE}: --lr-schedule piecewise"),
        "train.milestones": ((0.5, 0.75), f"{_CODE}: lr_schedule, t / args.epochs < 0.5 and < 0.75"),
        "train.schedule_position": ("next-step", f"{_CODE}: lr_schedule(epoch + (i + 1) / len(train_batches))"),
        "train.augmentations": ("crop,flip", f"{_CODE}: pad(..., 4), Crop(32, 32), FlipLR()"),
        "train.held_out": (0.02, f"generate_validation.py: n = 1000 of 50,000; {_CODE}: --val"),
        "train.held_out_steps": (10, f"{_CODE}: --attack-iters, of --pgd-alpha 2 / 255"),
        "defense.eps": (8 / 255, f"{_CODE}: --epsilon"),
        "defense.steps": (10, f"{_CODE}: --attack-iters"),
        "defense.step_size": (2 / 255, f"{_CODE}: --pgd-alpha"),
        "defense.attack_mode": ("train", f"{_CODE}: model.train() before the batches, attack_pgd changes no mode"),
    }
    departures: ClassVar = (
        "give --mean 0.4914,0.4822,0.4465 --std 0.2471,0.2435,0.2616 for the authors' normalization, which is inside the network",
        "after each step the authors pass the clean batch in train() mode, so batch norm's running statistics see it too",
    )
