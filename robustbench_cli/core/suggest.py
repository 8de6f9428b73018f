"""Suggests the name that a user meant by an unknown one: by other libraries' names, by parts, and by typing errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

__all__ = ["did_you_mean"]

_MAX_FAMILY = 7
"""The largest number of names that share a part with the unknown one and are still suggested."""

# Other names of the literature and of other libraries. Only the letters are compared, without case and separators. The
# first column holds the suggestions, of which only known names are shown; NAME:ARGUMENT is known if NAME is.
_ALIASES: tuple[tuple[str, str], ...] = (
    # Attacks.
    (
        "pgd",
        "linf-pgd l2-pgd l1-pgd pgd-linf pgd-l2 pgd-l1 madry bim i-fgsm basic-iterative-method basic-iterative iterative-fgsm",
    ),
    ("pgd", "projected-gradient-descent projected-gradient pgd-attack pgd-rs tpgd pgd-numpy pgd-pytorch"),
    ("paper-pgd paper-cw-pgd", "hrs-pgd hrs-cw-pgd hrs-attack adam-pgd pgd-adam"),
    ("fgsm", "fgm fast-gradient fast-gradient-method fast-gradient-sign-method fast-gradient-attack ffgsm rfgsm"),
    ("mi-fgsm", "mim momentum momentum-iterative momentum-iterative-fgsm"),
    ("vmi-fgsm vni-fgsm", "variance-tuning variance-tuned vt"),
    ("si-ni-fgsm", "sim si-fgsm scale-invariant scale-invariance si-nim"),
    ("ssa", "ssm spectrum-simulation spectrum-simulation-attack s2i-fgsm s2i-mi-fgsm"),
    ("cw", "carlini carlini-wagner carlini-l2 carlini-l2-method c&w cw2 cw-l2 l2-carlini-wagner l2-cw"),
    ("cw-linf", "cw-inf carlini-linf carlini-linf-method linf-cw linf-carlini-wagner"),
    ("pma apgd-pm", "probability-margin probability-margin-attack pm-pgd"),
    ("apgd-ce apgd-dlr apgd-pm apgd-t", "auto-pgd auto-projected-gradient-descent a-pgd"),
    ("apgd-t", "apgd-targeted targeted-apgd apgd-dlr-t"),
    ("fab fab-t", "fast-adaptive-boundary fab-attack"),
    ("second-order", "krylov soae soaes hessian-free newton-attack trust-region"),
    ("hidden-h1 hidden-h2 hidden-h3", "hidden hidden-layer feature-attack feature-adversary feature-adversaries"),
    ("square", "square-attack"),
    ("deepfool", "linf-deep-fool l2-deep-fool"),
    ("ddn", "decoupled-direction-norm decoupled-direction-and-norm"),
    ("fmn", "fast-minimum-norm fast-minimum-norm-attack"),
    ("hopskipjump", "hsj hsja hop-skip hop-skip-jump-attack"),
    ("hopskipjump surfree geoda rays boundary", "decision-based label-only hard-label"),
    ("boundary", "boundary-attack"),
    ("rays", "ray-searching ray-search"),
    ("surfree", "surrogate-free sur-free"),
    ("sigma-zero sparse-rs", "jsma sparsefool one-pixel pixle pixel-attack saliency-map"),
    ("simba", "simple-black-box simple-blackbox-attack simba-dct"),
    ("square nes spsa simba", "zoo black-box score-based query-based"),
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
    ("soae-at", "soaes-at soae second-order-at second-order-adversarial-training hessian-free-at"),
    (
        "multi-norm-at",
        "msd multi-steepest-descent union union-at max-at avg-at multi-norm multiple-norms multi-robustness",
    ),
    # Data sets.
    ("cifar10 cifar100", "cifar"),
    ("fashion-mnist", "fmnist f-mnist zalando"),
    ("mnist", "mnist-784 mnist-digits lecun"),
    ("digits", "sklearn-digits load-digits optdigits sklearn"),
    ("svhn", "street-view-house-numbers"),
    ("imagenet:PATH", "imagenet imagenet-1k imagenet2012 ilsvrc ilsvrc2012 imagenet-v2 imagenet-r imagenet-a"),
    ("imagefolder:PATH", "imagenette imagewoof imagenet100 tiny-imagenet tiny-imagenet-200"),
    (
        "imagefolder:PATH",
        "restricted-imagenet imagenet-c folder image-folder image-directory directory torchvision celeba gtsrb",
    ),
    (
        "npz:FILE.npz",
        "numpy arrays array med-mnist path-mnist derma-mnist blood-mnist organ-mnist pneumonia-mnist emnist kmnist qmnist",
    ),
    ("hf hf-hub", "huggingface hugging-face huggingface-hub hub hf-datasets"),
    # Models.
    ("hf-hub", "hf"),
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

# Names of another kind than the expected one.
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


def did_you_mean(
    name: str,
    candidates: Iterable[str],
    *,
    kind: str | None = None,
    lead: str = "known: ",
    otherwise: str | None = None,
) -> str:
    """The end of a message about an unknown name: the names that were probably meant, or all known names.

    The search tries, in this order: the same letters with another case or other separators; the names of other libraries
    and papers; the beginning or a part of a known name; a typing error.

    Args:
        name: The user's text.
        candidates: The known names.
        kind: What the name should stand for (``attack``, ``defense``, ``model``, ``dataset``, ``suite``). It adds
            suggestions that are not plain names: a path, or the option for another kind.
        lead: The text before the list of all known names, such as "it has " for the names in a file.
        otherwise: The text in place of this list.

    >>> did_you_mean("pdg", ["cw", "pgd"])
    "did you mean 'pgd'?"
    >>> did_you_mean("zzz", ["cw", "pgd"])
    'known: cw, pgd'
    """
    known = sorted(candidates)
    letters = _letters(name)
    suggestions = (
        _same_letters(letters, known)
        or _same_parts(name, known)
        or _of_another_form(name, known, kind)
        # PGD-40 and pgd100 contain the number of steps.
        or _same_letters(letters.rstrip("0123456789"), known)
        or [f"'{candidate}'" for candidate in _nearest(name, known)]
    )
    if suggestions:
        return f"did you mean {_either(suggestions)}?"
    if otherwise is not None:
        return otherwise
    if not known:
        return "there are none"
    alternative = f"; or {_YOUR_OWN[kind]}" if kind in _YOUR_OWN else ""
    return f"{lead}{', '.join(known)}{alternative}"


def _either(options: Sequence[str]) -> str:
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} or {options[-1]}"


def _letters(name: str) -> str:
    """A name in lower case and without separators: spellings differ most often in case and separators."""
    return re.sub(r"[\W_]+", "", name.casefold().replace("∞", "inf"))


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[\W_]+", name.casefold()) if part]


def _same_letters(letters: str, known: Sequence[str]) -> list[str]:
    """The known names with these letters; if there are none, those with an alias of these letters."""
    same = [name for name in known if letters and _letters(name) == letters] or [
        target
        for targets, aliases in _ALIASES
        if letters in map(_letters, aliases.split())
        for target in targets.split()
        if target.partition(":")[0] in known
    ]
    return [f"'{name}'" for name in dict.fromkeys(same)]


def _same_parts(name: str, known: Sequence[str]) -> list[str]:
    """The known names with the same parts in any order."""
    parts = sorted(_parts(name))
    return [f"'{candidate}'" for candidate in known if len(parts) > 1 and sorted(_parts(candidate)) == parts]


def _of_another_form(name: str, known: Sequence[str], kind: str | None) -> list[str]:
    """Suggestions that are not plain names: a path with its prefix, a torchvision network, or another kind's option."""
    if kind is None:
        return []
    if name.casefold().endswith(".py"):
        return [f"'{name}:NAME', with the name of the object in the file"]
    if kind == "dataset" and (path := _as_dataset(name, known)):
        return [path]
    if kind == "model" and (models := _as_model(name, known)):
        return models
    letters = _letters(name)
    return [
        option for option, aliases in _ELSEWHERE.get(kind, ()) if letters and letters in map(_letters, aliases.split())
    ]


