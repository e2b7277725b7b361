"""``dermeval finetune``: trains the encoder itself with a linear classifier on top, and judges it like every probe.

Training images are shown in random crops and flips. Some training patients are kept out of training. Training stops
when their balanced accuracy no longer rises, and the weights of their best epoch predict the test images.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from tqdm import tqdm

from dermeval.features.embeddings import dataset_entry, pooled_rows
from dermeval.features.encoders import Encoder, open_encoder
from dermeval.features.pixels import PixelPCA
from dermeval.features.pool import PooledEmbeddings
from dermeval.probes.folds import Fold, grouped
from dermeval.probes.judge import Fitted
from dermeval.probes.kept import KeptFits, fit_key
from dermeval.probes.options import FinetuneOptions
from dermeval.probes.predictions import collect
from dermeval.probes.probe_report import probe_report
from dermeval.probes.task import Task, task_of
from dermeval.statistics.metrics import balanced_accuracy
from dermssl import licences
from dermssl.backbone.embedding import Pictures, batches_of_pictures, in_batches, normalise_pixels
from dermssl.backbone.low_rank import add_low_rank
from dermssl.commandline import Report
from dermssl.data_workers import read_batches
from dermssl.dataset.dataset import Dataset, open_datasets
from dermssl.devices import accelerator_in
from dermssl.errors import InputError
from dermssl.parser import refuse_unused

SETTINGS = ("train", "last", "adapter_rank", "epochs", "patience", "batch", "lr", "head_lr", "weight_decay", "held_out")
WARM_UP = 0.1
MOST_KEPT_OUT = 0.5
SMALLEST_CROP = 0.5
"""Least share of an image's area in a random training crop."""
log = logging.getLogger("dermssl")


def finetune(options: FinetuneOptions) -> Report:
    """Judge an encoder by training it on the target; see `FinetuneOptions`. Bad input raises InputError."""
    if options.batch < 2:
        raise InputError(f"--batch {options.batch} is too small for batch statistics: give 2 or more")
    for name, trained in {"last": ["last"], "adapter_rank": ["adapters"], "lr": ["all", "last", "adapters"]}.items():
        if options.train not in trained:
            refuse_unused(options, [name], f"--train {' or '.join(trained)}")
    datasets = open_datasets(options.data)
    encoder = open_encoder(options.encoder, options.image_size)
    if isinstance(encoder.model, PixelPCA):
        raise InputError(f"--encoder {options.encoder} has no weights to train: give a network")
    probe = FinetuneProbe(options, encoder, datasets, KeptFits(options.out))
    probe.new_model(2)  # refuses an encoder without the blocks or layers to train
    task = task_of(_rows_as_features(encoder, datasets), options.target)
    return probe_report(probe, task, options, [*options.data, options.encoder])


def _rows_as_features(encoder: Encoder, datasets: Sequence[Dataset]) -> PooledEmbeddings:
    """The data sets as a pool whose only feature is the number of the image, to make a `Task` without embeddings."""
    record = encoder.record() | {"dim": encoder.dim}
    notices = licences.merge([*(dataset.licence for dataset in datasets), *record.get("licences", [])])
    info = {"encoder": record, "datasets": list(map(dataset_entry, datasets)), "licences": notices}
    where = Path(", ".join(str(dataset.folder) for dataset in datasets))
    table = pooled_rows([dataset.table for dataset in datasets])
    return PooledEmbeddings(where, info, table, np.arange(len(table))[:, None])


def trained_blocks(model: Any, options: FinetuneOptions) -> list[nn.Module]:
    """The parts of the encoder whose own weights are trained: the whole, its last blocks or stages, or none.

    InputError for ``--train last`` of an encoder without blocks or stages, or with too few.
    """
    if options.train in ("head", "adapters"):
        return []
    if options.train == "all":
        return [model]
    blocks = getattr(model, "blocks", None) or getattr(model, "stages", None)
    stages = [getattr(model, f"layer{number}") for number in range(1, 5) if hasattr(model, f"layer{number}")]
    found = list(blocks) if blocks is not None else stages
    if not found:
        raise InputError(f"--train last: {options.encoder} has no blocks to count: use --train all, adapters or head")
    after = [getattr(model, name) for name in ("norm", "fc_norm", "conv_head", "bn2", "head") if hasattr(model, name)]
    if options.last > len(found):
        raise InputError(f"--last {options.last}: {options.encoder} has {len(found)} blocks: use --train all")
    return [*found[-options.last :], *(part for part in after if isinstance(part, nn.Module))]


