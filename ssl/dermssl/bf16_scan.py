"""A scan of all inner products in bfloat16 that knows which queries it has answered exactly.

Scores are first formed by a bf16 matrix product, which takes a quarter of the time of a float32 one where the processor
has instructions for it. The best candidates are scored again in float32. A query is certified where no other row can
reach its k-th exact score, by a bound that is proven, not estimated:

With the mean m of the gallery taken off (q.m is the same for every row, so the order stays) and bf16 roundings
q = qh + ql, b = g - m = bh + bl, the product qh.bh misses q.b by at most |ql| |b| + |qh| |bl| (Cauchy-Schwarz). The
norms of these remainders are measured, which is tighter than the worst rounding. Added are the rounding of the product
to bf16 (2^-8 of it: 8 bits of significand) and the accumulated float32 roundings (D 2^-22 |q| |g|, generously).
"""

from typing import NamedTuple

import numpy as np
import torch

SPARE = 108
"""Candidates beyond k: rows within the bound of the k-th score, of which dense embeddings hold many."""
GROUP = 64
"""Columns of which only the best is looked at first; the best M columns lie in the best M groups."""
CHUNK = 8192
"""Gallery rows per matrix product."""
SCORES_AT_ONCE = 2**25
"""Approximate scores held in memory at a time (64 MB), which sets the number of queries per block."""
MODERATE = 1e15
"""Norms within this factor of 1 cannot underflow; other queries are left to float32."""


class Scan(NamedTuple):
    """Scores ``(Q, k)`` float32, gallery rows ``(Q, k)`` int64, and ``(Q,)`` whether they are certified."""

    scores: np.ndarray
    rows: np.ndarray
    certain: np.ndarray