def _as_dataset(name: str, known: Sequence[str]) -> str | None:
    """A path to data with its prefix."""
    if name.casefold().endswith(".npz") and "npz" in known:
        return f"'npz:{name}'"
    if name.casefold().endswith(".tar") and "webdataset" in known:
        return f"'webdataset:{name}'"
    if ("/" in name or name in {".", "..", "~"} or Path(name).is_dir()) and "imagefolder" in known:
        return f"'imagefolder:{name}'"
    return None


def _as_model(name: str, known: Sequence[str]) -> list[str]:
    """The option for a file of weights, or the networks of this name: torchvision's, and ours for small images."""
    if name.casefold().endswith((".pt", ".pth", ".bin", ".safetensors")):
        return [f"'--checkpoint {name}'"]
    if "torchvision" not in known:
        return []
    letters = _letters(name)
    networks = [f"torchvision:{network}" for network in _networks_of_torchvision() if _letters(network) == letters]
    small = [candidate for candidate in known if networks and _letters(candidate) == f"{letters}cifar"]
    return [f"'{network}'" for network in (*networks, *small)]


def _networks_of_torchvision() -> list[str]:
    """The networks that torchvision registers, from its source files: their import takes seconds."""
    spec = find_spec("torchvision")
    sources = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    return [
        name
        for source in sources
        for file in sorted((source / "models").glob("*.py"))
        for name in re.findall(
            r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", file.read_text("utf-8"), flags=re.MULTILINE
        )
    ]