@dataclass
class FinetuneProbe:
    """Trains the encoder anew in every fold, each time from the weights that it was given with."""

    options: FinetuneOptions
    encoder: Encoder
    datasets: Sequence[Dataset]
    kept: KeptFits = field(default_factory=KeptFits)
    name: str = "finetune"

    def fit(self, task: Task, folds: Sequence[Fold], shots: int | None = None) -> Fitted:
        """Predictions from the epoch of each fold that scored best on the kept-out training patients."""
        options, found, best = self.options, [], []
        images = np.cumsum([0, *(options.epochs * len(fold.train) for fold in folds)])
        with tqdm(total=images[-1], desc="finetune", unit="image", disable=None) as bar:
            for number, fold in enumerate(folds):
                # Not the same as the key of the whole probe, which has this one fold where the split is official.
                key = f"one-fold-{fit_key(self, task, [fold], shots)}"
                probabilities, said = self.kept.get(key, partial(self._train, task, fold, bar))
                found.append(probabilities)
                best.append(said)
                epoch, score = said["epoch"], said["balanced_accuracy"]
                where = f"fold {number}" if len(folds) > 1 else task.split_origin
                told = "%s: best epoch %d, balanced accuracy %.3f on kept-out %ss"
                log.info(told, where, epoch, score, task.unit)
                bar.update(images[number + 1] - bar.n)
        settings = {name: getattr(options, name) for name in SETTINGS} | {"early_stopping": best}
        epochs = "; ".join(f"epoch {one['epoch']} ({one['balanced_accuracy']:.3f})" for one in best)
        counts = "; ".join(f"{one['trained']} trained on, {one['kept_out']} kept out" for one in best)
        line = f"best epoch of each fold on the kept-out training {task.unit}s: {epochs}\nimages of each fold: {counts}"
        return Fitted(collect(task, folds, found, options.seed), settings, (), (line,))

    def _train(self, task: Task, fold: Fold, bar: tqdm) -> tuple[np.ndarray, dict[str, Any]]:
        """Probabilities ``(N, C)`` of the test images; and the best epoch, with its score on the kept-out patients."""
        options, labels = self.options, task.labels
        torch.manual_seed(options.seed)
        fitted, held = self._kept_out(task, fold)
        accelerator = accelerator_in("auto", PartialState().device)
        model, optimizer, tuned = self.new_model(len(task.classes))
        model, optimizer = accelerator.prepare(model, optimizer)
        used = len(fitted) - (len(fitted) % options.batch == 1)  # a single image has no batch statistics
        steps = max(1, options.epochs * -(-used // options.batch))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
        best, epoch, kept = -1.0, 0, {}
        for number in range(1, options.epochs + 1):
            model.eval()
            for part in tuned:
                part.train()
            order = np.random.default_rng([options.seed, fold.number, number]).permutation(fitted)[:used]
            seeds = options.seed, fold.number, number
            for rows, images in self._batches(task, order, accelerator.device, seeds):
                truth = torch.from_numpy(labels[rows]).to(images.device)
                loss = nn.functional.cross_entropy(model(images).float(), truth)
                if not torch.isfinite(loss):
                    raise InputError(f"fold {fold.number}: the loss is not finite in epoch {number}: lower --lr")
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                bar.update(len(rows))
            score = balanced_accuracy(labels[held], self._predict(model, task, held, accelerator.device).argmax(1))
            bar.update(len(held))
            if score > best:
                best, epoch, kept = score, number, copy.deepcopy(model.state_dict())
            if number - epoch >= options.patience:
                break
        model.load_state_dict(kept)
        found = self._predict(model, task, fold.test, accelerator.device)
        return found, {"epoch": epoch, "balanced_accuracy": best, "trained": len(fitted), "kept_out": len(held)}

    def _kept_out(self, task: Task, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
        """The rows that are trained on, and those of the kept-out patients, who decide when training stops.

        Patients who alone have a class are not kept out: it would never be trained on.
        """
        share = self.options.held_out
        where = f"{task.where}, --held-out {share}"
        if share > MOST_KEPT_OUT:
            raise InputError(f"{where}: at most {MOST_KEPT_OUT:g} can be kept out of training")
        # The number of parts of which one or several come nearest to the share.
        counts = range(2, max(10, round(1 / share)) + 1)
        parts = min(counts, key=lambda count: abs(max(1, round(share * count)) / count - share))
        cut = grouped(task, parts, self.options.seed, fold.train, where)
        held = np.sort(np.concatenate([part.test for part in cut[: max(1, round(share * parts))]]))
        fitted, groups = np.setdiff1d(fold.train, held), task.groups[held]
        only = np.isin(groups, groups[~np.isin(task.labels[held], task.labels[fitted])])
        if only.all():
            return fitted, held
        return np.union1d(fitted, held[only]), held[~only]

    def new_model(self, classes: int) -> tuple[nn.Module, torch.optim.Optimizer, list[nn.Module]]:
        """The encoder as it was given, with a new classifier; its optimizer; and the parts to set to training mode.

        Adapters set none to training mode, so that batch statistics do not change.
        """
        options, backbone = self.options, copy.deepcopy(self.encoder.model)
        head = nn.Linear(self.encoder.dim, classes)
        nn.init.normal_(head.weight, std=0.01)
        tuned = trained_blocks(backbone, options)
        backbone.requires_grad_(options.train == "adapters")
        for part in tuned:
            part.requires_grad_(True)
        if options.train == "adapters":
            add_low_rank(backbone, options.adapter_rank, options.seed, "--adapter-rank")
        weights = [weight for weight in backbone.parameters() if weight.requires_grad]
        groups = [{"params": head.parameters(), "lr": options.head_lr}, {"params": weights, "lr": options.lr}]
        optimizer = torch.optim.AdamW(groups[: 1 + bool(weights)], weight_decay=options.weight_decay)
        return nn.Sequential(backbone, head), optimizer, tuned

    @torch.no_grad()
    def _predict(self, model: nn.Module, task: Task, rows: np.ndarray, device: torch.device) -> np.ndarray:
        model.eval()
        found = [model(images).float().softmax(1).cpu() for _, images in self._batches(task, rows, device)]
        return torch.cat(found).double().numpy()

    def _batches(
        self, task: Task, rows: np.ndarray, device: torch.device, seeds: Sequence[int] = ()
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Rows of the task ``(B,)`` and normalised images ``(B, 3, S, S)`` on the device; random views by ``seeds``."""
        preprocessing, stores = self.encoder.preprocessing, [dataset.images for dataset in self.datasets]
        pictures = TrainingPictures(stores, preprocessing, seeds) if seeds else Pictures(stores, preprocessing)
        images = in_batches(task.features[rows, 0], self.options.batch)
        loader = batches_of_pictures(pictures, images, self.options.workers)
        for part, (_, batch) in zip(in_batches(rows, self.options.batch), read_batches(loader), strict=True):
            yield np.array(part), normalise_pixels(batch[:, 0], preprocessing, device)


class TrainingPictures(Pictures):
    """Images in random crops, flips and slight changes of colour, at the size that the encoder takes.

    A view depends on ``seeds`` and its row alone. Worker processes are all started in the same random state.
    """

    def __init__(self, stores: Sequence[Any], preprocessing: dict[str, Any], seeds: Sequence[int]) -> None:
        super().__init__(stores, preprocessing)
        self.seeds = tuple(seeds)

    def __getitem__(self, row: int) -> tuple[int, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            seed = np.random.SeedSequence([*self.seeds, row]).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(seed[0]))  # not those of GPUs, which this process also uses
            return super().__getitem__(row)

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """One random view, uint8 ``(1, 3, S, S)``."""
        size = self.preprocessing["input_size"][-1]
        crop = v2.RandomResizedCrop(size, (SMALLEST_CROP, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
        changes = v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.ColorJitter(0.2, 0.2, 0.1), v2.PILToTensor()
        return v2.Compose([crop, *changes])(image)[None]


def _rate(done: float) -> float:
    """Learning rate as a share of its peak, when a share ``done`` of the steps is done: warm-up, then a cosine to 0."""
    cosine = 0.5 * (1 + float(np.cos(np.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP)))))
    return min(1.0, (done + 1e-3) / WARM_UP) if done < WARM_UP else cosine
