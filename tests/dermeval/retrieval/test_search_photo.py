"""A photo as the query: encoded by the recorded encoder, recognised where it is in the index already."""

import numpy as np
import pytest
from PIL import Image

from dermeval.retrieval.index import index
from dermeval.retrieval.index_folder import open_index
from dermeval.retrieval.options import IndexOptions, SearchOptions
from dermeval.retrieval.photo import crops, open_photo_encoder, photo_files, read_photo
from dermeval.retrieval.search import search
from dermssl.dataset import hashes
from dermssl.errors import InputError
from dermssl.files import read_json, write_json
from dermssl.neighbours import normalise
from dermssl.prepare import decode


def test_a_turned_photo_is_read_upright_and_shrunk(draw_skin, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_skin(0, 64).resize((64, 48)).save(tmp_path / "turned.jpg", exif=exif)
    photo = read_photo(tmp_path / "turned.jpg", short_side=24)
    assert photo.image.size == (24, 32)


@pytest.mark.parametrize(("brand", "told"), [(b"heic", "HEIC photo: install the extra heif"), (b"avif", "AVIF photo")])
def test_a_telephone_format_that_cannot_be_read_is_named_with_the_remedy(tmp_path, monkeypatch, brand, told):
    monkeypatch.setattr(decode, "FORMATS", ("JPEG", "PNG"))
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0" * 50)
    with pytest.raises(InputError, match=told):
        read_photo(tmp_path / "photo.heic", 96)


def test_a_photo_without_a_name_does_not_search_the_current_folder():
    with pytest.raises(InputError, match="empty name"):
        photo_files("")


@pytest.fixture
def photos(make_dataset, draw_skin, tmp_path):
    """A data set of 4 patients with two images each, embedded and indexed by a random ResNet-18 at 32 px."""
    embed = pytest.importorskip("dermeval.features.embed", reason="needs `dermeval embed`").embed
    options = pytest.importorskip("dermeval.features.options").EmbedOptions
    images = [draw_skin(number) for number in range(8)]
    folder = make_dataset("set", images, [f"p{number // 2}" for number in range(8)])
    embeddings = tmp_path / "embeddings"
    made = options(encoder="random:resnet18", data=[str(folder)], out=str(embeddings), image_size=32, workers=0)
    embed(made)
    index(IndexOptions(sources=[str(embeddings)], out=str(tmp_path / "index")))
    return tmp_path / "index", embeddings, images


def test_a_photo_gets_the_feature_that_embed_gave_it(photos, tmp_path):
    folder, embeddings, images = photos
    images[5].save(tmp_path / "photo.png")
    hits = search(SearchOptions(index=str(folder), photos=[str(tmp_path / "photo.png")], k=8, per_image=True)).data[
        "queries"
    ][0]["hits"]
    features = np.load(embeddings / "features.npy")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = {f"set/{i}": unit[5] @ unit[i] for i in (0, 1, 2, 3, 6, 7)}
    assert {hit["image_id"] for hit in hits} == set(expected)
    assert all(hit["similarity"] == pytest.approx(expected[hit["image_id"]], abs=2e-3) for hit in hits)


def test_a_photo_identical_to_an_indexed_image_says_so_and_leaves_its_patient_out(photos, tmp_path):
    folder, _, images = photos
    images[4].save(tmp_path / "photo.png")  # other file, same pixels
    report = search(SearchOptions(index=str(folder), photos=[str(tmp_path / "photo.png")]))
    assert "the photo is set/4 itself" in report.text
    assert {hit["image_id"] for hit in report.data["queries"][0]["hits"]}.isdisjoint({"set/4", "set/5"})
    assert hashes.pixel_hash(images[4]) == read_photo(tmp_path / "photo.png", 96).pixel_sha256


def test_a_photo_saved_anew_is_told_to_be_a_copy(photos, tmp_path):
    folder, _, images = photos
    images[4].transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "photo.jpg", quality=80)
    report = search(SearchOptions(index=str(folder), photos=[str(tmp_path / "photo.jpg")]))
    (note,) = [note for note in report.data["queries"][0]["notes"] if "may be the same photo" in note]
    assert note.endswith(": set/4")
    assert {hit["image_id"]: hit["group_id"] for hit in report.data["queries"][0]["hits"]}["set/4"] == "set/p2"


@pytest.mark.parametrize(
    "change", [{"path": "random:resnet18@7"}, {"preprocessing": {"input_size": [3, 32, 32], "mean": [0.5] * 3}}]
)
def test_an_encoder_that_changed_since_is_refused(photos, draw_skin, tmp_path, change):
    folder, _, _ = photos
    info = read_json(folder / "index.json", "")
    write_json(folder / "index.json", info | {"encoder": info["encoder"] | change})
    draw_skin(50).save(tmp_path / "new.png")
    with pytest.raises(InputError, match="no longer, the encoder that made the index"):
        search(SearchOptions(index=str(folder), photos=[str(tmp_path / "new.png")]))


def test_a_folder_of_photos_is_searched_with_one_encoder_and_bad_files_are_left_out(
    photos, tmp_path, caplog, monkeypatch
):
    from dermeval.retrieval import search as module

    loaded, real = [], module.open_photo_encoder
    monkeypatch.setattr(module, "open_photo_encoder", lambda *given: loaded.append(1) or real(*given))
    folder, _, images = photos
    (tmp_path / "queries").mkdir()
    for number in (1, 3):
        images[number].save(tmp_path / "queries" / f"{number}.png")
    (tmp_path / "queries" / "broken.jpg").write_bytes(b"no picture")
    report = search(SearchOptions(index=str(folder), photos=[str(tmp_path / "queries")]))
    assert [query["query"][-5:] for query in report.data["queries"]] == ["1.png", "3.png"]
    assert "broken.jpg" in caplog.text and len(loaded) == 1


def test_several_crops_rank_by_their_mean_similarity(photos, tmp_path):
    folder, embeddings, images = photos
    images[5].save(tmp_path / "photo.png")
    options = SearchOptions(index=str(folder), photos=[str(tmp_path / "photo.png")], k=8, per_image=True, crops=3)
    hits = search(options).data["queries"][0]["hits"]
    encode = open_photo_encoder(open_index(folder).encoder)
    seen = normalise(encode(list(crops(images[5], 3))))
    unit = normalise(np.load(embeddings / "features.npy"))
    mean = {f"set/{i}": (seen @ unit[i]).mean() for i in (0, 1, 2, 3, 6, 7)}
    assert [hit["image_id"] for hit in hits] == sorted(mean, key=lambda name: -mean[name])


def test_an_index_from_somebody_else_cannot_make_us_ask_a_model_hub(photos, tmp_path, monkeypatch):
    from dermssl.backbone import pretrained

    asked = []
    monkeypatch.setattr(pretrained, "_hub_answers", lambda: asked.append(1) or False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    recorded = open_index(photos[0]).encoder | {"path": "timm:resnet18"}
    with pytest.raises(InputError, match="the model hub was not asked"):
        open_photo_encoder(recorded)
    assert not asked
    with pytest.raises(InputError, match="does not answer"):
        open_photo_encoder(recorded, "timm:resnet18")
    assert asked
