"""`dermssl describe`: the published counts, from the tables, and a page that stands alone."""

import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dermssl.cli import main
from dermssl.dataset.targets import Target
from dermssl.describe.describe import file_name
from dermssl.describe.plots import choose_panel, draw_page
from dermssl.describe.tables import MISSING, all_tables, with_units
from dermssl.plotting import as_svg
from dermssl.prepare.sources import get_source, read_source


@pytest.fixture(scope="module")
def passion_tables(shared_data, tmp_path_factory):
    """Tables of PASSION's real label.csv; its photos may not be passed on, so empty files stand for them."""
    root = tmp_path_factory.mktemp("passion")
    for name in ("label.csv", "PASSION_split.csv"):
        shutil.copy(shared_data / "passion" / name, root)
    (root / "images").mkdir()
    for subject in pd.read_csv(root / "label.csv")["subject_id"]:
        (root / "images" / f"{subject}_1.jpg").touch()
    source = get_source("passion")
    return all_tables(read_source(source, root).frame.assign(image_id=lambda f: f["file"]), source.targets, "patient")


def test_passion_has_the_published_number_of_patients_per_country(passion_tables):
    table = passion_tables["patients and images per country"]["patients"]
    assert table.to_dict() == {"Madagascar": 985, "Guinea": 384, "Malawi": 261, "Tanzania": 23}


def test_passion_has_the_published_conditions_per_centre(passion_tables):
    table = passion_tables["patients per centre and condition"]
    published = {
        "Eczema": {"Guinea": 57, "Madagascar": 301, "EAS": 56},
        "Fungal": {"Guinea": 230, "Madagascar": 299, "EAS": 50},
        "Others": {"Guinea": 39, "Madagascar": 29, "EAS": 121},
        "Scabies": {"Guinea": 58, "Madagascar": 356, "EAS": 57},
    }
    assert {name: table[name].to_dict() for name in published} == published
    assert table["all"].to_dict() == {"Guinea": 384, "Madagascar": 985, "EAS": 284}


def test_passion_has_the_published_impetigo_and_skin_types(passion_tables):
    assert passion_tables["patients and images per impetigo"]["patients"]["impetigo"] == 191
    types = passion_tables["patients and images per Fitzpatrick type"]["patients"]
    assert types.to_dict() == {1: 1, 3: 354, 4: 486, 5: 428, 6: 384}


def test_passion_split_and_missing_body_sites_are_counted(passion_tables):
    assert passion_tables["patients and images per split"]["patients"].to_dict() == {"train": 1323, "test": 330}
    assert passion_tables["patients per body site and condition"]["all"][MISSING] == 136


@pytest.mark.parametrize(
    ("name", "table", "target", "unit"),
    [
        ("ham10000", "HAM10000_metadata.csv", "dx", "lesions"),
        ("pad_ufes_20", "metadata.csv", "diagnostic", "patients"),
    ],
)
def test_real_sets_are_counted_as_their_own_tables_say(shared_data, name, table, target, unit):
    raw = pd.read_csv(shared_data / name / table)
    source = get_source(name)
    frame = read_source(source, shared_data / name).frame
    counted = all_tables(frame.assign(image_id=frame["file"]), source.targets, unit[:-1])[
        f"{unit} and images per {target}"
    ]
    assert counted["images"].to_dict() == raw[target].value_counts().to_dict()
    distinct = raw.groupby(target)[unit[:-1] + "_id"].nunique()
    assert counted[unit].to_dict() == distinct.to_dict()


@pytest.fixture
def small():
    """Three patients, five images: one image of two sites, one patient with two diagnoses."""
    return pd.DataFrame(
        {
            "image_id": list("abcde"),
            "patient_id": ["p", "p", "q", "q", "r"],
            "diagnosis": ["naevus", "wart", "wart", "wart", None],
            "body_site": [["arm"], ["arm"], ["arm", "leg"], ["leg"], None],
            "age": [3.0, 3.0, 40.0, 40.0, None],
            "sex": ["female", "female", "male", "male", None],
            "split": ["train", "train", "test", "test", "test"],
            "width": [4, 4, 8, 8, 8],
            "height": [4, 4, 6, 6, 6],
        }
    )


