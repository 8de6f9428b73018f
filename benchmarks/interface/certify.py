"""Certifies a model in memory: a lower bound of its accuracy that no attack can break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_cli.attacks.base.inputs import (
    Images,
    Labels,
    Radius,
    checked_call,
    checked_keywords,
    checked_norm,
    checked_seed,
    device_of,
    parse_radius,
)
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import preserve_generators
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing
from robustbench_cli.benchmarks.certification.certificates import Certificates
from robustbench_cli.benchmarks.certification.certify import CertifiedModel
from robustbench_cli.benchmarks.certification.procedures import Procedure, choose
from robustbench_cli.benchmarks.devices import current, device_name
from robustbench_cli.benchmarks.models.base.build import check_model
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["Certified", "CertifyOptions", "certify"]

Method = Literal["auto", "intervals", "linear", "branch-and-bound"]

_METHODS = ("auto", "intervals", "linear", "branch-and-bound")
_NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
_OF_SMOOTHING = ("n0", "samples", "alpha")
_WITHOUT_SMOOTHING = ("method", "norm", "branches")
_ALPHA = 0.001
_OF_FILES = ("dataset", "checkpoint", "defense", "flags", "cell")


class CertifyOptions(TypedDict, total=False):
    """How a model is certified.

    Attributes:
        sigma: The standard deviation of the noise: certifies the vote of the model under Gaussian noise, in l2. Without it, the
            network itself is certified.
        n0: Draws that select the class of the vote. Default: 100.
        samples: Further draws that bound its probability. Default: 10000.
        alpha: The largest probability that the certificate of an image is wrong, in (0, 1). Default: 0.001.
        method: ``"intervals"``, ``"linear"``, ``"branch-and-bound"``, or ``"auto"``, the strongest that the network allows.
        norm: ``"linf"``, the default, ``"l2"`` or ``"l1"``.
        branches: The most subproblems of branch and bound for one image and radius. Default: 1000.
        seed: The seed of the draws. Default: 0.
        device: Where to compute; the model's own device by default.
        batch_size: Rows that pass through the model at once; chosen for the device by default.
    """

    sigma: float | None
    n0: int
    samples: int
    alpha: float
    method: Method
    norm: Norm
    branches: int
    seed: int
    device: torch.device | str | None
    batch_size: int | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Certified:
    """The certificates of some images.

    Attributes:
        certificates: The certified class and radius of each image.
        labels: ``(N,)`` the true classes.
        table: One row per radius, by the columns of ``advdef certify``; columns of files are left out.
    """

    certificates: Certificates
    labels: NDArray[Any]
    table: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """One row per image: its ``label``, the certified class in ``predicted`` (-1: none), and the certified ``radius``."""
        columns = {
            "label": self.labels,
            "predicted": self.certificates.predicted,
            "radius": self.certificates.radius,
        }
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self.labels), name="image"))

    def __repr__(self) -> str:
        rows = self.table.to_dict("records")
        first = rows[0]
        lines = [f"certified by {first['method']} in {first['norm']} on {first['n']} images"]
        lines += [
            f"  at radius {row['eps']:.4g}: certified accuracy {row['certified_accuracy']:.3g} "
            f"[{row['certified_accuracy_low']:.3g}, {row['certified_accuracy_high']:.3g}]"
            for row in rows
        ]
        return "\n".join(lines)


@checked_keywords
def certify(
    model: nn.Module,
    images: Images,
    labels: Labels,
    eps: Radius | Sequence[Radius],
    progress: Callable[[int], None],
    **options: Unpack[CertifyOptions],
) -> Certified:
    """Certifies a model on some images; see :func:`robustbench_cli.verbs.certify`.

    Args:
        model: Images in [0, 1] to logits; it is left as it was.
        images: ``(N, C, H, W)``, floats in [0, 1] or uint8, as a tensor or an array.
        labels: ``(N,)`` in [0, K), of any integer type.
        eps: One radius or several.
        progress: Called with the number of images done.
        **options: See :class:`CertifyOptions`.

    Raises:
        UserError: An argument is not allowed, or the model cannot be certified.
    """
    tensor, whole, device = checked_call(model, images, labels, options.get("device"))
    radii = [parse_radius(radius) for radius in (eps if isinstance(eps, list | tuple) else [eps])]
    seed = checked_seed(options.get("seed", 0))
    records: dict[int, Any] = {}
    with current(device), frozen(model), preserve_generators():
        check_model(model, tensor[:4].to(device_of(model)), whole)
        procedure = _procedure(model, tensor[:2].to(device_of(model)), radii, dict(options))
        for record in procedure.examine(
            model,
            tensor,
            indices=range(len(tensor)),
            seed=seed,
            device=device,
            batch_size=options.get("batch_size"),
        ):
            records[record.index] = record
            progress(len(records))
    described = dict.fromkeys(_OF_FILES, "") | {
        "model": type(model).__name__,
        "seed": seed if isinstance(procedure, Smoothing) else None,
        "device": device_name(device),
    }
    certified = CertifiedModel(
        checkpoint="",
        described=described,
        procedure=procedure,
        labels=whole.cpu().numpy(),
        images=[records[index] for index in range(len(tensor))],
    )
    alpha = options.get("alpha", _ALPHA)
    rows = [row.model_dump(exclude_none=True) for row in certified.rows(radii, alpha=alpha)]
    table = pd.DataFrame(rows).drop(columns=list(_OF_FILES))
    return Certified(certificates=certified.certificates(alpha=alpha), labels=certified.labels, table=table)


def _procedure(model: nn.Module, images: Tensor, radii: Sequence[float], options: dict[str, Any]) -> Procedure:
    """The procedure that the options select.

    Raises:
        UserError: The options do not fit each other, or the model cannot be certified by it.
    """
    sigma = options.get("sigma")
    misplaced = [name for name in (_OF_SMOOTHING if sigma is None else _WITHOUT_SMOOTHING) if name in options]
    if misplaced:
        raise UserError(
            f"{misplaced[0]} is for a smoothed model: give sigma too, such as sigma=0.25, or leave it out"
            if sigma is None
            else f"{misplaced[0]} is for a certificate of the model itself, and sigma certifies its vote in l2: leave one out"
        )
    if sigma is not None:
        smoothing = Smoothing(sigma=sigma, **{name: options[name] for name in ("n0", "samples") if name in options})
        smoothing.require(model, images)
        return smoothing
    method = options.get("method", "auto")
    if method not in _METHODS:
        raise UserError(f"no method {method!r:.80}: {did_you_mean(str(method), _METHODS)}")
    norm = checked_norm(options.get("norm"), _NORMS, name="certify")
    return choose(method, model, images, eps=radii, norm=norm, branches=options.get("branches"))
