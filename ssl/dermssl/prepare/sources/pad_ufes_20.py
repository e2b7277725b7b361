"""PAD-UFES-20: smartphone photos of skin lesions from Brazil, with patients, lesions and Fitzpatrick types."""

from dermssl.dataset.targets import Target
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import read_columns
from dermssl.prepare.values import body_sites


def read(raw: RawFolder) -> Rows:
    """``metadata.csv`` joined to ``PAT_*`` images by stem, since re-uploads change the extension."""
    table = raw.table("metadata", required=("patient_id", "lesion_id"))
    # Lesion numbers repeat across patients, so the patient is part of the lesion's id.
    pairs = zip(table["patient_id"], table["lesion_id"], strict=True)
    rows = read_columns(
        table.assign(lesion=[f"{patient}/{lesion}" if patient and lesion else None for patient, lesion in pairs]),
        file="img_id",
        patient_id="patient_id",
        lesion_id="lesion",
        age="age",
        sex="gender",
        body_site=("region", lambda region: body_sites(region.lower())),
        fitzpatrick="fitspatrick",
        diagnostic="diagnostic",
        biopsed=("biopsed", {"True": True, "False": False}),
    )
    return match_files(raw, rows)


SOURCE = Source(
    name="pad_ufes_20",
    title="PAD-UFES-20",
    licence="CC-BY-4.0",
    citation="Pacheco et al.: PAD-UFES-20, a skin lesion dataset composed of patient data and clinical images "
    "collected from smartphones, Data in Brief 32:106221, 2020.",
    where="https://data.mendeley.com/datasets/zr7vgbcyr2/1",
    layout="metadata.csv, images/PAT_{patient}_{lesion}_{n}.png (one or several folders)",
    group="patient",
    case="lesion",
    targets={"diagnostic": Target("diagnostic", ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK"), level="case")},
    reader=read,
    modality="clinical",
)
