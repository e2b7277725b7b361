"""One definition of options for command line, YAML and help; mistakes are one line with the remedy."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest
from jsonargparse.typing import PositiveFloat, PositiveInt

from dermssl import cli
from dermssl.commandline import Command, Report, main
from dermssl.errors import DamagedImage, HealthStop, InputError, Preempted, tell
from dermssl.licences import LICENCES
from dermssl.parser import parse, positional


@dataclass
class Training:
    """How long, how fast."""

    ALIASES: ClassVar = {"speed": "rate"}
    epochs: PositiveInt = 3
    """Passes over the data."""
    rate: PositiveFloat = 0.5
    """Learning rate, per step."""
    method: Literal["dino", "simclr"] = "dino"
    """Loss."""


@dataclass
class Options:
    """Try the command line."""

    ALIASES: ClassVar = {"epochs": "training.epochs"}
    folders: list[str] = positional()
    """Folders to read."""
    out: str = "here"
    """Folder to write."""
    batch_size: int | None = None
    """Images at a time."""
    force: bool = False
    """Do it anyway."""
    training: Training = field(default_factory=Training)
    """How to train."""
    sizes: list[int] = field(default_factory=lambda: [8])
    """Sides of the crops."""


def echo(options):
    """The command under test: says what it was given, or ends as asked."""
    endings = {"health": HealthStop("collapsed"), "preempt": Preempted("saved"), "bug": KeyError("oops")}
    if options.out in endings:
        raise endings[options.out]
    return Report(repr(options), {"out": options.out, "epochs": options.training.epochs})


def replace_code(monkeypatch, options, function):
    """Give the command under test these options and this function."""
    monkeypatch.setattr("dermssl.commandline.options_class", lambda *_: options)
    monkeypatch.setattr("dermssl.commandline._function", lambda *_: function)


@pytest.fixture
def run(capsys, monkeypatch):
    """Run ``prog try ARGUMENTS``; gives the exit code, the options it got, and the error."""
    command = Command("try", "try it", "echo", "Options")
    replace_code(monkeypatch, Options, echo)

    def call(*arguments):
        code = main("prog", "A program.", [command], ["try", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out.strip(), printed.err.strip()

    return call


def test_options_are_parsed_into_the_dataclass(run):
    code, out, _ = run("a", "b", "--batch-size", 8, "--training.rate", "1e-3", "--force")
    options = Options(["a", "b"], "here", 8, True, Training(rate=0.001))
    assert code == 0 and out == repr(options)


@pytest.mark.parametrize("spelling", ["--batch_size=8", "--batch-size=8"])
def test_dashes_and_underscores_both_work(run, spelling):
    assert "batch_size=8" in run("a", spelling)[1]


def test_an_alias_sets_the_option_it_stands_for(run):
    assert "epochs=7" in run("a", "--epochs", 7)[1]


def test_the_command_line_goes_over_the_config(run, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("folders: a\nout: there\ntraining:\n  epochs: 5\n  method: simclr\n")
    assert run("--config", config)[1] == repr(Options(["a"], "there", training=Training(5, method="simclr")))
    assert "epochs=9, rate=0.5, method='simclr'" in run(f"--config={config}", "--training.epochs", 9)[1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["a", "--training.epoch", "4"], "prog: unknown option --training.epoch; did you mean '--training.epochs'?"),
        (["a", "--ou", "x"], "prog: unknown option --ou; did you mean '--out'?"),
        (["a", "--training.epochs", "0"], "--training.epochs: expected a whole number of 1 or more. Got value: 0"),
        (["a", "--training.rate", "fast"], "--training.rate: expected a number above 0. Got value: 'fast'"),
        (["a", "--batch-size", "x"], "--batch-size: expected a whole number. Got value: x"),
        (["a", "--force", "maybe"], "--force: expected true or false. Got value: maybe"),
        (["a", "--training.method", "moco"], "--training.method: expected one of ['dino', 'simclr']. Got value: moco"),
        (["a", "--out"], "--out: expected one argument"),
        (["a", "--out", ""], "--out is empty: give a value, or leave it out"),
        (["a", ""], "FOLDERS is empty: give a value, or leave it out"),
        (["a", "--config", ""], ". is not a file: give the path of a YAML config"),
        (["a", "-x"], "unrecognized arguments: -x"),
        ([], "FOLDERS is missing: give it on the command line or in the --config file"),
        (["--config"], "--config needs the path of a YAML file"),
        (["--config", "nowhere.yaml"], "nowhere.yaml is not a file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, arguments, error):
    code, out, err = run(*arguments)
    assert code == 2 and error in err and len(err.splitlines()) == 1 and not out


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("traning:\n  epochs: 5\n", "unknown key 'traning.epochs'; did you mean 'training.epochs'?"),
        ("training:\n  epochs: -5\n", "--training.epochs: expected a whole number of 1 or more. Got value: -5"),
        ("out: [x\n", "is not valid YAML"),
        ("- out\n", "must hold `key: value` lines, not a list"),
        ("training: 5\n", "unknown key 'training'"),
        ("training:\n  epochs: 5\ntraining.epochs: 6\n", "key 'training.epochs' stands twice: keep one"),
    ],
)
def test_a_mistake_in_a_config_names_the_file_and_the_key(run, tmp_path, text, error):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    code, _, err = run("a", "--config", config)
    assert code == 2 and str(config) in err and error in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(("key", "option"), [("out:", "--out"), ("force: null", "--force"), ("sizes: []", "--sizes")])
def test_a_key_of_a_config_without_a_value_is_refused(run, tmp_path, key, option):
    (tmp_path / "c.yaml").write_text(key)
    code, _, err = run("a", "--config", tmp_path / "c.yaml")
    assert code == 2 and f"{option} is empty: give a value, or leave it out" in err


@pytest.mark.parametrize(("ending", "code"), [("health", 3), ("preempt", 75), ("bug", 1)])
def test_every_way_to_end_has_its_exit_code(run, ending, code):
    assert run("a", "--out", ending)[0] == code


def test_json_holds_the_report(run, tmp_path):
    run("a", "--epochs", 2, "--json", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == {"report_of": "prog try", "out": "here", "epochs": 2}


def test_json_is_written_although_the_reader_of_the_pipe_has_gone(tmp_path):
    program = "import sys; from dermssl.cli import main; sys.stdout.reconfigure(write_through=True); sys.exit(main())"
    arguments = ["sources", "--json", str(tmp_path / "report.json")]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        code = subprocess.run([sys.executable, "-c", program, *arguments], stdout=closed, check=False).returncode
    assert code == 1 and json.loads((tmp_path / "report.json").read_text())["report_of"] == "dermssl sources"


def test_help_shows_every_option_with_its_default(run):
    code, out, _ = run("--help")
    assert code == 0
    for shown in ("--training.epochs", "Passes over the data.", "default: 3", "(also --epochs)", "[required]"):
        assert shown in out
    assert "default: null" not in out and "type:" not in out  # no names of Python types
    assert "(a whole number of 1 or more; default: 3)" in " ".join(out.split())


def test_an_unknown_command_names_the_nearest(dermssl):
    outcome = dermssl("prepair")
    assert outcome.code == 2 and "did you mean 'prepare'" in outcome.err


def test_sources_are_listed_with_their_terms(dermssl):
    outcome = dermssl("sources")
    assert outcome.code == 0 and "patient leakage cannot be ruled out" in outcome.out
    assert "Never try to re-identify a person" in outcome.out
    assert "Creative Commons Attribution 4.0 (CC-BY-4.0)" in outcome.out
    assert all(name in outcome.out.splitlines()[-1] for name in LICENCES)


def test_an_alias_is_a_key_of_the_config_too(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("speed: 0.25\n")
    options, _ = parse("prog", Training, ["--config", str(config)])
    assert options.rate == 0.25


@pytest.mark.parametrize("value", ["inf", "1e308", "1e999", "9" * 6000, "²", "nan", "[" * 5000, "a\nb", "\udcff"])
@pytest.mark.parametrize("option", ["--training.rate", "--training.epochs", "--batch-size"])
def test_numbers_that_no_library_takes_are_one_short_line(run, option, value):
    code, _, error = run("a", option, value)
    assert code == 2 and option in error and "\n" not in error and len(error) < 2100


def test_the_largest_seed_is_taken_and_the_next_is_not(run):
    assert run("a", "--batch-size", 2**32 - 1)[0] == 0
    code, _, error = run("a", "--batch-size", 2**32)
    assert code == 2 and "give a number up to 4.29497e+09" in error


def test_a_second_config_is_refused(run, tmp_path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("out: there\n")
    code, _, error = run("a", "--config", tmp_path / "a.yaml", f"--config={tmp_path / 'b.yaml'}")
    assert code == 2 and "--config is given 2 times" in error


@pytest.mark.parametrize(
    "text", ["a: {" * 3000, "training: [1]", "? [1]\n: 2", "out: !!binary x", "1: 2", "out: {a: 1}", "a: &x {b: *x}"]
)
def test_no_config_is_a_traceback(run, tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    code, _, error = run("a", "--config", tmp_path / "c.yaml")
    assert code == 2 and "c.yaml" in error and "\n" not in error


def test_a_report_that_cannot_be_written_is_told_before_the_work(run, tmp_path):
    for path in (tmp_path, tmp_path / "c.yaml" / "below", tmp_path / ("x" * 250), "/dev/null"):
        (tmp_path / "c.yaml").write_text("out: bug")
        code, _, error = run("a", "--config", tmp_path / "c.yaml", "--json", path)
        assert code == 2 and "--json" in error and "\n" not in error


def test_messages_are_one_line(run):
    code, _, error = run("a", "--out", "preempt", "--out\n", "x")
    assert code == 2 and "\n" not in error


@dataclass
class Dino:
    """Options of DINO."""

    heads: int = 1
    """Heads."""


@dataclass
class Simclr:
    """Options of SimCLR."""

    temperature: float = 0.1
    """Temperature."""


@dataclass
class Many:
    """Options in sections."""

    COMMON: ClassVar = ("out", "dino.heads")
    ONE_SECTION_OF: ClassVar = ("method", ("dino", "simclr"))
    verbose: bool = False
    """Say more."""
    out: str = "x"
    """Where to."""
    method: str = "dino"
    """Which one."""
    dino: Dino = field(default_factory=Dino)
    simclr: Simclr = field(default_factory=Simclr)


def test_help_shows_common_options_first_and_the_section_of_the_chosen_method_only(monkeypatch, capsys):
    replace_code(monkeypatch, Many, repr)
    command = Command("try", "try it", "echo", "Many")

    def shown(*arguments):
        assert main("prog", "A program.", [command], ["try", *arguments, "--help"]) == 0
        return capsys.readouterr().out

    text = shown()
    assert text.index("common options") < text.index("--out") < text.index("--dino.heads") < text.index("--verbose")
    assert "--simclr.temperature" not in text
    assert "--simclr.temperature" in shown("--method", "simclr") and "--simclr" in shown("--method=simclr")
    assert parse("prog try", Many, ["--simclr.temperature", "2"])[0].simclr.temperature == 2


def test_a_second_sigterm_does_not_disturb_the_cleaning_up_after_the_first(monkeypatch, capsys):
    cleaned = []

    def work(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    replace_code(monkeypatch, Many, work)
    assert main("prog", "A program.", [Command("try", "try it", "work", "Many")], ["try"]) == 1
    assert cleaned and "Traceback" not in capsys.readouterr().err


def test_a_command_for_one_process_refuses_a_launcher(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as a job script may leave it behind: without a launcher it says nothing
    assert cli.main(["licence", str(tmp_path)]) == 2
    assert "launcher" not in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert cli.main(["licence", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "dermssl: dermssl licence runs as one process: start it without a launcher\n"


@pytest.mark.parametrize("left", ["RANK", "MASTER_ADDR"])
def test_variables_that_a_launcher_left_behind_are_named_at_once(monkeypatch, capsys, left):
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(left)
    assert cli.main(["pretrain"]) == 2
    told = capsys.readouterr().err
    assert f"are set, but not {left}: start dermssl pretrain with torchrun" in told and told.count("\n") == 1


def test_what_one_rank_alone_meets_is_told_by_it_and_what_all_meet_once(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert tell("dermssl", InputError("no such folder")) == 2 and not capsys.readouterr().err
    assert tell("dermssl", DamagedImage("image 7 is damaged")) == 2
    assert capsys.readouterr().err == "dermssl: image 7 is damaged\n"


def test_overwrite_without_an_output_is_refused(capsys):
    assert cli.main(["describe", "none", "--overwrite"]) == 2
    assert "--overwrite counts only with --out: leave it out, or give --out" in capsys.readouterr().err


def test_full_memory_names_the_remedy_of_each_command(capsys):
    assert tell("dermeval", MemoryError("Unable to allocate 954. GiB")) == 2
    assert "`dermeval retrieval` needs less with a smaller --k" in capsys.readouterr().err
