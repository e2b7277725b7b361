"""MILK10k: lesions seen twice, close up and by dermoscope; shares lesions with HAM10000."""

from dermssl.dataset.targets import Target
from dermssl.prepare.columns import one_hot_labels, one_row_each, read_columns
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source

CLASSES = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")


def read(raw: RawFolder) -> Rows:
    """Read the metadata, the one-hot ground truth of each lesion, and ``<lesion_id>/<isic_id>.jpg``.

    The skin tone classes are a scale of this data set (0 dark to 5 light), not Fitzpatrick types.
    """
    truth = raw.table("MILK10k_Training_GroundTruth", required=("lesion_id", *CLASSES))
    truth = one_row_each(raw, truth, "lesion_id", "lesion")
    frame = read_columns(
        raw,
        raw.table("MILK10k_Training_Metadata"),
        ("copyright_license",),
        file="isic_id",
        lesion_id="lesion_id",
        age="age_approx",
        sex="sex",
        body_site="site",
        modality="image_type",
        skin_tone="skin_tone_class",
        skin_tone_scale=("skin_tone_class", lambda tone: "milk10k"),
        copyright_license="copyright_license",
    )
    frame["diagnosis"] = frame["lesion_id"].map(one_hot_labels(raw, truth, "lesion_id", CLASSES))
    for lesion in sorted(set(frame["lesion_id"].dropna()) - set(truth["lesion_id"])):
        raw.report(f"lesion {lesion}", "no row in the label table", "kept unlabelled")
    return Rows(match_files(raw, frame))


SOURCE = Source(
    name="milk10k",
    title="MILK10k (shares lesions with HAM10000)",
    licence="CC-BY-NC-4.0",
    citation="MILK study team: MILK10k, ISIC Archive, 2025. https://doi.org/10.34970/648456",
    where="https://challenge.isic-archive.com/data/#milk10k",
    layout="MILK10k_Training_Metadata.csv, MILK10k_Training_GroundTruth.csv, <lesion_id>/<isic_id>.jpg",
    group="lesion",
    targets={"diagnosis": Target("diagnosis", CLASSES, level="case")},
    reader=read,
    overlaps=("ham10000", "isic2019"),
)
