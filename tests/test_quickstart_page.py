"""The quickstart can be given again, and the sentences of its last page."""

import importlib.util
from pathlib import Path

import pandas as pd

SCRIPT = Path(__file__).parents[1] / "scripts" / "quickstart_page.py"


def test_a_second_quickstart_may_replace_what_the_first_one_wrote():
    lines = SCRIPT.with_name("quickstart.sh").read_text().replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.strip().startswith("step derm")]
    assert len(commands) == 9 and all("--overwrite" in line for line in commands)


def test_the_page_counts_planted_records_that_the_audit_found_and_others(tmp_path):
    spec = importlib.util.spec_from_file_location("quickstart_page", SCRIPT)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    for name in ("raw", "leaks"):
        (tmp_path / name).mkdir()
    # Of three planted records one is found, twice and in the other order; one further pair is not planted.
    truth = {"subject_id": ["p0", "p1", "p7"], "duplicate_subject_id": ["c0", "c1", "p8"]}
    pd.DataFrame(truth).to_csv(tmp_path / "raw" / "truth.csv", index=False)
    pairs = {"group_id_a": ["x/c0", "x/p0", "x/p2"], "group_id_b": ["x/p0", "x/c0", "x/p3"]}
    pd.DataFrame(pairs).to_parquet(tmp_path / "leaks" / "pairs.parquet")
    told = "1 of 3 planted near-duplicate records found; 1 records reported that were not planted."
    assert page.audited(tmp_path) == told
