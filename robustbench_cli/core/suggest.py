"""Did you mean: what a user meant by a word that is not known here, through other libraries' names and typing errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import takewhile

__all__ = ["did_you_mean"]

_MOST = 7
"""More suggestions than this are a list of what is known."""

# What the literature and other libraries call the same thing. Letters alone count: cases and separators differ anyway.
# The first column is suggested where it is known; NAME:ARGUMENT is known where NAME is.
_ALIASES: tuple[tuple[str, str], ...] = (
    # Attacks.
    (
        "pgd",
        "linf-pgd l2-pgd l1-pgd pgd-linf pgd-l2 pgd-l1 madry bim i-fgsm basic-iterative-method basic-iterative iterative-fgsm",
    ),
    ("pgd", "projected-gradient-descent projected-gradient pgd-attack pgd-rs tpgd pgd-numpy pgd-pytorch"),
    ("fgsm", "fgm fast-gradient fast-gradient-method fast-gradient-sign-method fast-gradient-attack ffgsm rfgsm"),
    ("mi-fgsm", "mim momentum momentum-iterative momentum-iterative-fgsm"),
    ("cw", "carlini carlini-wagner carlini-l2 carlini-l2-method c&w cw2 cw-l2 l2-carlini-wagner l2-cw"),
    ("cw-linf", "cw-inf carlini-linf carlini-linf-method linf-cw linf-carlini-wagner"),
    ("apgd-ce apgd-dlr apgd-t", "auto-pgd auto-projected-gradient-descent a-pgd"),
    ("apgd-t", "apgd-targeted targeted-apgd apgd-dlr-t"),
    ("fab fab-t", "fast-adaptive-boundary fab-attack"),
    ("square", "square-attack"),
    ("deepfool", "linf-deep-fool l2-deep-fool"),
    ("ddn", "decoupled-direction-norm decoupled-direction-and-norm"),
    ("fmn", "fast-minimum-norm fast-minimum-norm-attack"),
    ("hopskipjump", "hsj hsja hop-skip hop-skip-jump-attack boundary boundary-attack decision-based label-only"),
    ("sigma-zero sparse-rs", "jsma sparsefool one-pixel pixle pixel-attack saliency-map"),
    ("square nes spsa", "zoo black-box score-based query-based"),
    ("transfer", "transfer-attack transferability surrogate-attack substitute"),
    ("non-adaptive", "gray-box grey-box oblivious"),
    # Defenses.
    (
        "pgd-at trades mart awp fast-at free-at interpolated-at",
        "adversarial-training adversarial adversarial-train adv-training adv-train advtrain at robust-training adversarial-trainer",
    ),
    ("pgd-at", "madry madry-at madry-pgd pgd-training pgd-adversarial-training adversarial-training-pgd"),
    ("pgd-at", "adversarial-trainer-madry-pgd sat"),
    ("trades", "trades-at tradeoff-inspired"),
    ("fast-at", "fast fast-adversarial-training fast-is-better-than-free rs-fgsm fgsm-rs fgsm-at"),
    ("free-at", "free free-adversarial-training adversarial-training-for-free"),
    ("none", "undefended vanilla no-defense no clean plain baseline"),
    ("randomized-smoothing", "rs cohen gaussian-smoothing smooth certified-robustness"),
    ("gaussian-noise", "gaussian gaussian-augmentation input-noise noise-layer"),
    ("jpeg", "jpeg-compression jpg jpeg-filter"),
    ("feature-squeezing", "bit-depth bit-depth-reduction bit-depth-squeezing spatial-smoothing median median-filter"),
    ("total-variation", "tv tvm tv-minimization total-variance-minimization total-var-min"),
    ("defensive-distillation", "papernot"),
    ("random-resize-pad", "r&p randomization random-resizing random-padding xie"),
    ("adv-bnn", "bnn bayesian bayesian-neural-network"),
    ("sap", "stochastic-activation-pruning activation-pruning pruning"),
    ("hrs", "hierarchical-random-switching random-switching switching"),
    ("rse", "random-self-ensemble"),
    ("pni", "parametric-noise-injection"),
    ("interpolated-at", "iat interpolated-adversarial-training"),
    ("ibp", "interval-bound-propagation interval-bounds crown crown-ibp certified-training"),
    ("defensive-dropout", "dropout"),
    ("awp", "adversarial-weight-perturbation trades-awp at-awp"),
    ("mart", "misclassification-aware"),
    # Data sets.
    ("cifar10 cifar100", "cifar"),
    ("fashion-mnist", "fmnist f-mnist zalando"),
    ("mnist", "mnist-784 mnist-digits lecun"),
    ("digits", "sklearn-digits load-digits optdigits sklearn"),
    ("svhn", "street-view-house-numbers"),
    (
        "imagefolder:PATH",
        "imagenet imagenet-1k imagenet2012 ilsvrc ilsvrc2012 imagenette imagewoof imagenet100 tiny-imagenet tiny-imagenet-200",
    ),
    (
        "imagefolder:PATH",
        "restricted-imagenet imagenet-c folder image-folder image-directory directory torchvision celeba gtsrb",
    ),
    (
        "npz:FILE.npz",
        "numpy arrays array med-mnist path-mnist derma-mnist blood-mnist organ-mnist pneumonia-mnist emnist kmnist qmnist",
    ),
    # Models.
    ("wrn-28-10", "wideresnet-28-10 wide-resnet-28-10 wideresnet28 wideresnet wrn wide-resnet wrn-28"),
    ("wrn-34-10", "wideresnet-34-10 wide-resnet-34-10 wideresnet34 wrn-34"),
    ("wrn-70-16", "wideresnet-70-16 wide-resnet-70-16 wrn-70"),
    ("preact-resnet18", "preactresnet prn18 prn-18 preact-resnet preact-resnet-18"),
    ("small-cnn", "cnn simple-cnn simplecnn convnet lenet lenet5 simple-net tiny-cnn net"),
    ("torchvision:vit_b_16", "vit vit-base vit-base-patch16-224 vit-b vit-b16 vision-transformer deit"),
    ("torchvision:resnet18", "resnet resnet-18-imagenet"),
    # Norms.
    ("linf", "inf infinity l-infinity max linf-norm chebyshev np.inf float-inf l∞ ∞"),
    ("l2", "2 euclidean l2-norm"),
    ("l1", "1 manhattan l1-norm"),
    ("l0", "0 sparse pixels l0-norm"),
    # Suites.
    ("standard autoattack-compat", "autoattack auto-attack aa auto autoattack-standard robustbench"),
    ("randomized autoattack-rand-compat", "rand autoattack-rand aa-rand eot stochastic"),
    ("quick", "fast smoke"),
    ("minimal-norm", "min-norm minimum-norm smallest"),
    # Parameters.
    (
        "steps",
        "iterations iteration iters nb-iter n-iter num-iter max-iter niter num-steps n-steps nb-steps max-iterations",
    ),
    ("step_size", "alpha eps-step eps-iter rel-stepsize abs-stepsize"),
    ("restarts", "n-restarts num-restarts nb-restarts num-random-init"),
    ("random_start", "rand-init random-init start-random"),
    ("binary_search_steps", "binary-steps search-steps"),
    ("initial_const", "c const initial-c"),
    ("confidence", "kappa"),
    ("lr", "learning-rate"),
    ("queries", "n-queries max-queries num-queries query-limit"),
    ("epochs", "n-epochs nb-epochs num-epochs"),
    ("sigma", "noise-sd noise-level std stddev scale"),
    ("beta", "lambda trades-lambda trades-beta"),
    ("bits", "bit-depth"),
    ("temperature", "temp t"),
    # Commands and options.
    ("attack", "evaluate eval run benchmark test"),
    ("--checkpoint checkpoint", "ckpt weights"),
    ("--n n", "num num-examples n-examples n-ex samples num-samples limit"),
    ("--eps eps", "radius"),
    ("held_out", "validation validation-split val-split"),
)

# Names of one kind where another kind was asked for.
_ELSEWHERE: dict[str, tuple[tuple[str, str], ...]] = {
    "attack": (
        (
            "the suite 'standard' or 'autoattack-compat' (--suite)",
            "autoattack auto-attack aa autoattack-standard autoattack-compat standard robustbench",
        ),
        ("the suite 'randomized' (--suite)", "randomized rand autoattack-rand autoattack-rand-compat"),
        ("the suite 'minimal-norm' (--suite)", "minimal-norm min-norm"),
        ("a defense (--defense)", "trades mart awp pgd-at fast-at free-at at adversarial-training hrs"),
        ("'--eot 10'", "eot expectation-over-transformation"),
    ),
    "defense": (("an attack (--attack)", "pgd fgsm cw apgd-ce autoattack square deepfool"),),
    "suite": (
        ("an attack (--attack)", "pgd fgsm cw cw-pgd apgd-ce apgd-dlr apgd-t square fab deepfool fmn ddn hopskipjump"),
    ),
    "dataset": (
        ("a model (--model)", "small-cnn paper-cnn resnet18 resnet50 wrn-28-10"),
        ("a task of 'advdef reprogram'", "task"),
    ),
}

_YOUR_OWN = {
    "model": "a class or a function of your own as path/to/file.py:object",
    "dataset": "your own files as npz:FILE.npz or imagefolder:PATH",
}


def did_you_mean(word: str, words: Iterable[str], *, kind: str | None = None) -> str:
    """Ends a message about an unknown word with what was meant by it, or with all known words where that is unclear.

    Tried in this order: the same letters in another case or with other separators; what other libraries and papers call
    it; the beginning or a part of known words; a typing error.

    Args:
        word: What the user wrote.
        words: What would have been understood.
        kind: What it should name (``attack``, ``defense``, ``model``, ``dataset``, ``suite``), for suggestions that are no
            plain names: a path, or an option for another kind.
    """
    known = sorted(words)
    letters = _letters(word)
    meant = (
        _named(letters, known)
        or _in_another_order(word, known)
        or _of_another_form(word, known, kind)
        # PGD-40 and pgd100 say how many steps.
        or _named(letters.rstrip("0123456789"), known)
        or [f"'{name}'" for name in _near(word, known)]
    )
    if meant:
        return f"did you mean {_either(meant)}?"
    if not known:
        return "there are none"
    own = f"; or {_YOUR_OWN[kind]}" if kind in _YOUR_OWN else ""
    return f"known: {', '.join(known)}{own}"


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _letters(word: str) -> str:
    """A word without its case and separators, which are where names differ most often."""
    return re.sub(r"[\W_]+", "", word.casefold().replace("∞", "inf"))


def _parts(word: str) -> list[str]:
    return [part for part in re.split(r"[\W_]+", word.casefold()) if part]


def _named(letters: str, known: Sequence[str]) -> list[str]:
    """Known words of these letters, or those that the letters are an alias of."""
    same = [name for name in known if letters and _letters(name) == letters] or [
        target
        for targets, aliases in _ALIASES
        if letters in map(_letters, aliases.split())
        for target in targets.split()
        if target.partition(":")[0] in known
    ]
    return [f"'{name}'" for name in dict.fromkeys(same)]


def _in_another_order(word: str, known: Sequence[str]) -> list[str]:
    parts = sorted(_parts(word))
    return [f"'{name}'" for name in known if len(parts) > 1 and sorted(_parts(name)) == parts]


def _of_another_form(word: str, known: Sequence[str], kind: str | None) -> list[str]:
    """What is no plain name: a path that lacks its kind, a network of torchvision, or a name of another kind."""
    if kind is None:
        return []
    path = word.casefold()
    if path.endswith(".py"):
        return [f"'{word}:NAME', with the name of the object in the file"]
    if kind == "dataset" and path.endswith(".npz") and "npz" in known:
        return [f"'npz:{word}'"]
    if kind == "dataset" and ("/" in word or word in {".", "..", "~"}) and "imagefolder" in known:
        return [f"'imagefolder:{word}'"]
    if kind == "model" and path.endswith((".pt", ".pth", ".bin", ".safetensors")):
        return [f"'--checkpoint {word}'"]
    if kind == "model" and "torchvision" in known:
        letters = _letters(word)
        found = [name for name in _networks_of_torchvision() if _letters(name) == letters]
        if found:
            return [f"'torchvision:{name}'" for name in found]
    letters = _letters(word)
    return [
        where for where, aliases in _ELSEWHERE.get(kind, ()) if letters and letters in map(_letters, aliases.split())
    ]


def _networks_of_torchvision() -> list[str]:
    try:
        from torchvision import models
    except ImportError:
        return []
    return list(models.list_models(module=models))


def _near(word: str, known: Sequence[str]) -> list[str]:
    """Known words that a word begins, is a part of, or is a typing error of; empty where none is near, or many are."""
    # One that only goes on is nearer than one of like letters: --epsilon is --eps.
    begun = [name for name in known if _goes_on(name, word) or _goes_on(word, name)]
    if begun:
        return [min(begun, key=lambda name: _edits(_letters(word), _letters(name)))]
    parts = _parts(word)
    family = [name for name in known if len(_letters(word)) > 2 and _has_in_a_row(_parts(name), parts)]
    if 0 < len(family) <= _MOST:
        return family
    letters = _letters(word)
    edits = {name: _edits(letters, _letters(name)) for name in known}
    fewest = min(edits.values(), default=0)
    if edits and fewest <= max(1, len(letters) // 3) and fewest < len(letters):
        nearest = [name for name, number in edits.items() if number == fewest]
        alike = {name: _alike(word.casefold(), name.casefold()) for name in nearest}
        return [name for name in nearest if alike[name] == max(alike.values())][:3]
    inside = [name for name in known if len(_letters(name)) > 2 and _has_in_a_row(parts, _parts(name))]
    return inside if len(inside) <= _MOST else []


def _goes_on(begun: str, word: str) -> bool:
    """Whether a word of some length is the beginning of another one, in the middle of a part of it."""
    return len(begun.strip("-")) > 2 and word.startswith(begun) and word[len(begun) :][:1].isalpha()


def _has_in_a_row(whole: Sequence[str], part: Sequence[str]) -> bool:
    """Whether ``part`` is a run of ``whole``, and not all of it."""
    return 0 < len(part) < len(whole) and any(
        list(whole[start : start + len(part)]) == list(part) for start in range(len(whole) - len(part) + 1)
    )


def _alike(one: str, other: str) -> tuple[int, float]:
    """Of words that are as many edits away: how many letters at the beginning are the same, and which share are."""
    beginning = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return beginning, SequenceMatcher(None, one, other).ratio()


def _edits(one: str, other: str) -> int:
    """Letters to insert, delete, replace or swap with the next one (the optimal string alignment distance)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        before, last, row = row, before, [number]
        for place, wanted in enumerate(other, start=1):
            least = min(before[place] + 1, row[place - 1] + 1, before[place - 1] + (letter != wanted))
            if number > 1 and place > 1 and letter == other[place - 2] and one[number - 2] == wanted:
                least = min(least, last[place - 2] + 1)
            row.append(least)
    return row[-1]
