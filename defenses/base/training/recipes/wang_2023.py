"""The recipe of Wang et al. (ICML 2023)."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["Wang2023"]

_PARSER = "core/utils/parser.py"
_README = "README.md, training commands"
_TRAINER = "gowal21uncovering/utils/watrain.py"


class Wang2023(NamedRecipe):
    """TRADES on WRN-28-10 with SiLU and the running mean of the weights, on images of a diffusion model beside CIFAR-10.

    The authors' batches are 70 % generated images, one million or more.
    """

    paper: ClassVar[str] = (
        "Wang, Pang, Du, Lin, Liu, Yan: Better Diffusion Models Further Improve Adversarial Training. ICML 2023, "
        "arXiv 2302.04638"
    )
    code: ClassVar[str] = f"github.com/wzekai99/DM-Improves-AT: README.md, {_PARSER}, {_TRAINER}, core/utils/train.py"
    defenses: ClassVar = ("trades",)
    datasets: ClassVar = ("cifar10", "cifar100")
    values: ClassVar = {
        "model": ("wrn-28-10:deepmind", f"{_README}: --model wrn-28-10-swish"),
        "train.epochs": (400, f"{_README}: --num-adv-epochs"),
        "train.batch_size": (512, f"{_README}: --batch-size"),
        "train.optimizer": ("sgd", f"{_TRAINER}: torch.optim.SGD"),
        "train.lr": (0.2, f"{_README}: --lr"),
        "train.momentum": (0.9, "core/utils/train.py: OneCycleLR moves it between 0.95 and 0.85"),
        "train.nesterov": (True, f"{_PARSER}: --nesterov"),
        "train.weight_decay": (5e-4, f"{_PARSER}: --weight-decay"),
        "train.decayed": ("weights-and-biases", f"{_TRAINER}: group_weight, without batch norm"),
        "train.label_smoothing": (0.1, f"{_README}: --ls"),
        "train.schedule": ("torch-one-cycle", f"{_PARSER}: --scheduler cosinew; core/utils/train.py: OneCycleLR"),
        "train.warmup": (0.025, "core/utils/train.py: pct_start=0.025"),
        "train.schedule_position": ("epoch", "core/utils/train.py: total_steps=num_epochs, a step after each epoch"),
        "train.ema": (0.995, "train-wa.py: --tau"),
        "train.held_out": (1024 / 50_000, "core/data/semisup.py: 1,024 validation images"),
        "train.held_out_steps": (40, f"{_TRAINER}: eval_attack, 4 * attack_iter"),
        "train.augmentations": ("crop,flip", f"{_PARSER}: --augment base"),
        "defense.beta": (5.0, f"{_README}: --beta"),
        "defense.eps": (8 / 255, f"{_PARSER}: --attack-eps"),
        "defense.steps": (10, f"{_PARSER}: --attack-iter"),
        "defense.step_size": (2 / 255, f"{_PARSER}: --attack-step"),
        "defense.attack_mode": (
            "batch",
            "gowal21uncovering/utils/trades.py: track_bn_stats(model, False) in train() mode",
        ),
    }
    departures: ClassVar = (
        "70 % of the authors' batches are generated images (--unsup-fraction 0.7); the recipe itself adds none: --extra does",
        "their attack starts uniformly in the ball; here it starts beside the image, as TRADES does",
        "their running mean starts after the warm-up and takes the current batch statistics",
        (
            "they choose the epoch by PGD on a margin loss with steps of 2/255; here by PGD on the cross-entropy with steps of "
            "2.5 eps / 40"
        ),
    )
