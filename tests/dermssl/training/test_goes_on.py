"""What a run that goes on records: where its data lie, what its start was, and no ledger of an earlier stop."""

import json
import shutil

from tiny_runs import stop_after

from dermssl.backbone.pretrained import find_ledger
from dermssl.files import read_json, read_yaml
from dermssl.licences import notice


def test_a_run_that_goes_on_with_its_data_elsewhere_records_where(dataset, tmp_path, pretrain, monkeypatch):
    first, moved = shutil.copytree(dataset, tmp_path / "first"), tmp_path / "moved"
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert pretrain(first, tmp_path / "run") == 1
    first.rename(moved)
    assert pretrain(moved, tmp_path / "run") == 0
    assert read_yaml(tmp_path / "run" / "config.yaml")["data"]["folders"] == [str(moved)]


def test_a_stopped_run_that_goes_on_has_no_ledger_until_it_ends(dataset, tmp_path, pretrain, monkeypatch):
    """The images that it was stopped with are not all that ``best/`` has seen later."""
    still = {"dino__momentum": "1", "health__patience": "1"}
    assert pretrain(dataset, tmp_path / "run", **still, health__on_collapse="stop") == 3
    assert (tmp_path / "run" / "ledger.parquet").exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert pretrain(dataset, tmp_path / "run", **still) == 1
    assert find_ledger(tmp_path / "run" / "best") is None and not (tmp_path / "run" / "MODEL_CARD.md").exists()


def test_what_is_known_of_a_start_is_what_was_known_when_the_run_began(dataset, tmp_path, pretrain, monkeypatch):
    """A start without a ledger is named by all that comes of it; its training images would count as unseen."""
    assert pretrain(dataset, tmp_path / "first", training__epochs="1") == 0
    start = shutil.copytree(tmp_path / "first" / "encoder", tmp_path / "start")
    config = read_json(start / "config.json", "dermssl pretrain")
    own = config["dermssl"]["licences"]
    for licences, steps, code in (([*own, notice("bound", "PASSION", "", False)], 5, 1), (own, 99, 0)):
        config["dermssl"]["licences"] = licences
        (start / "config.json").write_text(json.dumps(config))
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            assert pretrain(dataset, tmp_path / "next", model__init=str(start)) == code
    assert pretrain(dataset, tmp_path / "last", model__init=str(tmp_path / "next"), training__epochs="1") == 0
    for run in ("next", "last"):
        facts = read_json(tmp_path / run / "encoder" / "config.json", "dermssl pretrain")["dermssl"]
        assert "bound" in {entry["dataset"] for entry in facts["licences"]} and facts["unrecorded"] == ["start"]
        assert "The start (start) may have seen test images" in (tmp_path / run / "MODEL_CARD.md").read_text()