TARGETS = {"diagnosis": Target("diagnosis", ("wart", "naevus", "scar"))}


def test_a_patient_counts_once_in_each_row_and_once_in_all(small):
    table = all_tables(small, TARGETS, "patient")["patients per body site and diagnosis"]
    assert table.loc["arm"].to_dict() == {"wart": 2, "naevus": 1, "scar": 0, MISSING: 0, "all": 2}
    assert table.loc["leg", "all"] == 1
    assert table.loc[MISSING].to_dict() == {"wart": 0, "naevus": 0, "scar": 0, MISSING: 1, "all": 1}


def test_shares_of_a_split_are_of_its_patients_who_may_have_several_classes(small):
    table = all_tables(small, TARGETS, "patient")["patients per split and diagnosis"]
    axis = Figure().subplots()
    choose_panel("patients per split and diagnosis", table)(axis)
    longest = {bar.get_y(): bar.get_x() + bar.get_width() for bar in axis.patches}
    assert sorted(longest.values()) == [100, 200] and "some have several classes" in axis.get_xlabel()


def test_images_are_counted_per_centre_and_label_beside_patients(small):
    tables = all_tables(small.assign(centre="EAS"), TARGETS, "patient")
    patients = tables["patients per centre and diagnosis"].loc["EAS"]
    assert patients.to_dict() == {"wart": 2, "naevus": 1, "scar": 0, MISSING: 1, "all": 3}
    images = tables["images per centre and diagnosis"].loc["EAS"]
    assert images.to_dict() == {"wart": 3, "naevus": 1, "scar": 0, MISSING: 1, "all": 5}


def test_classes_keep_the_declared_order_and_absent_ones_count_zero(small):
    table = all_tables(small, TARGETS, "patient")["patients and images per diagnosis"]
    assert list(table.index) == ["wart", "naevus", "scar", MISSING]
    assert list(table["patients"]) == [2, 1, 0, 1] and list(table["images"]) == [3, 1, 0, 1]


def test_missing_values_are_counted_per_column(small):
    table = all_tables(small, TARGETS, "patient")["missing values"]
    assert table.loc["age"].to_dict() == {"images without": 1, "share": 0.2}
    assert "width" not in table.index


def test_what_is_counted_is_what_the_data_set_keeps_whole(small):
    counted = all_tables(small.drop(columns="patient_id"), TARGETS, "image")["images per split"]
    assert counted["images"].to_dict() == {"train": 2, "test": 3}
    cases = small.rename(columns={"patient_id": "case_id"})
    assert all_tables(cases, TARGETS, "case")["cases and images per split"]["cases"].to_dict() == {
        "train": 1,
        "test": 2,
    }


def test_an_image_without_an_id_counts_by_its_group(small):
    small = small.assign(patient_id=["p", None, "q", "q", None], group_id=["p", "p", "q", "q", "e"])
    frame, units = with_units(small, "patient")
    assert units == "patients" and frame["unit"].tolist() == ["p", "p", "q", "q", "e"]


def test_a_dollar_in_a_class_name_is_no_mathematics(small, tmp_path):
    targets = {"diagnosis": Target("diagnosis", ("$wart_{", "na$evus$", "scar"))}
    names = {"wart": "$wart_{", "naevus": "na$evus$"}
    tables = all_tables(small.assign(diagnosis=small["diagnosis"].map(names)), targets, "patient")
    draw_page("$set", tables).savefig(tmp_path / "plots.png")
    assert "$wart_{" in as_svg(draw_page("$set", tables))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [["x" * 120, "scar"], [f"condition {number}" for number in range(114)]])
