"""OpenCLIP's models as zero-shot classifiers, by name, with their weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from robustbench_cli.benchmarks.models.base.hub import HubRepository
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.source import ModelSource, missing_class_names, not_downloaded
from robustbench_cli.benchmarks.weights.fill import LoadedWeights
from robustbench_cli.benchmarks.weights.weights_file import read_bytes, read_tensors
from robustbench_cli.core.errors import UserError, did_you_mean, one_line
from robustbench_cli.core.libraries import require_library

__all__ = ["OpenCLIP"]


_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""OpenCLIP's names for weights on the Hub where its table names none."""


class OpenCLIP(ModelSource):
    """A model of OpenCLIP as a zero-shot classifier (Radford et al., ICML 2021): ``open-clip:ViT-B-32@laion2b_s34b_b79k``.

    The logits are those of OpenCLIP: the cosines of the image's embedding with the embedding of each class, times the learned
    scale, plus the learned bias if there is one. The embedding of a class is the mean over OpenCLIP's seven
    ``SIMPLE_IMAGENET_TEMPLATES`` ("itap of a {}.", "a bad photo of the {}.", ...). It is computed once and is part of the
    weights. The names of the classes are those of the data set, or the lines of the file in ``--class-names``.
    """

    prefix: ClassVar[str] = "open-clip"
    form: ClassVar[str] = "NAME@PRETRAINED"
    needs_class_names: ClassVar[bool] = True
    describes_files: ClassVar[bool] = True

    def __init__(self, argument: str | None = None, *, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(argument, config=config)
        names = self._library.list_models()
        if self.name not in names:
            raise UserError(f"OpenCLIP has no model '{self.name}': {did_you_mean(self.name, names)}")
        tags = self._library.list_pretrained_tags_by_model(self.name)
        if self.weights is not None and self.weights not in tags:
            hint = did_you_mean(self.weights, tags) if tags else "there are none"
            raise UserError(f"OpenCLIP has no weights '{self.weights}' of {self.name}: {hint}")
        self._require_activation()

    @cached_property
    def _library(self) -> Any:
        return require_library("open_clip", extra="open-clip", needed_by="model open-clip")

    def _require_activation(self) -> None:
        """Refuses weights that were trained with the other of two versions of GELU."""
        if self.weights is None:
            return
        in_model = bool(self._library.get_model_config(self.name).get("quick_gelu", False))
        in_weights = bool(self._pretrained_config.get("quick_gelu", False))
        if in_model != in_weights:
            other = self.name.removesuffix("-quickgelu") if in_model else f"{self.name}-quickgelu"
            kind = "QuickGELU" if in_weights else "plain GELU"
            raise UserError(
                f"weights '{self.weights}' of {self.name} were trained with {kind}: give open-clip:{other}@{self.weights}"
            )

    @property
    def trained(self) -> bool:
        return True

    @property
    def _pretrained_config(self) -> dict[str, Any]:
        config: dict[str, Any] = self._library.get_pretrained_cfg(self.name, self.weights) if self.weights else {}
        return config

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits.

        Raises:
            UserError: Nobody gave them.
        """
        if not self._given_names:
            raise missing_class_names(self.spec)
        return self._given_names

    @property
    def _given_names(self) -> tuple[str, ...]:
        return tuple(self.config.get("class_names", ()))

    @property
    def metadata(self) -> ModelMetadata:
        config = {
            "mean": self._library.OPENAI_DATASET_MEAN,
            "std": self._library.OPENAI_DATASET_STD,
            "interpolation": "bicubic",
        } | self._pretrained_config
        height, width = self._image_size
        return ModelMetadata(
            classes=len(self._given_names) or None,
            class_names=self._given_names,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            image_size=(height, width),
            resize=min(height, width),
            interpolation=config["interpolation"],
            origin=config.get("hf_hub", "").rstrip("/") or config.get("url", ""),
        )

    @property
    def _image_size(self) -> tuple[int, int]:
        size = self._library.get_model_config(self.name)["vision_cfg"].get("image_size", 224)
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def untrained(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        self._require_size(shape)
        with _quiet():
            model = self._library.create_model(self.name, load_weights=False, pretrained_text=False)
        dimensions = self._library.get_model_config(self.name)["embed_dim"]
        return ZeroShotClassifier(model, torch.zeros(classes, dimensions))

    def pretrained(self, *, shape: tuple[int, int, int]) -> nn.Module:
        self._require_size(shape)
        if self.weights is None:
            tags = self._library.list_pretrained_tags_by_model(self.name)
            known = ", ".join(tags) or "none"
            raise UserError(f"{self.spec} needs weights: give --weights NAME ({known}) or --checkpoint FILE")
        try:
            with _quiet():
                path = self._downloaded()
        except UserError as error:
            raise UserError(f"the weights of {self.spec}: {error}") from None
        except Exception as error:
            raise not_downloaded(f"the weights of {self.spec}", error, instead="give --checkpoint FILE") from error
        # Our reader refuses a file that would run code.
        read_tensors(read_bytes(path), path)
        return self._classifier(path)

    def _downloaded(self) -> Path:
        """The file of the weights: OpenCLIP's own download, or that of the Hub, which is asked only once whether it can be reached."""
        folder, _, filename = self._pretrained_config.get("hf_hub", "").rpartition("/")
        if not folder:
            return Path(self._library.download_pretrained(self._pretrained_config))
        # OpenCLIP's names for the weights, in its order.
        names = (f"{Path(filename).stem}.safetensors", filename) if filename else _HUB_FILES
        return HubRepository(folder).first(names)

    def from_file(
        self, tensors: Mapping[str, Tensor], path: Path, *, shape: tuple[int, int, int], classes: int
    ) -> tuple[nn.Module, LoadedWeights]:
        self._require_size(shape)
        return self._classifier(path), LoadedWeights()

    def _require_size(self, shape: tuple[int, int, int]) -> None:
        height, width = self._image_size
        if shape[1:] != (height, width):
            raise UserError(
                f"{self.spec} takes images of {height}x{width}, these have {shape[1]}x{shape[2]}: "
                f"give --image-size {height if height == width else f'{height}x{width}'}"
            )

    def _classifier(self, path: Path) -> nn.Module:
        """The classifier with the weights of a file of OpenCLIP.

        Args:
            path: It has passed our reader.
        """
        names = self.class_names
        try:
            with _quiet():
                model = self._library.create_model(self.name, pretrained=str(path), weights_only=True).eval()
        except RuntimeError as error:
            raise UserError(f"{path} does not fit {self.spec}: {one_line(error)}") from error
        features = self._library.build_zero_shot_classifier(
            model, self._library.get_tokenizer(self.name), names, self._library.SIMPLE_IMAGENET_TEMPLATES
        )
        return ZeroShotClassifier(model, features.T.contiguous())


class ZeroShotClassifier(nn.Module):
    """The image encoder of a CLIP model and the embeddings of the classes.

    Args:
        model: A model of OpenCLIP.
        class_features: ``(K, D)``, of length 1.
    """

    class_features: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, model: Any, class_features: Tensor) -> None:
        super().__init__()
        self.visual: nn.Module = model.visual
        self.register_buffer("class_features", class_features)
        self.register_buffer("scale", model.logit_scale.detach().exp().reshape(()))
        bias = getattr(model, "logit_bias", None)
        self.register_buffer("bias", torch.zeros(()) if bias is None else bias.detach().clone().reshape(()))

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images ``(N, C, H, W)`` → logits ``(N, K)``."""
        features = self.visual(images)
        # CoCa's encoder gives the embedding and the tokens.
        embedding = features[0] if isinstance(features, tuple) else features
        return self.scale * normalize(embedding, dim=-1) @ self.class_features.T + self.bias


@contextmanager
def _quiet() -> Iterator[None]:
    """Without OpenCLIP's messages on the root logger, which tell every step of building a model."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
