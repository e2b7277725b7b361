"""L2-penalised multinomial logistic regression for several penalties, fitted to the optimum.

The objective is scikit-learn's (``LogisticRegression``): C x the weighted sum of cross-entropies plus half the squared
norm of the weights. Intercepts are not penalised. A binary task has one weight vector.

All penalties share each pass over the data as one matrix product. They are fitted by L-BFGS (Nocedal & Wright 2006,
algorithm 7.4), each from the solution of the nearest penalty that is known.

The fit works in coordinates in which the Hessian of the mean loss is close to the identity. This Hessian is the mean
over images of (diag(p) - pp') x (zz'). The mean of each factor is taken alone, as in K-FAC (Martens & Grosse 2015): the
Hessian is then diagonal in the eigenvectors of the two. The eigenvectors of the features take most of the time. They
are found once, and again for fits that have not converged after `ROUND` steps. Without these coordinates, weak
penalties on the features of a real encoder need many hundreds of steps.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh

log = logging.getLogger("dermssl")
MEMORY = 12
ROUND, MAX_STEPS = 40, 600
"""Steps of L-BFGS before the Hessian is measured again, and in all."""
TOLERANCE = 1e-8
"""A fit stops once a quasi-Newton step promises to lower the mean cross-entropy by less than this (nats)."""
BLOCK_ROWS = 2048
"""Rows whose logits are computed at once, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class LogisticPath:
    """Solutions for P penalties: ``coefficients`` ``(P, D + 1, C)``, float64, the last row the intercepts."""

    coefficients: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities ``(P, N, C)`` of ``features`` ``(N, D)``."""
        weights, intercepts = self.coefficients[:, :-1], self.coefficients[:, -1:]
        logits = np.einsum("nd,pdc->pnc", features, weights, optimize=True) + intercepts
        return torch.softmax(torch.from_numpy(logits), 2).numpy()


class LogisticSolver:
    """Fits one model for each penalty on the same data, and keeps them as starts for further penalties.

    Args:
        features: ``(N, D)``; standardise them first, since all have the same penalty.
        labels: ``(N,)`` in 0..C-1; a class without rows gets probability 0.
        classes: C.
        sample_weight: ``(N,)`` positive, default 1.
        tolerance: see `TOLERANCE`.
        dtype: of the passes over the data. float32 is twice as fast and good for tolerances of 1e-6 and more.
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        classes: int,
        sample_weight: np.ndarray | None = None,
        tolerance: float = TOLERANCE,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.classes, self.tolerance = classes, tolerance
        present, codes = np.unique(labels, return_inverse=True)
        self.present, self.labels = present, torch.from_numpy(codes)
        self.x = torch.from_numpy(np.asarray(features)).to(dtype)
        weight = torch.ones(len(codes)) if sample_weight is None else torch.from_numpy(sample_weight)
        self.total = float(weight.sum())
        self.w = (weight.double() / self.total).to(dtype)
        # The optimum of an infinite penalty knows only the frequencies of the classes.
        shares = torch.zeros(len(present), dtype=torch.float64).scatter_add_(0, self.labels, self.w.double())
        frequencies = torch.zeros(self.x.shape[1] + 1, len(present), dtype=torch.float64)
        frequencies[-1] = shares.log()
        self.solved: dict[float, torch.Tensor] = {0.0: frequencies}
        self.reached: dict[float, float] = {}
        self.axes = _Axes(self.x, self.w)

    def fit(self, cs: np.ndarray, tolerance: float | None = None) -> LogisticPath:
        """The optimum for each inverse penalty of ``cs`` ``(P,)``, to ``tolerance`` (default: the solver's)."""
        tolerance = tolerance or self.tolerance
        new = [c for c in map(float, cs) if self.reached.get(c, np.inf) > tolerance]
        if new:
            known = np.array(list(self.solved))
            nearest = [known[np.abs(np.log((known + 1e-30) / c)).argmin()] for c in new]
            start = torch.stack([self.solved[near] for near in nearest])
            self.solved |= dict(zip(new, self._minimise(torch.tensor(new).double(), start, tolerance), strict=True))
            self.reached |= dict.fromkeys(new, tolerance)
        found = torch.stack([self.solved[float(c)] for c in cs]).numpy()
        coefficients = np.zeros((*found.shape[:2], self.classes))
        coefficients[:, -1] = -np.inf
        coefficients[:, :, self.present] = found
        return LogisticPath(coefficients)

    def _minimise(self, cs: torch.Tensor, theta: torch.Tensor, tolerance: float) -> torch.Tensor:
        """Coefficients ``(P, D + 1, C)``, the last row the intercepts, after rounds of L-BFGS from ``theta``."""
        # In a binary task scikit-learn has one vector v, here the columns v/2 and -v/2, which need twice the penalty.
        penalty = (2.0 if len(self.present) == 2 else 1.0) / (cs * self.total)
        going = torch.arange(len(cs))
        for _ in range(0, MAX_STEPS, ROUND):
            problem = _Coordinates(self.axes, self.labels, self.w, theta[going], penalty[going])
            theta[going], done = _lbfgs(problem, tolerance)
            going = going[~done]
            if not len(going):
                return theta
            self.axes = _Axes(self.x, problem.rows)
        log.warning(
            f"warning: {len(going)} of {len(cs)} logistic regressions (C from {float(cs[going].min()):.3g}) still "
            f"improved after {MAX_STEPS} steps: check the features"
        )
        return theta


