"""MILK10k: lesions seen twice, close up and by dermoscope; shares lesions with HAM10000."""

from dermssl.dataset.targets import Target
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import one_hot_labels, read_columns

CLASSES = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")


def read(raw: RawFolder) -> Rows:
    """Metadata and one-hot ground truth (per lesion) joined to ``<lesion_id>/<isic_id>.jpg``.

    The skin tone classes are the set's own scale (dark 0 to light 5), not Fitzpatrick types.
    """
    truth = raw.table("MILK10k_Training_GroundTruth", required=("lesion_id", *CLASSES))
    labels, problems = one_hot_labels(truth, "lesion_id", CLASSES)
    rows = read_columns(
        raw.table("MILK10k_Training_Metadata"),
        optional=("copyright_license",),
        file="isic_id",
        lesion_id="lesion_id",
        age="age_approx",
        sex="sex",
        body_site="site",
        modality="image_type",
        skin_tone="skin_tone_class",
        skin_tone_scale=("skin_tone_class", lambda tone: "milk10k"),
        diagnosis=("lesion_id", labels),
        copyright_license="copyright_license",
    )
    rows.problems += problems
    return match_files(raw, rows)


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
