from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory
from PIL import Image
from torch import Tensor

from robustbench_cli.benchmarks.checkpoints.defended_model import open_defended_model
from robustbench_cli.benchmarks.checkpoints.load_model import load_model
from robustbench_cli.benchmarks.models.base.build import build_from_file
from robustbench_cli.benchmarks.models.open_clip import OpenCLIP
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.benchmarks.weights.weights_file import read_bytes, read_tensors
from robustbench_cli.core.errors import Notice, UserError

if TYPE_CHECKING:
    from ..fake_hub import FakeHub

NAMES = ["cat", "dog", "red bus"]
CONFIG = {"class_names": NAMES}
SHAPE = (3, 16, 16)

_VISION = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TINY: dict[str, dict[str, Any]] = {
    "tiny-clip": {"embed_dim": 8, "vision_cfg": _VISION, "text_cfg": _TEXT},
    "tiny-clip-with-bias": {
        "embed_dim": 8,
        "vision_cfg": _VISION,
        "text_cfg": _TEXT,
        "custom_text": True,
        "init_logit_bias": -2.0,
    },
    "tiny-coca": {
        "embed_dim": 8,
        "vision_cfg": {**_VISION, "attentional_pool": True, "output_tokens": True},
        "text_cfg": {**_TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "custom_text": True,
    },
}


@pytest.fixture(autouse=True)
def _networks(tmp_path: Path) -> Iterator[None]:
    """Small networks of our own among those of OpenCLIP."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, config in TINY.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    yield
    factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in TINY:
        factory._MODEL_CONFIGS.pop(name, None)


def saved(name: str, folder: Path) -> tuple[Path, Any]:
    """A file as OpenCLIP's training saves it, and its model."""
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    if hasattr(model, "text_decoder"):
        # OpenCLIP leaves it as it was in memory, because files of its training bring it.
        model.text_decoder.text_projection.data.zero_()
    path = folder / "epoch_1.pt"
    torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return path, model


def expected(name: str, model: Any, images: Tensor) -> Tensor:
    """The logits of OpenCLIP's own zero-shot classification of images in [0, 1]."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (model.visual.image_mean, model.visual.image_std))
    classifier = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer(name), NAMES, open_clip.SIMPLE_IMAGENET_TEMPLATES
    )
    with torch.no_grad():
        features = model.encode_image((images - mean) / std, normalize=True)
        logits: Tensor = model.logit_scale.exp() * features @ classifier
        return logits if model.logit_bias is None else logits + model.logit_bias


@pytest.mark.parametrize("name", TINY)
def test_logits_are_those_of_openclip(tmp_path: Path, name: str) -> None:
    """Weights of a file, with the embeddings of the classes, the scale, the bias and the normalization."""
    path, model = saved(name, tmp_path)
    tensors = read_tensors(read_bytes(path), path)
    built = build_from_file(f"open-clip:{name}", tensors, path, shape=SHAPE, classes=3, config=CONFIG)
    images = torch.rand(4, *SHAPE)
    mean, std = (torch.tensor(value)[:, None, None] for value in (built.metadata.mean, built.metadata.std))
    logits = built.network.eval()((images - mean) / std)
    torch.testing.assert_close(logits, expected(name, model, images), rtol=1e-4, atol=1e-5)


def test_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag of OpenCLIP gives the file, its normalization and its interpolation."""
    path, model = saved("tiny-clip", tmp_path)
    facts = {"file": str(path), "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"mine": facts})
    source = OpenCLIP("tiny-clip@mine", config=CONFIG)
    metadata = source.metadata
    assert (metadata.classes, metadata.mean, metadata.interpolation) == (3, (0.5,) * 3, "bilinear")
    assert (metadata.image_size, metadata.resize) == ((16, 16), 16)
    model.visual.image_mean, model.visual.image_std = facts["mean"], facts["std"]
    images = torch.rand(2, *SHAPE)
    logits = source.pretrained(shape=SHAPE).eval()((images - 0.5) / 0.25)
    torch.testing.assert_close(logits, expected("tiny-clip", model, images), rtol=1e-4, atol=1e-5)
    # A checkpoint fills the same network again, without the text encoder.
    fresh = source.untrained(shape=SHAPE, classes=3)
    assert fresh.load_state_dict(source.pretrained(shape=SHAPE).state_dict(), strict=True)
    assert not any("token_embedding" in key for key in fresh.state_dict())


def test_the_way_from_a_name_to_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model in the cache gives OpenCLIP's logits without OpenCLIP's file; other names of the classes are another model."""
    path, model = saved("tiny-clip", tmp_path)
    facts = {"file": str(path), "mean": model.visual.image_mean, "std": model.visual.image_std}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"mine": facts})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data.npz"
    np.savez(data, images=np.zeros((6, 16, 16, 3), np.uint8), labels=np.arange(6) % 3, classes=np.array(3))
    cache = ModelCache(dataset=f"npz:{data}", data_dir=None, device=torch.device("cpu"), seed=0, recipe={})
    with pytest.warns(Notice, match="3 classes, images of 16 x 16, normalized by mean 0.48"):
        defended, permuted = (
            cache.trained(cache.training(model="open-clip:tiny-clip@mine", class_names=names))
            for names in (tuple(NAMES), ("red bus", "cat", "dog"))
        )
    with pytest.warns(Notice, match="as open-clip:tiny-clip: 3 classes"):
        from_file = open_defended_model(path, model="open-clip:tiny-clip", classes=3, shape=SHAPE, config=CONFIG)
    assert from_file.identity != permuted.identity
    images = torch.rand(2, *SHAPE)
    logits = expected("tiny-clip", model, images)
    torch.testing.assert_close(from_file.load()(images), logits, rtol=1e-4, atol=1e-5)
    with pytest.warns(Notice, match="weights: |normalized by"):
        loaded = load_model("open-clip:tiny-clip@mine", class_names=NAMES)
    torch.testing.assert_close(loaded(images), logits, rtol=1e-4, atol=1e-5)
    path.unlink()
    torch.testing.assert_close(defended.load()(images), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted.load()(images), logits[:, [2, 0, 1]], rtol=1e-4, atol=1e-5)
    assert defended.identity != permuted.identity
    with pytest.raises(UserError, match="has 2 classes"):
        cache.training(model="open-clip:tiny-clip@mine", class_names=("cat", "dog"))


def test_images_without_a_size(tmp_path: Path, advdef: Callable[..., Any]) -> None:
    """The model's size is known before the names of the classes: the command in the documentation."""
    path, _ = saved("tiny-clip", tmp_path)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.full((20, 24, 3), 99, np.uint8)).save(tmp_path / "images" / name / "1.png")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    command = [
        "attack",
        "--model",
        "open-clip:tiny-clip",
        "--checkpoint",
        str(path),
        "--eps",
        "1/255",
        "--attack",
        "fgsm",
    ]
    data = ["--dataset", f"imagefolder:{tmp_path / 'images'}", "--class-names", str(tmp_path / "names.txt")]
    ended = advdef(*command, *data, "--store", str(tmp_path / "store"))
    assert ended.code == 0, ended.err
    assert "images of 16 x 16, normalized by mean 0.48" in ended.err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("tiny-clap", "OpenCLIP has no model 'tiny-clap': did you mean 'tiny-clip'"),
        ("ViT-B-32@laion2b", "OpenCLIP has no weights 'laion2b' of ViT-B-32: did you mean 'laion2b_"),
        ("tiny-clip@mine", "OpenCLIP has no weights 'mine' of tiny-clip: there are none"),
        ("ViT-B-32@openai", "trained with QuickGELU: give open-clip:ViT-B-32-quickgelu@openai"),
        ("ViT-B-32-quickgelu@laion2b_e16", "no weights 'laion2b_e16' of ViT-B-32-quickgelu"),
        ("", "give open-clip:NAME@PRETRAINED"),
    ],
)
def test_names(argument: str, message: str) -> None:
    """A name that OpenCLIP does not have, and weights for another network than the one named."""
    with pytest.raises(UserError, match=message):
        OpenCLIP(argument)


