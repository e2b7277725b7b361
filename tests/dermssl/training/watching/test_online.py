"""Online scores watch every labelled set: kNN and recall@1 of kept-out groups, their mix, the start as floor."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny_runs import metrics, prepare_pictures
from torch import nn

from dermssl import neighbours
from dermssl.backbone.embedding import preprocessing_at
from dermssl.training.options import OnlineOptions
from dermssl.training.pool import OnlineSet, TrainingData
from dermssl.training.watching.online import (
    KNN,
    MIX,
    RANKME,
    RECALL,
    headline,
    online_features,
    score_encoder,
    scored_tones,
)
from dermssl.training.watching.watch import below_start


class Images:
    """Pictures of one grey value each, of which an encoder that averages pixels tells them apart."""

    def __init__(self, greys: list[int]) -> None:
        self.greys = greys

    def __len__(self) -> int:
        return len(self.greys)

    def image(self, row: int):
        from PIL import Image

        return Image.new("RGB", (8, 8), (self.greys[row], 255 - self.greys[row], 0))


class Skin:
    """What an evaluation asks of a data set."""

    def __init__(self, name: str, greys: list[int], lesions: list, tones: list) -> None:
        self.name, self.images = name, Images(greys)
        self.columns = {"lesion_id": lesions, "tone_group": tones, "group_id": [f"p{row // 2}" for row in range(8)]}

    def column(self, name: str) -> np.ndarray:
        return np.array(self.columns.get(name, [None] * 8), dtype=object)


class MeanColour(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def online_set(name: str, lesions: list, tones: Sequence = (None,) * 8) -> OnlineSet:
    """Rows 0-3 vote, rows 4-7 are scored; dark is class 0, bright class 1; a lesion's images are nearest in grey."""
    skin = Skin(name, [10, 60, 190, 240, 20, 22, 200, 204], lesions, list(tones))
    return OnlineSet(skin, "dx", ("a", "b"), np.arange(4), np.arange(4, 8), np.array([0, 0, 1, 1] * 2))


def score(*sets: OnlineSet) -> dict[str, float]:
    data = TrainingData([one.dataset for one in sets], [one.fit for one in sets], sets)

    def features(dataset, rows) -> np.ndarray:
        return online_features(MeanColour(), dataset, rows, preprocessing_at(8), "cpu")

    return score_encoder(features, data, OnlineOptions(k=2)).scores


PAIRS = [None, None, None, None, "l1", "l1", "l2", "l2"]
APART = [None, None, None, None, "l1", "l2", "l1", "l2"]


def test_one_set_without_repeated_lesions_is_scored_by_knn_alone():
    assert list(score(online_set("a", [None] * 8))) == [KNN, RANKME]


def test_groups_of_skin_types_are_scored_where_they_have_enough_patients(monkeypatch):
    tones = [None] * 4 + ["I-II", "I-II", "V-VI", "V-VI"]
    one = online_set("a", [None] * 8, tones)
    one.labels[[5, 7]] = 1, 0  # a bright label on a dark picture, and a dark one on a bright picture
    assert list(score(one)) == [KNN, RANKME]  # 15 patients are too many for this set
    monkeypatch.setattr("dermssl.training.watching.online.scored_tones", lambda online: scored_tones(online, least=1))
    found = score(one, online_set("b", [None] * 8))
    assert found["online_by_tone/a/I-II"] == found["online_by_tone/a/V-VI"] == 0.5
    assert not [name for name in headline(found) if "tone" in name]


def test_recall_asks_whether_the_nearest_other_image_is_of_the_same_lesion():
    assert score(online_set("a", PAIRS))[RECALL] == 1
    assert score(online_set("a", APART))[RECALL] == 0


def test_every_set_counts_alike_and_the_mix_decides():
    scores = score(online_set("a", PAIRS), online_set("b", APART))
    assert next(iter(scores)) == MIX
    assert scores[f"{RECALL}/a"] == 1 and scores[f"{RECALL}/b"] == 0 and scores[RECALL] == 0.5
    assert scores[KNN] == scores[f"{KNN}/a"] == 1 and scores[MIX] == pytest.approx(0.75)


def test_the_rank_is_computed_for_the_first_set_alone(monkeypatch):
    ranked = []
    monkeypatch.setattr("dermssl.training.watching.online.rankme", lambda features: ranked.append(1) or 2.0)
    assert score(online_set("one", APART), online_set("two", PAIRS))[RANKME] == 2.0 and len(ranked) == 1


def test_recall_at_1_leaves_out_rows_without_an_id():
    features = np.eye(4, dtype=np.float32) + 0.1
    queries, hits = neighbours.recall_at_1(features[[0, 0, 1, 2]], np.array(["x", "x", None, np.nan], dtype=object))
    assert queries.tolist() == [0, 1] and hits.all()


def test_a_score_that_falls_below_the_start_by_more_than_noise_is_told_with_what_to_change():
    first = {KNN: 0.5, f"{RECALL}/pad": 0.3, RANKME: 9.0}
    assert below_start({KNN: 0.6, f"{RECALL}/pad": 0.27, RANKME: 1.0}, first, images=200) == []
    (line,) = below_start({KNN: 0.6, f"{RECALL}/pad": 0.2, RANKME: 1.0}, first, images=200)
    assert line.startswith("online_recall_at_1/pad 0.200 is below 0.300 at the start") and "keep.distillation" in line
    assert below_start({KNN: 0.1}, None, images=200) == []


def test_both_labelled_sets_of_a_pool_are_watched(pretrain, dataset, tmp_path, caplog):
    other = prepare_pictures(tmp_path, "others", 40, seed=3)
    assert pretrain([dataset, other], tmp_path / "run", training__epochs="1") == 0
    for name in ("online_mix", "online_knn_balanced_accuracy/pictures", "online_knn_balanced_accuracy/others"):
        assert len(metrics(tmp_path / "run", name)) == 2
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text()
    assert "`label` of pictures" in card and "`label` of others" in card