def test_long_names_and_many_classes_leave_room_for_the_plots(tmp_path, classes):
    frame = pd.DataFrame({"label": classes * 2, "split": ["train", "test"] * len(classes)})
    frame["image_id"] = frame["group_id"] = [f"{row}" for row in range(len(frame))]
    tables = all_tables(frame, {"label": Target("label", tuple(classes))}, "image")
    draw_page("set", tables).savefig(tmp_path / "plots.png", dpi=50)
    assert (choose_panel("images per label", tables["images per label"]) is None) == (len(classes) > 100)


def test_a_long_legend_takes_several_lines_within_its_panel():
    classes = ("Aktinische Keratose", "Basalzellkarzinom", "Melanom", "Nävus", "Plattenepithelkarzinom", "Lentigo")
    frame = pd.DataFrame({"label": classes * 2, "split": ["train", "test"] * len(classes)})
    frame["image_id"] = frame["group_id"] = [f"{row}" for row in range(len(frame))]
    figure = draw_page("set", all_tables(frame, {"label": Target("label", classes)}, "image"))
    FigureCanvasAgg(figure).draw()
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert max(len(legend.get_texts()) for legend in legends) == 6
    assert all(legend.get_window_extent().width < figure.bbox.width / 3 for legend in legends)


@pytest.fixture(scope="module")
def described(synthetic_dataset, tmp_path_factory):
    """Folder and JSON report of ``dermssl describe``."""
    out = tmp_path_factory.mktemp("described")
    assert (
        main(["describe", str(synthetic_dataset), "--out", str(out / "page"), "--json", str(out / "report.json")]) == 0
    )
    return out / "page", json.loads((out / "report.json").read_text())


def test_the_page_needs_nothing_else_and_shows_no_photo(described):
    page, _ = described
    html = (page / "describe.html").read_text()
    assert "<svg" in html and "<img" not in html and "data:image" not in html
    assert 'href="http' not in html and 'src="http' not in html and "SYNTHETIC" in html
    with Image.open(page / "plots.png") as plots:
        assert min(plots.size) > 800


def test_csv_and_json_say_the_same(described):
    page, report = described
    for title, rows in report["tables"].items():
        table = pd.read_csv(page / file_name(title), dtype={0: str})
        assert len(table) == len(rows), title
    rows = report["tables"]["patients per centre and condition"]
    table = pd.read_csv(page / "patients_per_centre_and_condition.csv")
    assert table.to_dict(orient="records") == rows and rows[0]["all"] > 0
    assert {"report_of": "dermssl describe"} | json.loads((page / "tables.json").read_text()) == report


def test_targets_that_differ_in_capitals_have_a_file_each(synthetic_dataset, tmp_path, dermssl):
    folder, out = shutil.copytree(synthetic_dataset, tmp_path / "data"), tmp_path / "page"
    table = pq.read_table(folder / "manifest.parquet")
    pq.write_table(table.append_column("Condition", table["condition"]), folder / "manifest.parquet")
    info = json.loads((folder / "dataset.json").read_text())
    info["targets"]["Condition"] = info["targets"]["condition"] | {"column": "Condition"}
    (folder / "dataset.json").write_text(json.dumps(info))
    for _ in range(2):
        assert dermssl("describe", folder, "--out", out, "--overwrite").code == 0
    tables = json.loads((out / "tables.json").read_text())["tables"]
    assert len(list(out.glob("*.csv"))) == len(tables)
    assert (out / "patients_and_images_per_condition_2.csv").is_file()


def test_the_text_shows_every_table_and_says_that_the_set_is_synthetic(synthetic_dataset, described, dermssl):
    outcome = dermssl("describe", synthetic_dataset)
    assert outcome.code == 0 and "SYNTHETIC" in outcome.out
    assert all(title in outcome.out for title in described[1]["tables"])


def test_describe_wants_a_dataset_folder(tmp_path, dermssl):
    outcome = dermssl("describe", tmp_path)
    assert outcome.code == 2 and "dermssl prepare" in outcome.err
