"""LeJEPA against the paper's formulas in NumPy; it trains and resumes as every method."""

import numpy as np
import pytest
import torch
from launched import Launched

from dermssl.backbone.build import build as build_backbone
from dermssl.methods.lejepa import COLLAPSED, Lejepa, sigreg
from dermssl.methods.registry import LejepaOptions

SMALL = LejepaOptions(hidden_dim=16, out_dim=8, slices=32)


def views(batch: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, batch, 3, 32, 32, generator=generator),
        torch.randn(3, batch, 3, 16, 16, generator=generator),
    ]


def epps_pulley(sample: np.ndarray) -> float:
    """N times the integral of |phi_N(t) - exp(-t^2/2)|^2 exp(-t^2/2) over 17 points from -5 to 5."""
    t = np.linspace(-5, 5, 17)
    empirical = np.exp(1j * t * sample[:, None]).mean(axis=0)
    return len(sample) * np.trapezoid(np.abs(empirical - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), t)


def test_sigreg_is_the_papers_statistic_along_random_directions():
    projections = np.random.default_rng(0).normal(0.3, 2, size=(2, 40, 5)).astype(np.float32)
    directions = torch.randn(5, 7, generator=torch.Generator().manual_seed(3)).double().numpy()
    directions /= np.linalg.norm(directions, axis=0)
    by_hand = np.mean([epps_pulley(view.astype(float) @ d) for view in projections for d in directions.T])
    assert sigreg(torch.from_numpy(projections), 7, seed=3).item() == pytest.approx(by_hand, rel=1e-4)


def test_a_gaussian_is_near_and_a_collapsed_or_narrow_one_is_far():
    gaussian = torch.randn(1, 2000, 8, generator=torch.Generator().manual_seed(0))
    near, narrow, point = (sigreg(gaussian * scale, 64, seed=0).item() for scale in (1, 0.3, 0))
    assert near < 3 < narrow < point
    assert point == pytest.approx(2000 * COLLAPSED, rel=1e-3)


def test_the_loss_weighs_agreement_with_the_mean_of_global_views_and_sigreg():
    torch.manual_seed(0)
    method = Lejepa(lambda drop: build_backbone("test_vit", 32, drop), 0.0, SMALL)
    loss, stats = method(views(), {"slice_seed": 5})
    features = torch.cat([method.backbone(group.flatten(0, 1)) for group in views()])
    z = method.head(features).detach().unflatten(0, (5, 6))
    invariance = np.mean((z.numpy() - z[:2].numpy().mean(axis=0)) ** 2)
    assert stats["invariance"].item() == pytest.approx(invariance, rel=1e-4)
    assert loss.item() == pytest.approx(0.95 * invariance + 0.05 * sigreg(z, 32, 5).item(), rel=1e-4)
    loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_the_chance_loss_is_that_of_equal_projections():
    method = Lejepa(lambda drop: build_backbone("test_vit", 32, drop), 0.0, SMALL)
    torch.nn.init.zeros_(method.head[-2].weight)
    torch.nn.init.zeros_(method.head[-2].bias)
    loss, _ = method(views(), {"slice_seed": 0})
    assert loss.item() == pytest.approx(method.chance_loss(6), rel=1e-3)


def test_all_ranks_of_a_step_draw_the_same_directions_and_each_step_others():
    steps = Lejepa(lambda drop: build_backbone("test_vit", 32, drop), 0.0, SMALL).schedules(4, 2)["slice_seed"]
    z = torch.randn(1, 20, 8)
    values = [sigreg(z, 4, int(step)).item() for step in [*steps, steps[0]]]
    assert len(set(values)) == 4 and values[0] == values[-1]


SIGREG_OF_A_RANK = """
import sys
import numpy as np
import torch
import torch.distributed as dist
from dermssl.methods.lejepa import sigreg

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
part = torch.from_numpy(np.load(f"{folder}/all.npy")).chunk(2, dim=1)[rank].requires_grad_()
loss = sigreg(part, 16, seed=2)
loss.backward()
np.savez(f"{folder}/{rank}.npz", loss=loss.item(), gradient=part.grad.numpy())
dist.destroy_process_group()
"""


def test_sigreg_over_two_ranks_and_its_averaged_gradient_are_those_of_the_joined_batch(tmp_path):
    joined = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    np.save(tmp_path / "all.npy", joined.detach().numpy())
    ranks = [Launched(("-c", SIGREG_OF_A_RANK), [str(tmp_path), str(rank)]) for rank in range(2)]
    told = [rank.communicate(timeout=180)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    loss = sigreg(joined, 16, seed=2)
    loss.backward()
    parts = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    assert [float(part["loss"]) for part in parts] == pytest.approx([loss.item()] * 2, rel=1e-5)
    # Accelerate averages gradients of weights over the ranks, hence the half.
    gradient = np.concatenate([part["gradient"] for part in parts], axis=1) / 2
    np.testing.assert_allclose(gradient, joined.grad.numpy(), rtol=1e-4, atol=1e-6)
