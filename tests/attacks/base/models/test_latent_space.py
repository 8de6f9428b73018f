from __future__ import annotations

from torch import Tensor, nn

from robustbench_cli.attacks.base.models.latent_space import latent_space_of


class Coded(nn.Module):
    """A module with an encoder and a decoder."""

    def latents_of(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def images_of(self, latents: Tensor) -> Tensor:
        return latents[:, :, None, None]


def test_the_space_is_found_inside_wrappers() -> None:
    """The module itself, or the first one inside that has one; a plain model has none."""
    coded = Coded()
    assert latent_space_of(coded) is coded
    assert latent_space_of(nn.Sequential(nn.ReLU(), nn.Sequential(coded))) is coded
    assert latent_space_of(nn.Sequential(nn.ReLU())) is None