def _nearest(name: str, known: Sequence[str]) -> list[str]:
    """The known names that continue a name, contain it as a part, or differ by a typing error; empty if too many do."""
    # A continuation is nearer than a name with similar letters: --epsilon means --eps.
    continued = [candidate for candidate in known if _continues(candidate, name) or _continues(name, candidate)]
    if continued:
        return [min(continued, key=lambda candidate: _edits(_letters(name), _letters(candidate)))]
    parts = _parts(name)
    family = [candidate for candidate in known if len(_letters(name)) > 2 and _contains_run(_parts(candidate), parts)]
    if 0 < len(family) <= _MAX_FAMILY:
        return family
    if similar := _similar(name, known):
        return similar
    inside = [
        candidate for candidate in known if len(_letters(candidate)) > 2 and _contains_run(parts, _parts(candidate))
    ]
    return inside if len(inside) <= _MAX_FAMILY else []


def _similar(name: str, known: Sequence[str]) -> list[str]:
    """Up to three known names with the fewest edits, if these are at most a third of the letters."""
    letters = _letters(name)
    edits = {candidate: _edits(letters, _letters(candidate)) for candidate in known}
    fewest = min(edits.values(), default=0)
    if not edits or fewest > max(1, len(letters) // 3) or fewest >= len(letters):
        return []
    similarity = {
        candidate: _similarity(name.casefold(), candidate.casefold())
        for candidate, number in edits.items()
        if number == fewest
    }
    highest = max(similarity.values())
    return [candidate for candidate, value in similarity.items() if value == highest][:3]


def _continues(start: str, name: str) -> bool:
    """Whether a start of at least three letters is the beginning of a name and ends inside a part of it."""
    return len(start.strip("-")) > 2 and name.startswith(start) and name[len(start) :][:1].isalpha()


def _contains_run(whole: Sequence[str], run: Sequence[str]) -> bool:
    """Whether ``run`` is a contiguous part of ``whole``, and not all of it."""
    return 0 < len(run) < len(whole) and any(
        list(whole[start : start + len(run)]) == list(run) for start in range(len(whole) - len(run) + 1)
    )


def _similarity(first: str, second: str) -> tuple[int, float]:
    """An order for names with equally many edits: the length of the common beginning, then the share of common letters."""
    beginning = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    return beginning, SequenceMatcher(None, first, second).ratio()


def _edits(first: str, second: str) -> int:
    """The number of letters to insert, delete, replace or swap with the next one (optimal string alignment distance).

    Dynamic programming over the prefixes: an entry of a row is the distance of a prefix of ``first`` and one of ``second``.
    """
    last_row: list[int] = []
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        last_row, row_before_last, row = row, last_row, [i]
        for j, other in enumerate(second, start=1):
            distance = min(last_row[j] + 1, row[j - 1] + 1, last_row[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and first[i - 2] == other:
                distance = min(distance, row_before_last[j - 2] + 1)
            row.append(distance)
    return row[-1]
