"""PAD-UFES-20: smartphone photos of skin lesions from Brazil, with patients, lesions and Fitzpatrick types."""

from dermssl.dataset.targets import Target
from dermssl.prepare.source import Source
from dermssl.prepare.values import body_sites

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
    tables=("metadata",),
    columns={
        "file": "img_id",
        "patient_id": "patient_id",
        "lesion_id": ["patient_id", "lesion_id"],  # lesion numbers repeat from patient to patient
        "age": "age",
        "sex": "gender",
        "body_site": ("region", lambda region: body_sites(region.lower())),
        "fitzpatrick": "fitspatrick",
        "diagnostic": "diagnostic",
        "biopsed": ("biopsed", {"True": True, "False": False}),
    },
    modality="clinical",
)
