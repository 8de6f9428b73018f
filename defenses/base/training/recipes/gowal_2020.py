"""The recipe of Gowal et al. (2020)."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["Gowal2020"]

_CODE = "jax/experiment.py"


class Gowal2020(NamedRecipe):
    """TRADES on WRN-28-10 with SiLU, large batches and the running mean of the weights; meant for extra data beside CIFAR-10.

    The authors' batches are 70 % extra images, from pseudo-labeled or generated data.
    """

    paper: ClassVar[str] = (
        "Gowal, Qin, Uesato, Mann, Kohli: Uncovering the Limits of Adversarial Training against Norm-Bounded Adversarial "
        "Examples. 2020, arXiv 2010.03593"
    )
    code: ClassVar[str] = (
        "github.com/google-deepmind/deepmind-research, adversarial_robustness/: jax/experiment.py, jax/utils.py, jax/datasets.py"
    )
    defenses: ClassVar = ("trades",)
    datasets: ClassVar = ("cifar10",)
    values: ClassVar = {
        "model": ("wrn-28-10:deepmind", f"{_CODE}: WideResNet(depth=28, width=10, activation='swish'), which is SiLU"),
        "train.epochs": (400, f"{_CODE}: num_epochs"),
        "train.batch_size": (1024, f"{_CODE}: train_batch_size"),
        "train.optimizer": ("sgd", "jax/utils.py: sgd_momentum"),
        "train.lr": (0.4, f"{_CODE}: .1 * max(train_batch_size / 256, 1.)"),
        "train.momentum": (0.9, f"{_CODE}: momentum=.9"),
        "train.nesterov": (True, f"{_CODE}: nesterov=True"),
        "train.weight_decay": (5e-4, f"{_CODE}: weight_decay"),
        "train.decayed": ("weights-and-biases", "jax/utils.py: weight_decay, without batch norm"),
        "train.schedule": ("cosine", "jax/utils.py: get_cosine_schedule"),
        "train.warmup": (10 / 400, f"{_CODE}: learning_rate_warmup, 10 of 400 epochs"),
        "train.ema": (0.995, f"{_CODE}: swa_decay, with jax/utils.py: ema_update"),
        "train.augmentations": ("crop,flip", "jax/datasets.py: _random_jitter(pad=4, crop=32), random_flip_left_right"),
        "defense.beta": (6.0, f"{_CODE}: _trades_loss_fn(beta=6.)"),
        "defense.eps": (8 / 255, f"{_CODE}: epsilon"),
        "defense.steps": (10, f"{_CODE}: num_steps"),
        "defense.step_size": (
            2 / 255,
            "github.com/imrahulr/adversarial_robustness_pytorch, core/utils/parser.py: --attack-step",
        ),
        "defense.attack_mode": ("batch", f"{_CODE}: is_training=False, test_local_stats=True"),
    }
    departures: ClassVar = (
        (
            "the authors' attack takes steps of Adam from a uniform start in the ball; here it takes signed steps, as the PyTorch "
            "version named above does, and starts beside the image"
        ),
        "70 % of their batches are extra images, whose labels alone are smoothed by 0.1; the recipe itself adds none: --extra does",
        "the running mean has the batch statistics' mean too; theirs takes the current statistics",
    )