def test_what_does_not_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each: images of another size, no names of classes, no weights, no network, a file of another model."""
    with pytest.raises(UserError, match="takes images of 16x16, these have 32x32: give --image-size 16"):
        OpenCLIP("tiny-clip", config=CONFIG).untrained(shape=(3, 32, 32), classes=3)
    with pytest.raises(UserError, match="needs the names of the classes: give --class-names FILE"):
        OpenCLIP("tiny-clip").from_file({}, tmp_path / "x.pt", shape=SHAPE, classes=3)
    with pytest.raises(UserError, match=r"needs weights: give --weights NAME \(none\) or --checkpoint FILE"):
        OpenCLIP("tiny-clip", config=CONFIG).pretrained(shape=SHAPE)
    path, _ = saved("tiny-clip", tmp_path)
    with pytest.raises(UserError, match=r"epoch_1\.pt does not fit open-clip:tiny-coca"):
        OpenCLIP("tiny-coca", config=CONFIG).from_file({}, path, shape=SHAPE, classes=3)

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"far": {"url": "https://host/net.pt"}})
    with pytest.raises(UserError, match=r"cannot be downloaded \(ConnectionError: no network\): go online, or give"):
        OpenCLIP("tiny-clip@far", config=CONFIG).pretrained(shape=SHAPE)


def test_weights_on_the_hub(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of OpenCLIP's names that a repository has; without the network those in the cache, or one line at once."""
    path, model = saved("tiny-clip", tmp_path)
    hub.files["owner/clip", "open_clip_pytorch_model.bin"] = path.read_bytes()
    facts = {"hf_hub": "owner/clip/", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED, "tiny-clip", {"there": facts, "far": {"hf_hub": "owner/no/a.bin"}}
    )
    images = torch.rand(2, *SHAPE)
    model.visual.image_mean, model.visual.image_std = facts["mean"], facts["std"]
    logits = expected("tiny-clip", model, images)
    for template in (None, "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"):
        if template is not None:
            monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        network = OpenCLIP("tiny-clip@there", config=CONFIG).pretrained(shape=SHAPE).eval()
        torch.testing.assert_close(network(images), logits, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("time.sleep", None)
    with pytest.raises(
        UserError, match=r"^the weights of open-clip:tiny-clip@far: hf-hub:owner/no: the Hub cannot be reached"
    ):
        OpenCLIP("tiny-clip@far", config=CONFIG).pretrained(shape=SHAPE)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our reader sees a downloaded file before OpenCLIP does."""
    path = tmp_path / "bad.pt"
    torch.save({"state_dict": {"x": Path("x")}}, path)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"bad": {"file": str(path)}})
    with pytest.raises(UserError, match=r"bad\.pt holds more than tensors, and loading that could run code"):
        OpenCLIP("tiny-clip@bad", config=CONFIG).pretrained(shape=SHAPE)
