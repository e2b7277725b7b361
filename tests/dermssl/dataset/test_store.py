"""The image store: same pixels, no metadata, any row, any process."""

import hashlib
import io
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from dermssl.dataset import store
from dermssl.dataset.store import ImageStore, encode, shrink, strip_metadata, write_shard
from dermssl.errors import InputError

SECRET = b"lat 18.8792 lon 47.5079"


@pytest.fixture(scope="module")
def photo():
    grid = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((160, 120), Image.Resampling.BICUBIC)


def _jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def _pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def _exif():
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[29] = SECRET.decode()
    return exif


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
def test_stripping_takes_position_and_comments_and_leaves_every_pixel(photo, options):
    jpeg = _jpeg(photo, exif=_exif(), comment=SECRET, icc_profile=SECRET * 9, **options)
    assert SECRET in jpeg
    clean = strip_metadata(jpeg)
    assert SECRET not in clean
    assert not Image.open(io.BytesIO(clean)).getexif()
    assert np.array_equal(_pixels(clean), _pixels(jpeg))


def test_what_a_phone_appends_after_the_picture_is_cut_off(photo):
    jpeg = _jpeg(photo)
    video = b"ftypmp42" + SECRET + b"\xff\xd9" * 3
    clean = strip_metadata(jpeg + video)
    assert SECRET not in clean and clean == strip_metadata(jpeg)


def test_the_thumbnail_inside_the_jfif_header_goes(photo):
    jpeg = _jpeg(photo)
    assert jpeg[2:4] == b"\xff\xe0"
    length = int.from_bytes(jpeg[4:6], "big")
    thumbnail = (SECRET * 3)[: 3 * 4 * 5]
    header = jpeg[6:18] + bytes([4, 5]) + thumbnail
    with_thumbnail = b"\xff\xd8\xff\xe0" + (2 + len(header)).to_bytes(2, "big") + header + jpeg[4 + length :]
    clean = strip_metadata(with_thumbnail)
    assert SECRET[:20] not in clean and np.array_equal(_pixels(clean), _pixels(jpeg))


def test_the_adobe_marker_that_fixes_colours_stays(photo):
    jpeg = _jpeg(photo, keep_rgb=True)
    assert np.array_equal(_pixels(strip_metadata(jpeg)), _pixels(jpeg))
    assert np.abs(_pixels(jpeg).astype(int) - np.asarray(photo)).mean() < 8


def test_a_segment_under_adobes_number_that_is_not_adobes_goes(photo):
    jpeg = _jpeg(photo)
    foreign = b"\xff\xee" + (len(SECRET) + 2).to_bytes(2, "big") + SECRET
    assert strip_metadata(jpeg[:2] + foreign + jpeg[2:]) == strip_metadata(jpeg)


def test_garbage_between_segments_is_stepped_over(photo):
    jpeg = _jpeg(photo)
    messy = jpeg[:2] + b"\x00\x12" + jpeg[2:]
    assert np.array_equal(_pixels(strip_metadata(messy)), _pixels(jpeg))


def test_a_stripped_jpeg_is_whole(photo, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    Image.open(io.BytesIO(strip_metadata(_jpeg(photo)[:-2] + b"\xff\xd9"))).load()


def test_shrinking_sets_the_short_side_and_never_enlarges(photo):
    assert shrink(photo, 60).size == (80, 60)
    assert shrink(photo.rotate(90, expand=True), 60).size == (60, 80)
    assert shrink(photo, 120) is photo and shrink(photo, 500) is photo
    assert shrink(Image.new("RGB", (5000, 2)), 1).size == (2500, 1)


def test_encoding_is_close_to_the_pixels_and_carries_no_metadata(photo):
    again = Image.open(io.BytesIO(encode(photo)))
    assert np.abs(np.asarray(again).astype(int) - np.asarray(photo)).mean() < 2
    assert not again.getexif() and "comment" not in again.info


def test_a_comment_in_the_file_does_not_reach_the_stored_image(photo):
    original = Image.open(io.BytesIO(_jpeg(photo, comment=SECRET, exif=_exif(), icc_profile=SECRET)))
    original.load()
    assert SECRET not in encode(original) and SECRET not in encode(shrink(original, 60))


def test_pillow_is_told_to_write_no_comment_and_no_xmp_of_the_file(photo, monkeypatch):
    told = {}
    monkeypatch.setattr(Image.Image, "save", lambda *_, **options: told.update(options))
    encode(photo)
    assert told["comment"] == told["xmp"] == b"", "Pillow 11.0 copies XMP, which may hold a position, unless told so"


@pytest.fixture
def stored(tmp_path):
    jpegs = [store.START_OF_IMAGE + f"row {number}".encode() * 50 for number in range(200)]
    write_shard(tmp_path / store.shard_name(0), jpegs[:130])
    write_shard(tmp_path / store.shard_name(1), [])
    write_shard(tmp_path / store.shard_name(2), jpegs[130:])
    return ImageStore(tmp_path), jpegs


def test_every_row_of_every_shard_comes_back(stored):
    images, jpegs = stored
    assert len(images) == 200
    assert [bytes(images.jpeg(row)) for row in range(200)] == jpegs


def test_a_copy_in_another_process_reads_the_same_rows(stored):
    images, jpegs = stored
    payload = pickle.dumps(images)
    assert len(payload) < 1000, "worker processes get the folder's name, not the images"
    assert bytes(pickle.loads(payload).jpeg(131)) == jpegs[131]


def test_a_copy_in_another_process_reads_no_images_that_were_written_since(stored):
    images, jpegs = stored
    sent, used = pickle.dumps(images), pickle.loads(pickle.dumps(images))
    assert bytes(used.jpeg(0)) == jpegs[0]
    write_shard(images.folder / store.shard_name(0), jpegs[:130][::-1])
    assert bytes(used.jpeg(1)) == jpegs[1], "what was opened before stays as it was"
    with pytest.raises(InputError, match="were replaced meanwhile: give this command again"):
        pickle.loads(sent).jpeg(0)


def test_stored_images_decode_to_rgb(tmp_path, photo):
    write_shard(tmp_path / store.shard_name(0), [encode(photo)])
    image = ImageStore(tmp_path).image(0)
    assert image.mode == "RGB" and image.size == (160, 120)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "EPS", "PPM"])
