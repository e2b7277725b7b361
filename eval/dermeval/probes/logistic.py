"""L2-penalised multinomial logistic regression for many penalties at once, to the optimum.

The objective is scikit-learn's (``LogisticRegression``): C x the weighted sum of cross-entropies plus half the
squared norm of the weights, intercepts free; a binary task has one weight vector. All penalties share each
pass over the data as one matrix product.

Where only the class shares pi are known, the Hessian is (diag(pi) - pi pi') x covariance + penalty, which is
diagonal in the eigenvectors of its two factors. The fit starts there, in coordinates scaled to make that Hessian the
identity, so that L-BFGS (Nocedal & Wright 2006, algorithm 7.4) opens with a Newton step and needs few more.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch

log = logging.getLogger("dermssl")
MEMORY = 12
MAX_STEPS = 500
TOLERANCE = 1e-8
"""A fit stops where a quasi-Newton step promises less than this much mean cross-entropy (nats)."""
BLOCK_ROWS = 2048
"""Rows whose logits are formed at once, to stay in the processor's cache."""


@dataclass(frozen=True)
class LogisticPath:
    """Solutions for each penalty: ``weights`` ``(P, D, C)``, ``intercepts`` ``(P, C)``; all float64."""

    weights: np.ndarray
    intercepts: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities ``(P, N, C)`` of ``features`` ``(N, D)``."""
        logits = np.einsum("nd,pdc->pnc", features, self.weights, optimize=True) + self.intercepts[:, None]
        return torch.softmax(torch.from_numpy(logits), 2).numpy()


def fit_path(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    cs: np.ndarray,
    sample_weight: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    dtype: torch.dtype = torch.float64,
) -> LogisticPath:
    """Fit one model per inverse penalty in ``cs`` ``(P,)``.

    Args:
        features: ``(N, D)``; standardise them first, as one penalty serves all.
        labels: ``(N,)`` in 0..C-1; a class without rows gets probability 0.
        classes: C.
        sample_weight: ``(N,)`` positive, default 1.
        tolerance: mean cross-entropy (nats) that a step must promise for the fit to go on.
        dtype: of the passes over the data; float32 is twice as fast and good for tolerances from 1e-6 up.
    """
    present, codes = np.unique(labels, return_inverse=True)
    problem = _Problem(features, codes, len(present), cs, sample_weight, dtype)
    solution = _minimise(problem, tolerance)
    weights, intercepts = problem.restore(solution)
    full = LogisticPath(np.zeros((len(cs), features.shape[1], classes)), np.full((len(cs), classes), -np.inf))
    full.weights[:, :, present] = weights
    full.intercepts[:, present] = intercepts
    return full


class _Problem:
    """The objective in preconditioned coordinates: parameters ``(P, R + 1, C - 1)``, the last row the intercept."""

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        classes: int,
        cs: np.ndarray,
        weight: np.ndarray | None,
        dtype: torch.dtype,
    ) -> None:
        x = torch.from_numpy(np.asarray(features, dtype=np.float64))
        w = torch.ones(len(x), dtype=torch.float64) if weight is None else torch.from_numpy(weight).double()
        self.mean = (w[:, None] * x).sum(0) / w.sum()
        x = x - self.mean
        variances, basis = torch.linalg.eigh((x * w[:, None]).T @ x / w.sum())
        kept = variances > variances[-1] * 1e-12
        self.basis = basis[:, kept]
        self.z = torch.cat([x @ self.basis, torch.ones(len(x), 1)], dim=1).to(dtype)
        self.w, self.labels, self.classes = (w / w.sum()).to(dtype), torch.from_numpy(labels), classes
        shares = torch.zeros(classes, dtype=torch.float64).scatter_add_(0, self.labels, w / w.sum())
        # Its null direction (all classes alike) changes no probability and is left out.
        spread, contrasts = torch.linalg.eigh(torch.diag(shares) - torch.outer(shares, shares))
        self.contrasts = contrasts[:, 1:].T
        # Two penalised softmax columns +-v/2 stand for scikit-learn's single v of a binary task: twice the penalty.
        penalty = (2.0 if classes == 2 else 1.0) / (torch.from_numpy(np.asarray(cs, dtype=np.float64)) * w.sum())
        self.penalty = penalty[:, None, None].repeat(1, self.z.shape[1], 1)
        self.penalty[:, -1] = 0
        curvature = torch.outer(torch.cat([variances[kept], torch.ones(1, dtype=torch.float64)]), spread[1:])
        self.scale = (curvature + self.penalty).rsqrt()
        self.start = torch.zeros_like(self.scale)
        self.start[:, -1] = (self.contrasts @ shares.log()) / self.scale[:, -1]

    def evaluate(self, u: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Objective ``(Q,)`` and gradient (as ``u``) of the problems ``which`` ``(Q,)`` at ``u``."""
        scale, penalty = self.scale[which], self.penalty[which]
        theta = (u * scale) @ self.contrasts
        # Classes before problems: the softmax then runs over whole vectors of problems.
        flat = theta.permute(1, 2, 0).reshape(theta.shape[1], -1).to(self.z.dtype)
        loss = 0.5 * (penalty * theta**2).sum((1, 2))
        gradient = torch.zeros(flat.shape, dtype=torch.float64)
        for start in range(0, len(self.z), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            block_loss, residual = self._residual(self.z[rows] @ flat, self.labels[rows], self.w[rows])
            loss += block_loss
            gradient += self.z[rows].T @ residual
        shaped = gradient.view(theta.shape[1], self.classes, len(which)).permute(2, 0, 1)
        return loss, ((shaped + penalty * theta) @ self.contrasts.T) * scale

    def _residual(
        self, logits: torch.Tensor, labels: torch.Tensor, w: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted cross-entropy ``(Q,)`` of a block of rows, and its derivative by the logits ``(n, C * Q)``."""
        shaped = logits.view(len(logits), self.classes, -1)
        truth = labels[:, None, None].expand(-1, 1, shaped.shape[2])
        shaped -= shaped.gather(1, truth)
        top = shaped.amax(1, keepdim=True)
        top_exp = shaped.sub_(top).exp_()
        total = top_exp.sum(1, keepdim=True)
        loss = (w[:, None] * (total.log() + top)[:, 0]).sum(0, dtype=torch.float64)
        top_exp.mul_(w[:, None, None] / total)
        top_exp.scatter_add_(1, truth, -w[:, None, None].expand_as(truth))
        return loss, logits

    def restore(self, u: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Weights ``(P, D, C)`` and intercepts ``(P, C)`` for the features as they were given."""
        theta = (u * self.scale) @ self.contrasts
        weights = torch.einsum("dr,prc->pdc", self.basis, theta[:, :-1])
        intercepts = theta[:, -1] - torch.einsum("d,pdc->pc", self.mean, weights)
        return weights.numpy(), intercepts.numpy()


def _minimise(problem: _Problem, tolerance: float) -> torch.Tensor:
    """Batched L-BFGS; problems that have converged drop out of the batch."""
    solution, u = problem.start.clone(), problem.start.clone()
    which = torch.arange(len(u))
    loss, gradient = problem.evaluate(u, which)
    history: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for _ in range(MAX_STEPS):
        direction = _direction(gradient, history)
        promise = -(gradient * direction).sum((1, 2))
        going = promise > tolerance
        solution[which[~going]] = u[~going]
        if not going.any():
            return solution
        if not going.all():
            which, u, loss, gradient, direction = (t[going] for t in (which, u, loss, gradient, direction))
            promise, history = promise[going], [tuple(t[going] for t in pair) for pair in history]  # type: ignore[misc]
        new_u, new_loss, new_gradient = _line_search(problem, which, u, loss, direction, promise)
        step, change = new_u - u, new_gradient - gradient
        curvature = (step * change).sum((1, 2), keepdim=True)
        history = [*history[-MEMORY + 1 :], (step, change, torch.where(curvature > 0, 1 / curvature, 0.0))]
        u, loss, gradient = new_u, new_loss, new_gradient
    log.warning(
        "warning: %d of %d logistic regressions still improved after %d steps: check the features, or use fewer "
        "weak penalties",
        len(which),
        len(solution),
        MAX_STEPS,
    )
    solution[which] = u
    return solution


def _direction(gradient: torch.Tensor, history: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Two-loop recursion: minus the approximate inverse Hessian times the gradient, per problem."""
    q, alphas = gradient.clone(), []
    for step, change, rho in reversed(history):
        alphas.append(rho * (step * q).sum((1, 2), keepdim=True))
        q -= alphas[-1] * change
    if history:
        step, change, rho = history[-1]
        gamma = (step * change).sum((1, 2), keepdim=True) / (change * change).sum((1, 2), keepdim=True)
        q *= torch.where((rho > 0) & gamma.isfinite(), gamma, 1.0)
    for (step, change, rho), alpha in zip(history, reversed(alphas), strict=True):
        q += step * (alpha - rho * (change * q).sum((1, 2), keepdim=True))
    return -q


def _line_search(
    problem: _Problem,
    which: torch.Tensor,
    u: torch.Tensor,
    loss: torch.Tensor,
    direction: torch.Tensor,
    promise: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Full steps, halved only for those problems whose loss does not fall enough (Armijo)."""
    new_u = u + direction
    new_loss, new_gradient = problem.evaluate(new_u, which)
    length = torch.ones_like(loss)
    # What rounding alone can add must not be taken for a rise.
    noise = 4 * torch.finfo(problem.z.dtype).eps * loss
    for _ in range(30):
        failed = torch.nonzero(new_loss > loss - 1e-4 * length * promise + noise).ravel()
        if not len(failed):
            break
        length[failed] /= 2
        new_u[failed] = u[failed] + length[failed, None, None] * direction[failed]
        new_loss[failed], new_gradient[failed] = problem.evaluate(new_u[failed], which[failed])
    return new_u, new_loss, new_gradient
