"""A killed ``dermeval embed`` goes on where it was, and only where it may."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from launched import Launched

from dermeval.cli import main
from dermeval.features import embed
from dermeval.features.embeddings import open_embeddings
from dermeval.features.encoders import Encoder
from dermeval.features.options import EmbedOptions
from dermssl.errors import InputError
from dermssl.files import read_parquet, write_parquet

IMAGES = 30


class Killed(BaseException):
    """What a signal does: nothing in the program catches it."""


@pytest.fixture
def data(tmp_path, make_dataset, make_frame):
    return make_dataset(tmp_path / "data", make_frame(30, seed=1).head(IMAGES), {}, size=40)


@pytest.fixture
def command(data):
    """``command(out, ...)``: the arguments of an embed in blocks of 8 images and batches of 4."""

    def arguments(out, *changes):
        common = ["--data", str(data), "--image-size", "32", "--precision", "fp32", "--workers", "0", "--batch", "4"]
        return ["embed", "--encoder", "random:resnet18", *common, "--views", "flip", "--out", str(out), *changes]

    return arguments


@pytest.fixture
def passes(monkeypatch):
    """Images of each forward pass so far; the pass after ``passes.limit`` of them is killed."""

    class Passes(list):
        limit = None

    seen, real = Passes(), Encoder.__call__

    def counted(self, images):
        if seen.limit is not None and len(seen) >= seen.limit:
            raise Killed
        seen.append(len(images))
        return real(self, images)

    monkeypatch.setattr(embed, "BLOCK_IMAGES", 8)
    monkeypatch.setattr(Encoder, "__call__", counted)
    return seen


def kill(command, passes, limit):
    passes.limit = limit
    with pytest.raises(Killed):
        main(command)
    passes.limit = None
    passes.clear()


def test_a_killed_run_goes_on_and_embeds_each_image_once(tmp_path, command, passes):
    assert main(command(tmp_path / "whole")) == 0
    assert sum(passes) == 2 * IMAGES
    passes.clear()
    # A block is two batches in two views: four passes. The tenth pass is in the third block, which is lost.
    kill(command(tmp_path / "e"), passes, limit=9)
    assert not (tmp_path / "e").exists() and (tmp_path / "e.unfinished").is_dir()
    assert main(command(tmp_path / "e")) == 0
    assert sum(passes) == 2 * (IMAGES - 16)
    whole, resumed = open_embeddings(tmp_path / "whole"), open_embeddings(tmp_path / "e")
    assert np.array_equal(whole.features, resumed.features)
    assert np.array_equal(whole.views["flip"], resumed.views["flip"])
    assert not (tmp_path / "e.unfinished").exists()


def test_rows_of_another_plan_are_not_gone_on_with(tmp_path, command, passes, caplog):
    kill(command(tmp_path / "e"), passes, limit=9)
    assert main(command(tmp_path / "e", "--dtype", "float16", "--features", "last4")) == 0
    assert "begun with different features, dtype: starting again" in caplog.text
    assert sum(passes) == 2 * IMAGES
    assert open_embeddings(tmp_path / "e").features.shape == (IMAGES, 960)


def test_rows_of_a_changed_data_set_are_not_gone_on_with(tmp_path, command, passes, data, caplog):
    kill(command(tmp_path / "e"), passes, limit=9)
    table = read_parquet(data / "manifest.parquet", "")
    write_parquet(data / "manifest.parquet", table.slice(0).replace_schema_metadata({"changed": "yes"}))
    assert main(command(tmp_path / "e")) == 0
    assert "begun with different data: starting again" in caplog.text and sum(passes) == 2 * IMAGES


def test_a_damaged_block_is_embedded_again(tmp_path, command, passes, caplog):
    kill(command(tmp_path / "e"), passes, limit=9)
    (tmp_path / "e.unfinished" / "rows-000000008.npy").write_bytes(b"not an array")
    assert main(command(tmp_path / "e")) == 0
    assert "is damaged" in caplog.text and sum(passes) == 2 * (IMAGES - 8)


def test_a_run_killed_between_its_last_row_and_its_folder_only_writes(tmp_path, command, passes, monkeypatch, capsys):
    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("dermeval.features.embed.write_embeddings", killed)
        main(command(tmp_path / "e"))
    passes.clear()
    assert main(command(tmp_path / "e")) == 0
    assert not passes and "nothing was left to embed" in capsys.readouterr().out


def test_a_run_killed_while_it_writes_its_plan_goes_on(tmp_path, command, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("dermeval.features.unfinished.write_json", lambda *_: (_ for _ in ()).throw(Killed))
        main(command(tmp_path / "e"))
    assert main(command(tmp_path / "e")) == 0


def test_a_run_refused_before_its_first_block_ends_leaves_nothing(tmp_path, command, monkeypatch, capsys):
    monkeypatch.setattr(Encoder, "__call__", lambda self, images: torch.full((len(images), 512), torch.nan))
    assert main(command(tmp_path / "e")) == 2
    assert "NaN or infinity" in capsys.readouterr().err
    assert not list(tmp_path.glob("*e*.unfinished"))


def test_a_full_disk_is_one_line(tmp_path, command, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError("4096 requested and 0 written")

    monkeypatch.setattr(np, "save", full)
    assert main(command(tmp_path / "e")) != 0
    error = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(error) and "No space left on device: free some space" in error[-1]


def test_two_ranks_go_on_with_what_one_rank_began(tmp_path, command, passes):
    assert main(command(tmp_path / "whole")) == 0
    passes.clear()
    kill(command(tmp_path / "e"), passes, limit=5)
    process = Launched(("-m", "dermeval"), command(tmp_path / "e"), ranks=2)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "continuing after 8 of 30 images" in told
    whole, resumed = open_embeddings(tmp_path / "whole"), open_embeddings(tmp_path / "e")
    assert np.array_equal(whole.features[:8], resumed.features[:8])
    assert np.allclose(whole.features, resumed.features, atol=1e-6)


def test_a_folder_that_only_bears_the_name_is_left_alone(tmp_path, command, capsys):
    (tmp_path / "e.unfinished").mkdir()
    (tmp_path / "e.unfinished" / "thesis.txt").write_text("mine")
    assert main(command(tmp_path / "e")) == 2
    assert "plan.json" in capsys.readouterr().err
    assert (tmp_path / "e.unfinished" / "thesis.txt").read_text() == "mine"


def test_a_call_from_python_waits_for_no_other_writer_and_mixes_no_rows(tmp_path, data):
    held = "import sys; from pathlib import Path; from dermssl.atomic import locked\n"
    held += "with locked(Path(sys.argv[1])):\n    print('locked', flush=True)\n    sys.stdin.read()"
    writer = [sys.executable, "-c", held, str(tmp_path / "e")]
    with subprocess.Popen(writer, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match="another process is writing"):
            embed.embed(EmbedOptions("random:resnet18", [str(data)], str(tmp_path / "e"), image_size=32, workers=0))
        other.stdin.close()
    assert not (tmp_path / "e").exists() and not (tmp_path / "e.unfinished").exists()