class _Axes:
    """Features ``z`` ``(N, D + 1)`` along the eigenvectors of their covariance, weighted by ``rows``; then 1."""

    def __init__(self, x: torch.Tensor, rows: torch.Tensor) -> None:
        rows = rows / rows.sum()
        self.mean = (rows @ x).double()
        centred = x - self.mean.to(x.dtype)
        covariance = (centred.T @ (centred * rows[:, None])).numpy()
        # SciPy's: PyTorch's fails, or gives NaN, where many features are the same for all images.
        self.basis = torch.from_numpy(eigh(covariance, driver="evd")[1]).double()
        self.z = torch.cat([centred @ self.basis.to(x.dtype), torch.ones(len(x), 1, dtype=x.dtype)], 1)


class _Coordinates:
    """The objective near ``theta`` ``(P, D + 1, C)``, in coordinates ``u`` ``(P, D + 1, C - 1)``."""

    def __init__(
        self, axes: _Axes, labels: torch.Tensor, w: torch.Tensor, theta: torch.Tensor, penalty: torch.Tensor
    ) -> None:
        self.labels, self.w, self.classes = labels, w, theta.shape[2]
        self.mean, self.basis, self.z = axes.mean, axes.basis, axes.z
        turned = torch.cat([self.basis.T @ theta[:, :-1], theta[:, -1:] + self.mean @ theta[:, None, :-1]], 1)
        p = torch.softmax(torch.einsum("nd,pdc->pnc", self.z, turned.to(self.z.dtype)), 2)
        weighted = p * w[:, None]
        between = torch.diag_embed(weighted.sum(1)) - p.mT @ weighted
        # An image weighs more the less certain the models are about it.
        self.rows = (w * (1 - (p * p).sum(2))).clamp_min(1e-12).mean(0)
        variances = ((self.rows / self.rows.sum()) @ self.z.square()).double()
        # The direction in which all classes rise alike changes no probability: it is left out.
        spread, contrasts = torch.linalg.eigh(between.double())
        self.contrasts = contrasts[:, :, 1:].mT
        curvature = variances[:, None] * spread[:, None, 1:].clamp_min(1e-12)
        self.penalty = penalty[:, None, None].repeat(1, len(variances), 1)
        self.penalty[:, -1] = 0
        self.scale = (curvature + self.penalty).clamp_min(1e-14).rsqrt()
        self.start = (turned @ self.contrasts.mT) / self.scale

    def restore(self, u: torch.Tensor) -> torch.Tensor:
        """Coefficients ``(P, D + 1, C)`` for the features as they were given."""
        theta = (u * self.scale) @ self.contrasts
        weights = self.basis @ theta[:, :-1]
        return torch.cat([weights, theta[:, -1:] - self.mean @ weights[:, None]], 1)

    def evaluate(self, u: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Objective ``(Q,)`` and gradient (as ``u``) of the problems ``which`` ``(Q,)`` at ``u``."""
        scale, penalty, contrasts = self.scale[which], self.penalty[which], self.contrasts[which]
        theta = (u * scale) @ contrasts
        # Coefficients in rows, images in columns: with the images last, products and softmax are several times as fast
        # for the few problems that take the most steps.
        flat = theta.permute(2, 0, 1).reshape(-1, theta.shape[1]).to(self.z.dtype)
        loss = 0.5 * (penalty * theta**2).sum((1, 2))
        gradient = torch.zeros(flat.shape, dtype=torch.float64)
        for start in range(0, len(self.z), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            block_loss, residual = self._residual(flat @ self.z[rows].T, self.labels[rows], self.w[rows])
            loss += block_loss
            gradient += residual @ self.z[rows]
        shaped = gradient.view(self.classes, len(which), -1).permute(1, 2, 0)
        return loss, ((shaped + penalty * theta) @ contrasts.mT) * scale

    def _residual(
        self, logits: torch.Tensor, labels: torch.Tensor, w: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted cross-entropy ``(Q,)`` of a block of rows, and its derivative by the logits ``(C * Q, n)``."""
        shaped = logits.view(self.classes, -1, len(labels))
        truth = labels.expand(1, shaped.shape[1], -1)
        shaped -= shaped.gather(0, truth)
        top = shaped.amax(0, keepdim=True)
        top_exp = shaped.sub_(top).exp_()
        total = top_exp.sum(0, keepdim=True)
        loss = (w * (total.log() + top)[0]).sum(1, dtype=torch.float64)
        top_exp.mul_(w / total)
        top_exp.scatter_add_(0, truth, -w.expand_as(truth))
        return loss, logits


def _lbfgs(problem: _Coordinates, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients after at most `ROUND` steps, and which problems converged; these leave the batch at once."""
    solution, u = problem.start.clone(), problem.start.clone()
    which = torch.arange(len(u))
    done = torch.zeros(len(u), dtype=torch.bool)
    loss, gradient = problem.evaluate(u, which)
    history: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for _ in range(ROUND):
        direction = _direction(gradient, history)
        promise = -(gradient * direction).sum((1, 2))
        going = promise > tolerance
        solution[which[~going]], done[which[~going]] = u[~going], True
        if not going.any():
            break
        if not going.all():
            which, u, loss, gradient, direction = (t[going] for t in (which, u, loss, gradient, direction))
            promise, history = promise[going], [tuple(t[going] for t in pair) for pair in history]  # type: ignore[misc]
        new_u, new_loss, new_gradient = _line_search(problem, which, u, loss, direction, promise)
        step, change = new_u - u, new_gradient - gradient
        curvature = (step * change).sum((1, 2), keepdim=True)
        history = [*history[-MEMORY + 1 :], (step, change, torch.where(curvature > 0, 1 / curvature, 0.0))]
        u, loss, gradient = new_u, new_loss, new_gradient
        solution[which] = u
    return problem.restore(solution), done


def _direction(gradient: torch.Tensor, history: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """By the two-loop recursion, minus the approximate inverse Hessian times the gradient of each problem."""
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
    problem: _Coordinates,
    which: torch.Tensor,
    u: torch.Tensor,
    loss: torch.Tensor,
    direction: torch.Tensor,
    promise: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Full steps, halved for the problems whose loss does not fall enough (Armijo)."""
    new_u = u + direction
    new_loss, new_gradient = problem.evaluate(new_u, which)
    length = torch.ones_like(loss)
    # A rise of the loss by rounding alone is no rise.
    noise = 4 * torch.finfo(problem.z.dtype).eps * loss
    for _ in range(30):
        failed = torch.nonzero(new_loss > loss - 1e-4 * length * promise + noise).ravel()
        if not len(failed):
            break
        length[failed] /= 2
        new_u[failed] = u[failed] + length[failed, None, None] * direction[failed]
        new_loss[failed], new_gradient[failed] = problem.evaluate(new_u[failed], which[failed])
    return new_u, new_loss, new_gradient
