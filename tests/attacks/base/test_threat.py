from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from robustbench_cli.attacks.base import threat as threat_module
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import (
    Threat,
    distance,
    in_ball,
    per_image,
    project,
    project_exactly,
    random_in_ball,
    reset_outside,
    sparse_ascent,
    steepest_ascent,
)

BALLS: tuple[Norm, ...] = ("linf", "l2", "l1")

# Pixels near the edges of the box, near each other in binary, far below what is left when 1 is added, and plain ones.
PIXELS = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 1.0, 0.5, 1e-38, 1e-45, 1e-30, 1 - 2**-24, 0.7, 1 / 255, 254 / 255]),
)
RADII = st.one_of(
    st.floats(0, 2),
    st.sampled_from([0.0, 0.1, 0.15, 8 / 255, 2 / 255, 1e-8, 1e-40, math.inf, 0.125 - 2**-56, math.nextafter(0.25, 0)]),
)
STEPS = st.one_of(st.floats(-3, 3, width=32), st.sampled_from([0.0, 1e-8, -1e-8, 8 / 255, -8 / 255, 0.15]))


def threat(norm: Norm, *radii: float) -> Threat:
    return Threat(norm=norm, eps=torch.tensor(radii, dtype=torch.float64))


def random_images(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", BALLS)
@given(pixels=st.lists(st.tuples(PIXELS, STEPS), min_size=4, max_size=12), radius=RADII)
@settings(max_examples=400, deadline=None)
def test_the_ball_and_the_box_are_held_to_the_last_bit(
    norm: Norm, pixels: list[tuple[float, float]], radius: float
) -> None:
    """Any projected point lies in the box, and its float64 distance is at most eps."""
    images, steps = torch.tensor(pixels, dtype=torch.float32).T.reshape(2, 1, 1, 1, -1)
    inside = project_exactly(images + steps, images, threat(norm, radius))
    assert inside.dtype == torch.float32
    assert ((inside >= 0) & (inside <= 1)).all()
    assert distance(inside, images, norm).item() <= radius
    differences = [abs(a - b) for a, b in zip(inside.flatten().tolist(), images.flatten().tolist(), strict=True)]
    expected = {"linf": max(differences), "l2": math.hypot(*differences), "l1": math.fsum(differences)}[norm]
    assert expected <= radius * (1 + 1e-15)


@pytest.mark.parametrize("norm", BALLS)
def test_the_exact_projection_wastes_nothing(norm: Norm) -> None:
    """Points on the ball's surface stay there up to rounding, so exactness costs no strength."""
    images = 0.3 + 0.4 * random_images(200, 3, 8, 8)
    limits = threat(norm, *torch.linspace(0.001, 0.2, 200, dtype=torch.float64).tolist())
    outside = images + 10 * torch.randn(images.shape)
    reached = distance(project_exactly(outside.clamp(0, 1), images, limits), images, norm)
    # In l1 the rounding errors of 192 pixels add up: half a unit each in the last place, and as much kept in hand.
    torch.testing.assert_close(reached, limits.eps, rtol=0, atol=192 * 2**-23 if norm == "l1" else 1e-6)


@pytest.mark.parametrize("norm", BALLS)
def test_what_is_inside_stays_as_it_is(norm: Norm) -> None:
    """A point of the ball and the box does not change."""
    images = random_images(50, 1, 5, 5)
    inside = (images + 0.001 * torch.randn(images.shape)).clamp(0, 1)
    assert torch.equal(project_exactly(inside, images, threat(norm, *[0.1] * 50)), inside)


def test_a_row_that_is_no_number_becomes_the_image() -> None:
    """A diverged attack fails on that image only."""
    images = random_images(3, 1, 4, 4)
    perturbed = images + 0.01
    perturbed[0, 0, 0, 0] = torch.nan
    perturbed[1, 0, 0, 0] = torch.inf
    inside = project_exactly(perturbed, images, threat("linf", 0.1, 0.1, 0.1))
    assert torch.equal(inside[:2], images[:2])
    assert not torch.equal(inside[2], images[2])


@pytest.mark.parametrize("norm", NORMS)
def test_distances_are_those_of_a_list_of_numbers(norm: Norm) -> None:
    """The four norms in plain Python; l0 counts a pixel once, however many of its channels have changed."""
    images = random_images(3, 2, 4, 4)
    perturbed = images.clone()
    perturbed[0, :, 1, 2] += 0.25
    perturbed[1, 1, :2] -= 0.125
    for row, value in enumerate(distance(perturbed, images, norm).tolist()):
        changes = (perturbed[row].double() - images[row].double()).abs().flatten(1).T.tolist()
        flat = [change for pixel in changes for change in pixel]
        expected = {
            "linf": max(flat),
            "l2": math.sqrt(math.fsum(change**2 for change in flat)),
            "l1": math.fsum(flat),
            "l0": sum(any(pixel) for pixel in changes),
        }
        assert value == pytest.approx(expected[norm], rel=1e-12)


@pytest.mark.parametrize(("norm", "order"), [("linf", torch.inf), ("l2", 2), ("l1", 1)])
def test_the_step_is_the_steepest_of_its_length(norm: Norm, order: float) -> None:
    """It has norm 1, and its slope is the dual norm of the gradient, the maximum by Hoelder's inequality."""
    gradient = torch.randn(20, 2, 5, 5, dtype=torch.float64)
    step = steepest_ascent(gradient, norm).flatten(1)
    dual = {torch.inf: 1, 2: 2, 1: torch.inf}[order]
    torch.testing.assert_close(step.norm(p=order, dim=1), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close((step * gradient.flatten(1)).sum(1), gradient.flatten(1).norm(p=dual, dim=1))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("scale", [1e-44, 1e-25, 1e30])
def test_the_step_does_not_depend_on_the_size_of_the_gradient(norm: Norm, scale: float) -> None:
    """Gradients whose squares underflow or overflow in float32 keep their direction; a zero gradient has none."""
    gradient = torch.tensor([[3.0, -4.0, 0.0]]).view(1, 1, 1, 3)
    torch.testing.assert_close(
        steepest_ascent(gradient * scale, norm), steepest_ascent(gradient, norm), rtol=0.2, atol=0
    )
    assert not steepest_ascent(torch.zeros(1, 1, 1, 3), norm).any()


def test_the_sparse_step_moves_the_largest_slopes_that_have_room() -> None:
    """By sorting in plain Python: the given number of pixels moves by the same amount, and none leaves the box."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(9, 2, 4, 4, generator=generator)
    iterates = torch.randint(3, (9, 2, 4, 4), generator=generator) / 2
    counts = torch.tensor([1, 2, 3, 5, 8, 13, 20, 31, 32])
    steps = sparse_ascent(gradient, iterates, counts)
    for slopes, pixels, count, step in zip(
        gradient.flatten(1).tolist(), iterates.flatten(1).tolist(), counts.tolist(), steps.flatten(1), strict=True
    ):
        free = [index for index in range(32) if 0 <= pixels[index] + 0.1 * math.copysign(1, slopes[index]) <= 1]
        chosen = sorted(free, key=lambda index, slopes=slopes: -abs(slopes[index]))[:count]
        assert sorted(step.nonzero().squeeze(1).tolist()) == sorted(chosen)
        expected = [math.copysign(1 / len(chosen), slopes[index]) for index in chosen]
        assert step[chosen].tolist() == pytest.approx(expected)
    for count in (1, 8, 32):
        assert torch.equal(
            sparse_ascent(gradient, iterates, count), sparse_ascent(gradient, iterates, torch.full((9,), count))
        )
    assert not sparse_ascent(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5), torch.tensor([2])).any()


def test_random_points_are_uniform_in_the_ball() -> None:
    """In linf each pixel is uniform; in l2 and l1 the share of the volume inside the radius is (tests at level 1e-6)."""
    images, count = torch.zeros(3000, 1, 2, 3), 3000
    random = Random(torch.arange(count))
    cube = random_in_ball(images, threat("linf", *[0.3] * count), random).flatten()
    assert stats.kstest(cube.numpy(), stats.uniform(-0.3, 0.6).cdf).pvalue > 1e-6
    ball = random_in_ball(images, threat("l2", *[2.0] * count), random).flatten(1)
    length = ball.norm(dim=1)
    assert stats.kstest(((length / 2) ** 6).numpy(), "uniform").pvalue > 1e-6
    # A coordinate of a uniform direction in six dimensions, squared, is Beta(1/2, 5/2).
    assert stats.kstest(((ball[:, 0] / length) ** 2).numpy(), stats.beta(0.5, 2.5).cdf).pvalue > 1e-6
    assert stats.binomtest(int((ball[:, 0] > 0).sum()), count).pvalue > 1e-6
    cross = random_in_ball(images, threat("l1", *[2.0] * count), random).flatten(1)
    length = cross.abs().sum(1)
    assert stats.kstest(((length / 2) ** 6).numpy(), "uniform").pvalue > 1e-6
    # A coordinate's share of the length of a uniform point of a simplex in six dimensions is Beta(1, 5).
    assert stats.kstest((cross[:, 3].abs() / length).numpy(), stats.beta(1, 5).cdf).pvalue > 1e-6
    signs = (cross > 0).long() @ 2 ** torch.arange(6)
    assert stats.chisquare(signs.bincount(minlength=64).numpy()).pvalue > 1e-6


@pytest.mark.parametrize("norm", BALLS)
def test_the_loops_projection_agrees_with_the_exact_one(norm: Norm) -> None:
    """The projection in the attacks' loops equals the exact one up to rounding, with one radius per image."""
    images = random_images(30, 1, 6, 6)
    perturbed = images + torch.randn(images.shape)
    limits = threat(norm, *torch.linspace(0, 3, 30, dtype=torch.float64).tolist())
    inside = project(perturbed, images, limits)
    torch.testing.assert_close(project_exactly(inside, images, limits), inside, rtol=0, atol=1e-6)
    assert (distance(inside, images, norm) <= limits.eps + 1e-6).all()
    if norm == "linf":
        nearest = images + (perturbed - images).clamp(-per_image(limits.eps, images), per_image(limits.eps, images))
        torch.testing.assert_close(inside, nearest.clamp(0, 1).float(), rtol=0, atol=1e-6)


@pytest.fixture(params=["on a CPU", "on a GPU"])
def either_l1_projection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The projection by bisections, and the one by sorting, which a GPU takes."""
    if request.param == "on a GPU":
        monkeypatch.setattr(threat_module, "_reduction_by_bisection", threat_module._reduction_by_sorting)


@pytest.mark.usefixtures("either_l1_projection")
@pytest.mark.parametrize("count", [1, 2, 12])
def test_the_l1_projection_is_the_nearest_point(count: int) -> None:
    """Scipy's constrained minimizer of the distance finds the same point."""
    generator = torch.Generator().manual_seed(count)
    for radius in (0.0, 0.05, 0.5, 3.0, math.inf):
        # Some pixels at the edges of the box, as in black and white images.
        images = (1.6 * torch.rand(8, 1, 1, count, generator=generator) - 0.3).clamp(0, 1)
        perturbed = images + torch.randn(images.shape, generator=generator)
        nearest = project(perturbed, images, threat("l1", *[radius] * 8))
        for point, image, ours in zip(perturbed.view(8, -1), images.view(8, -1), nearest.view(8, -1), strict=True):
            # The change's positive and negative parts are the unknowns, so that the ball's edge is a plane.
            center, target_pixels = image.double().numpy(), point.double().numpy()
            bounds = [(0, 1 - pixel) for pixel in center] + [(0, pixel) for pixel in center]
            result = optimize.minimize(
                lambda parts, center=center, target_pixels=target_pixels: (
                    ((center + parts[:count] - parts[count:] - target_pixels) ** 2).sum() / 2
                ),
                x0=[0.0] * 2 * count,
                method="SLSQP",
                bounds=bounds,
                constraints={"type": "ineq", "fun": lambda parts, radius=radius: min(radius, 1e6) - parts.sum()},
                options={"ftol": 1e-14, "maxiter": 500},
            )
            best = torch.from_numpy(center + result.x[:count] - result.x[count:])
            torch.testing.assert_close(ours.double(), best, rtol=0, atol=2e-5)


@pytest.mark.usefixtures("either_l1_projection")
@pytest.mark.parametrize("radius", [0.0, 1.0, 3.0, 5.0, 40.0])
def test_the_l1_projection_where_the_length_is_constant(radius: float) -> None:
    """Black pixels far beyond white: whole numbers of them fill the ball, and the largest changes are taken."""
    images = torch.zeros(1, 1, 1, 40)
    perturbed = torch.linspace(0.01, 0.3, 40).view_as(images)
    far = torch.arange(5) * 7
    perturbed[..., far] = torch.tensor([5.0, 9.0, 6.0, 8.0, 7.0])
    nearest = project(perturbed, images, threat("l1", radius)).flatten()
    expected = torch.zeros(40)
    expected[far[torch.tensor([1, 3, 4, 2, 0])[: int(radius)]]] = 1
    if radius == 40.0:
        expected = perturbed.flatten().clamp_max(1)
    torch.testing.assert_close(nearest, expected, rtol=0, atol=2e-6)
    assert torch.equal(project(images, images, threat("l1", radius)), images)


@pytest.mark.usefixtures("either_l1_projection")
def test_the_l1_projection_of_many_pixels_is_a_minimum() -> None:
    """The Karush-Kuhn-Tucker conditions hold: one threshold for all pixels that change and do not reach the box."""
    images = random_images(20, 3, 32, 32)
    images[:, :, :8] = 0
    perturbed = images + torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    limits = threat("l1", *torch.logspace(-1, 3, 20, dtype=torch.float64).tolist())
    nearest = project(perturbed, images, limits)
    torch.testing.assert_close(distance(nearest, images, "l1"), limits.eps, rtol=1e-5, atol=0)
    for point, image, ours in zip(perturbed.flatten(1), images.flatten(1), nearest.flatten(1), strict=True):
        target, actual = point - image, ours - image
        moved, free = actual != 0, (actual != 0) & (ours > 0) & (ours < 1)
        threshold = (target.abs() - actual.abs())[free]
        torch.testing.assert_close(threshold, threshold.mean().expand_as(threshold), rtol=0, atol=1e-5)
        assert (target.sign() == actual.sign())[moved].all()
        room = torch.where(target > 0, 1 - image, image)
        assert (target.abs()[~moved & (room > 0)] <= threshold.mean() + 1e-5).all()
        assert ((target.abs() - room)[moved & ~free] >= threshold.mean() - 1e-5).all()


def test_a_threat_is_narrowed_with_its_images() -> None:
    """The radii follow the rows; the norm and the goal stay."""
    chosen = Threat(norm="l2", eps=torch.tensor([1.0, 2.0, 3.0]), targeted=True).select(torch.tensor([2, 0]))
    assert chosen.eps.tolist() == [3.0, 1.0]
    assert (chosen.norm, chosen.targeted) == ("l2", True)


def test_l0_has_no_steepest_ascent() -> None:
    """The l0 ball is unbounded, so it is an error."""
    with pytest.raises(ValueError, match="l0"):
        steepest_ascent(torch.zeros(1, 1, 2, 2), "l0")


def test_the_l0_projection_is_the_nearest_of_all_choices_of_pixels() -> None:
    """No other choice of pixels is nearer in l2, by enumeration; a pixel changes with all of its channels."""
    images, perturbed = random_images(5, 3, 2, 3), 3 * random_images(5, 3, 2, 3, seed=1) - 1
    for pixels in range(8):
        result = project(perturbed, images, threat("l0", *[pixels + 0.5] * 5))
        assert (distance(result, images, "l0") == min(pixels, 6)).all()
        result_distance = (result - perturbed).flatten(1).norm(dim=1)
        for chosen_pixels in itertools.combinations(range(6), min(pixels, 6)):
            mask = torch.zeros(6, dtype=torch.bool)
            mask[list(chosen_pixels)] = True
            other = torch.where(mask.view(2, 3), perturbed.clamp(0, 1), images)
            assert (result_distance <= (other - perturbed).flatten(1).norm(dim=1) + 1e-6).all()


def test_equal_changes_do_not_let_more_pixels_into_the_l0_ball() -> None:
    """Ties, and changes whose squares underflow, do not let more pixels change than the radius allows."""
    images = torch.full((4, 1, 3, 3), 0.5)
    for change in (0.25, 1e-38):
        base = images if change > 1e-3 else torch.zeros_like(images)
        result = project_exactly(base + change, base, threat("l0", 0, 1, 4, math.inf))
        assert distance(result, base, "l0").tolist() == [0, 1, 4, 9]


def test_random_points_in_the_l0_ball_take_every_pixel_equally_often() -> None:
    """The radius gives the number of changed pixels, which are uniform (chi-squared test at 1e-4), as are their colors."""
    images = torch.full((4000, 2, 3, 3), 0.25)
    points = random_in_ball(images, threat("l0", *[2.9] * 4000), Random.of(0, images))
    assert (distance(images + points, images, "l0") == 2).all()
    changed = (points != 0).any(1).flatten(1)
    assert stats.chisquare(changed.sum(0).numpy()).pvalue > 1e-4
    colors = (images + points)[(points != 0).any(1, keepdim=True).expand_as(points)]
    assert stats.kstest(colors.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.25), ("l2", 0.5), ("l1", 1.0), ("l0", 4.0)])
def test_a_point_on_the_surface_is_in_the_ball_and_one_bit_further_is_not(norm: Norm, length: float) -> None:
    """Four pixels that change by a quarter, at their exact norm and at the next smaller float64."""
    images = torch.full((2, 1, 2, 2), 0.5)
    perturbed = images + 0.25
    limits = threat(norm, length, math.nextafter(length, 0))
    assert in_ball(perturbed, images, limits).tolist() == [True, False]
    assert torch.equal(reset_outside(perturbed, images, limits), torch.stack([perturbed[0], images[1]]))