def test_nothing_but_jpeg_is_ever_decoded(tmp_path, photo, kind):
    buffer = io.BytesIO()
    photo.save(buffer, kind)
    write_shard(tmp_path / store.shard_name(0), [buffer.getvalue()])
    with pytest.raises(InputError, match="image 0 of the store is no JPEG"):
        ImageStore(tmp_path).image(0)


def test_a_stored_image_that_is_damaged_is_named(tmp_path, photo):
    write_shard(tmp_path / store.shard_name(0), [encode(photo)[:800]])
    with pytest.raises(InputError, match="image 0 of the store is damaged"):
        ImageStore(tmp_path).image(0)
    pq.write_table(pa.table({"image_id": ["set/a"]}), tmp_path / "manifest.parquet")
    with pytest.raises(InputError, match=f"{tmp_path}: the stored image set/a is damaged"):
        ImageStore(tmp_path).image(0)


def test_a_stored_image_whose_bytes_were_changed_is_named(tmp_path, photo):
    shard, jpeg = tmp_path / store.shard_name(0), encode(photo)
    write_shard(shard, [jpeg])
    changed = jpeg[:-40] + bytes([jpeg[-40] ^ 4]) + jpeg[-39:]
    shard.write_bytes(shard.read_bytes().replace(jpeg, changed))
    Image.open(io.BytesIO(changed)).load()  # decoding does not notice it
    with pytest.raises(InputError, match="image 0 of the store was changed after it was written: run `dermssl prep"):
        ImageStore(tmp_path).image(0)


def _without_checks(shard):
    """Rewrite a shard as older versions wrote it."""
    table = pa.ipc.open_file(shard.read_bytes()).read_all().select(["jpeg"])
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def test_shards_of_older_versions_are_read_and_have_their_row_hash(stored):
    images, jpegs = stored
    ids = pa.chunked_array([[f"set/{row}" for row in range(200)]])
    for number in (0, 1, 2):
        _without_checks(images.folder / store.shard_name(number))
    old = ImageStore(images.folder)
    sizes = np.array([*map(len, jpegs)], "<i8").tobytes()
    assert [bytes(old.jpeg(row)) for row in range(200)] == jpegs
    assert old.row_hash(ids) == hashlib.sha256(sizes + "\n".join(ids.to_pylist()).encode()).hexdigest()


def test_two_images_of_equal_size_that_changed_places_change_the_row_hash(stored):
    images, jpegs = stored
    ids = pa.chunked_array([[f"set/{row}" for row in range(200)]])
    assert len(jpegs[10]) == len(jpegs[11])
    jpegs[10], jpegs[11] = jpegs[11], jpegs[10]
    write_shard(images.folder / store.shard_name(0), jpegs[:130])
    assert ImageStore(images.folder).row_hash(ids) != images.row_hash(ids)


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(tmp_path, photo):
    (tmp_path / "theirs").mkdir()
    write_shard(tmp_path / "mine.arrow", [encode(photo)])
    (tmp_path / "theirs" / store.shard_name(0)).symlink_to(tmp_path / "mine.arrow")
    with pytest.raises(InputError, match="link out of its folder"):
        ImageStore(tmp_path / "theirs")


def test_a_shard_of_other_columns_is_damaged(tmp_path):
    table = pa.table({"text": ["a"]})
    with pa.OSFile(str(tmp_path / store.shard_name(0)), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match=r"images-0000\d.arrow is damaged"):
        ImageStore(tmp_path)


def test_a_damaged_shard_is_named(stored):
    images, _ = stored
    shard = images.folder / store.shard_name(2)
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"images-0000\d.arrow is damaged"):
        ImageStore(images.folder)
