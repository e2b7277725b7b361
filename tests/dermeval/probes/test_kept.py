"""A killed probe goes on: what it had fitted is read back, and what its options or data change is fitted again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dermeval.cli import main
from dermeval.probes.folds import make_folds
from dermeval.probes.kept import fit_key
from dermeval.probes.linear import LinearProbe
from dermeval.probes.options import LinearOptions
from dermeval.probes.task import open_task


@pytest.fixture
def fits(monkeypatch):
    """The linear fits that were made; the third is killed where ``fits.append("kill")`` was called."""
    made, fit = [], LinearProbe.fit

    def counted(self, task, folds, shots=None):
        made.append(shots)
        if "kill" in made and len(made) > 2:
            raise KeyboardInterrupt
        return fit(self, task, folds, shots)

    monkeypatch.setattr(LinearProbe, "fit", counted)
    return made


COMMAND = ["linear", "--c-values", "2", "--draws", "40", "--shots", "2", "4", "--shot-draws", "2"]


def test_a_killed_command_goes_on_and_gives_what_an_unbroken_one_gives(
    tmp_path, make_embeddings, frame, class_features, fits, capsys
):
    emb, out = str(make_embeddings(tmp_path / "e", frame, class_features)), tmp_path / "r"
    assert main([*COMMAND, emb, "--json", str(tmp_path / "whole.json")]) == 0 and len(fits) == 5
    fits[:] = ["kill"]
    assert main([*COMMAND, emb, "--out", str(out)]) == 1 and not out.exists()
    assert "same command again" in capsys.readouterr().err
    fits.clear()
    kept = sorted((tmp_path / "r.unfinished").glob("fit-*"))
    kept[0].write_bytes(kept[0].read_bytes()[:-20])
    assert len(kept) == 1
    assert main([*COMMAND, emb, "--out", str(out), "--json", str(tmp_path / "again.json")]) == 0
    assert len(fits) == 5, "the damaged fit is made again"
    assert (tmp_path / "again.json").read_text() == (tmp_path / "whole.json").read_text()
    assert not (tmp_path / "r.unfinished").exists()


def test_other_options_and_features_are_fitted_again(tmp_path, make_embeddings, frame, class_features, fits):
    one = str(make_embeddings(tmp_path / "e", frame, class_features))
    other = str(make_embeddings(tmp_path / "o", frame, np.roll(class_features, 1, axis=1), fingerprint="o" * 64))
    out, printed = str(tmp_path / "r"), {}
    for name, arguments in (("one", [one]), ("seed", [one, "--seed", "1"]), ("other", [other])):
        fits[:] = ["kill"]
        main([*COMMAND, *arguments, "--out", out])
        printed[name] = len(list((tmp_path / "r.unfinished").glob("fit-*")))
    assert printed == {"one": 1, "seed": 2, "other": 3}


def test_a_fit_depends_on_who_is_one_patient(tmp_path, make_embeddings, frame, class_features):
    task = open_task([str(make_embeddings(tmp_path / "e", frame, class_features))], "condition")
    folds, probe = make_folds(task, "official", 5, 0), LinearProbe(LinearOptions(embeddings=[]))
    other = replace(task, groups=task.frame["image_id"].to_numpy())
    assert fit_key(probe, task, folds) == fit_key(probe, task, folds) != fit_key(probe, other, folds)


def test_evaluate_keeps_each_probe(tmp_path, make_embeddings, frame, class_features, fits, monkeypatch):
    emb, out = str(make_embeddings(tmp_path / "e", frame, class_features)), tmp_path / "r"
    command = ["evaluate", emb, "--draws", "40", "--out", str(out)]
    monkeypatch.setattr("dermeval.probes.linear.choose", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(command) == 1
    kept = list((tmp_path / "r.unfinished").glob("fit-*"))
    assert len(kept) == 1
    monkeypatch.undo()
    monkeypatch.setattr("dermeval.probes.knn.KnnProbe.fit", lambda *_: pytest.fail("kNN was kept"))
    assert main(command) == 0
    assert set(pd.read_parquet(out / "predictions.parquet")["probe"]) == {"knn", "linear"}