class _Gallery:
    """The rows to be found, once in float32 and once centred and rounded, padded to whole chunks."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.mean = rows, rows.mean(0)
        chunks = -(-len(rows) // CHUNK)
        self.rounded = torch.zeros(chunks * CHUNK, rows.shape[1], dtype=torch.bfloat16)
        norms = []
        for part, rounded in zip(rows.split(CHUNK), self.rounded.split(CHUNK), strict=True):
            centred = part - self.mean
            rounded[: len(part)] = centred
            lost = centred - rounded[: len(part)].float()
            norms.append(torch.stack([torch.linalg.vector_norm(x, dim=1).max() for x in (part, centred, lost)]))
        # Measured in float32, hence the allowance.
        self.norm, self.centred_norm, self.lost_norm = 1.0001 * torch.stack(norms).double().amax(0)


class _Bound(NamedTuple):
    """Per query ``(B,)``: how far an exact centred score can lie from the approximate one, and q.m between the two."""

    distance: torch.Tensor
    rounding: torch.Tensor
    offset: torch.Tensor

    def highest(self, approximate: torch.Tensor) -> torch.Tensor:
        """Largest score ``(B, M)`` that rows of ``approximate`` scores ``(B, M)`` can have in truth."""
        return approximate + approximate.abs() / 256 + (self.distance + self.offset)[:, None]

    def violated(self, approximate: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        """Whether any of the ``exact`` scores is where it cannot be ``(B,)``, as on a processor that rounds worse."""
        apart = (exact - approximate - self.offset[:, None]).abs()
        allowed = approximate.abs() / 256 + (self.distance + self.rounding)[:, None]
        return ((apart > allowed) & exact.isfinite()).any(1)


def multiplies_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices in hardware (AMX or AVX512_BF16)."""
    abilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def scan(queries: np.ndarray, gallery: np.ndarray, k: int) -> Scan:
    """The ``k`` rows of ``gallery`` ``(N, D)`` of highest inner product with each of ``queries`` ``(Q, D)``.

    Both are float32; N is at least k + `SPARE`. Memory beside them: the gallery in bf16 and a block of scores. Best
    rows come first, of equal ones the later, as in faiss; a tie for the last place is left uncertain. Where the
    first block certifies fewer than half of its queries the scan gives up, and all others are left uncertain too.
    """
    found = Scan(
        np.zeros((len(queries), k), np.float32),
        np.zeros((len(queries), k), np.int64),
        np.zeros(len(queries), bool),
    )
    stored = _Gallery(torch.from_numpy(gallery))
    block = max(1, min(len(queries), 512, SCORES_AT_ONCE // len(stored.rounded)))
    buffer = torch.empty(len(stored.rounded) // CHUNK, block, CHUNK, dtype=torch.bfloat16)
    for start in range(0, len(queries), block):
        part = torch.from_numpy(queries[start : start + block])
        answer = _scan_block(part, stored, k, buffer[:, : len(part)])
        for whole, piece in zip(found, answer, strict=True):
            whole[start : start + block] = piece.numpy()
        if start == 0 and answer[2].double().mean() < 0.5:
            break
    return found


def _scan_block(
    queries: torch.Tensor, gallery: _Gallery, k: int, buffer: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rounded = queries.bfloat16()
    approximate, rows = _candidates(rounded, gallery, k + SPARE, buffer)
    bound = _bound(queries, rounded, gallery)
    exact = torch.full(rows.shape, -torch.inf)
    exact[:, :k] = torch.bmm(gallery.rows[rows[:, :k]], queries[:, :, None])[:, :, 0]
    reached = exact[:, :k].amin(1) - bound.rounding
    query, column = torch.nonzero(bound.highest(approximate[:, k:]) >= reached[:, None], as_tuple=True)
    column += k
    exact[query, column] = (queries[query] * gallery.rows[rows[query, column]]).sum(1)
    best, ordered = _in_order(exact, rows, k + 1)
    certain = bound.highest(approximate[:, -1:])[:, 0] < best[:, k - 1] - bound.rounding
    certain &= (best[:, k - 1] > best[:, k]) & ~bound.violated(approximate, exact) & _moderate(queries, gallery)
    return best[:, :k], ordered[:, :k], certain


def _candidates(
    rounded: torch.Tensor, gallery: _Gallery, number: int, buffer: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``number`` best approximate scores ``(B, M)`` in falling order, float64, and their gallery rows."""
    for chunk, scores in zip(gallery.rounded.split(CHUNK), buffer, strict=True):
        torch.mm(rounded, chunk.T, out=scores)
    buffer[-1, :, len(gallery.rows) - len(gallery.rounded) + CHUNK :] = -torch.inf
    grouped = buffer.view(len(buffer), len(rounded), GROUP, CHUNK // GROUP)
    best = torch.cat([scores.amax(1) for scores in grouped], dim=1)
    group = best.topk(number, sorted=False).indices
    chunk, place = group // (CHUNK // GROUP), group % (CHUNK // GROUP)
    members = grouped[chunk, torch.arange(len(rounded))[:, None], :, place].flatten(1)
    scores, index = members.topk(number)
    first = (chunk * CHUNK + place).gather(1, index // GROUP)
    return scores.double(), first + index % GROUP * (CHUNK // GROUP)


def _bound(queries: torch.Tensor, rounded: torch.Tensor, gallery: _Gallery) -> _Bound:
    exact, kept = queries.double(), rounded.double()
    rounding = queries.shape[1] * 2.0**-22 * exact.norm(dim=1) * torch.maximum(gallery.norm, gallery.centred_norm)
    lost = (exact - kept).norm(dim=1) * gallery.centred_norm + kept.norm(dim=1) * gallery.lost_norm
    return _Bound(lost + rounding, rounding, exact @ gallery.mean.double())


def _in_order(scores: torch.Tensor, rows: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``number`` best of ``scores`` ``(B, M)`` and their ``rows``; of equal ones the later row first."""
    rows, order = rows.sort(1, descending=True)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores[:, :number], rows.gather(1, order)[:, :number]


def _moderate(queries: torch.Tensor, gallery: _Gallery) -> torch.Tensor:
    norms = queries.double().norm(dim=1)
    smallest, largest = gallery.centred_norm, gallery.norm
    return (norms > 1 / MODERATE) & (norms < MODERATE) & (smallest > 1 / MODERATE) & (largest < MODERATE)
