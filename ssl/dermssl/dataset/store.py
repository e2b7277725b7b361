"""The image store: upright JPEGs in memory-mapped Arrow shards ``images-00000.arrow`` ..., in manifest order.

Beside each JPEG stands its CRC-32, which is compared whenever the JPEG is read. Shards of older versions have none.
"""

import hashlib
import io
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from dermssl.atomic import atomic_file
from dermssl.errors import DamagedImage, InputError, shortened
from dermssl.files import reading
from dermssl.paths import inside

ROWS_PER_BATCH = 64
JPEG_QUALITY = 95
START_OF_IMAGE = b"\xff\xd8\xff"
"""The first bytes of every JPEG."""


def shrink(image: Image.Image, short_side: int, extent: tuple[float, float] | None = None) -> Image.Image:
    """Shrink to a short side of ``short_side`` pixels (antialiased bicubic); smaller images stay as they are.

    ``extent`` is the width and height of the content from the upper left, None if it fills ``image``.
    """
    width, height = extent or image.size
    scale = short_side / min(width, height)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, box=(0, 0, width, height), reducing_gap=3.0)


def encode(image: Image.Image) -> bytes:
    """JPEG quality 95 without chroma subsampling and without metadata."""
    buffer = io.BytesIO()
    # Without these two, Pillow would copy the comment of the original file, and Pillow 11.0 its XMP too.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=b"", xmp=b"")
    return buffer.getvalue()


def strip_metadata(jpeg: bytes) -> bytes:
    """The same compressed JPEG without EXIF, GPS, thumbnails, comments, profiles, or anything after its end.

    Only segments that decoding needs stay: tables, frames, scans, APP14 (Adobe: colour transform) and APP0 (JFIF)
    without its thumbnail. Phones append videos and second images after the end of the JPEG.
    """
    kept, position = [jpeg[:2]], 2
    while found := _MARKER.search(jpeg, position):
        position, marker = found.start(), jpeg[found.end() - 1]
        if marker == _END:
            break
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker == _SCAN:
            # A scan runs to the next marker that is neither a stuffed byte (FF 00) nor a restart (FF D0-D7).
            following = _MARKER.search(jpeg, end)
            end = following.start() if following else len(jpeg)
        segment, position = jpeg[position:end], end
        if marker == _JFIF:
            is_jfif = segment[4:9] == b"JFIF\0" and len(segment) >= 18
            segment = b"\xff\xe0\x00\x10" + segment[4:16] + b"\0\0" if is_jfif else b""
        is_adobe = marker == _ADOBE and segment[4:9] == b"Adobe"
        private = marker == _COMMENT or (0xE1 <= marker <= 0xEF and not is_adobe)
        kept.append(b"" if private else segment)
    return b"".join([*kept, b"\xff\xd9"])


_SCAN, _END, _JFIF, _ADOBE, _COMMENT = 0xDA, 0xD9, 0xE0, 0xEE, 0xFE
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def shard_name(number: int) -> str:
    """File name of one shard."""
    return f"images-{number:05d}.arrow"


def _version(folder: Path) -> str:
    """A hash of the names, sizes and times of change of the shards in ``folder``."""
    states = [(path.name, path.lstat()) for path in sorted(folder.glob("images-*.arrow"))]
    return hashlib.sha256(repr([(name, of.st_size, of.st_mtime_ns) for name, of in states]).encode()).hexdigest()[:16]


def write_shard(path: Path, jpegs: Sequence[bytes]) -> None:
    """Write one shard atomically, in small record batches, so that reading a row reads few others."""
    schema = pa.schema([pa.field("jpeg", pa.large_binary(), nullable=False), ("crc32", pa.int64())])
    with atomic_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, len(jpegs), ROWS_PER_BATCH):
                part = jpegs[start : start + ROWS_PER_BATCH]
                columns = [pa.array(part, pa.large_binary()), pa.array(map(zlib.crc32, part), pa.int64())]
                writer.write_batch(pa.record_batch(columns, schema=schema))


class ImageStore:
    """Random access to the stored images of one dataset folder; cheap to send to worker processes.

    ``version`` stands for the shards as they were found. A process that opens them later, when it reads the first
    image, raises InputError if they were replaced meanwhile: its rows would be those of other images.
    """

    def __init__(self, folder: Path, version: str | None = None) -> None:
        self.folder, self.version = folder, version or _version(folder)
        if version is None:
            _ = self._columns  # so that a damaged shard is refused at once

    @cached_property
    def _columns(self) -> tuple[pa.ChunkedArray, np.ndarray]:
        """The JPEGs ``(N,)`` and their CRC-32 ``(N,)`` of int64, -1 where none is known."""
        chunks: list[pa.Array] = []
        checks = [np.empty(0, np.int64)]
        for path in sorted(self.folder.glob("images-*.arrow")):
            with reading(inside(self.folder, path.name), "dermssl prepare"):
                table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
                chunks += table["jpeg"].cast(pa.large_binary()).chunks
                known = "crc32" in table.column_names
                checks.append(table["crc32"].to_numpy() if known else np.full(table.num_rows, -1))
        if _version(self.folder) != self.version:
            raise InputError(f"the images of {self.folder} were replaced meanwhile: give this command again")
        return pa.chunked_array(chunks, pa.large_binary()), np.concatenate(checks)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __reduce__(self) -> tuple[type["ImageStore"], tuple[Path, str]]:
        return ImageStore, (self.folder, self.version)

    def row_hash(self, image_ids: pa.ChunkedArray) -> str:
        """A hash of the ``image_ids`` and of the sizes and recorded CRC-32 of the JPEGs, in their order.

        Another order changes it, unless only JPEGs of equal size and without a CRC-32 changed places.
        """
        jpegs, checks = self._columns
        sizes = pc.binary_length(jpegs).to_numpy().astype("<i8").tobytes()
        recorded = checks.astype("<i8").tobytes() if (checks >= 0).any() else b""
        return hashlib.sha256(sizes + recorded + "\n".join(image_ids.to_pylist()).encode()).hexdigest()

    def jpeg(self, row: int) -> memoryview:
        """The compressed bytes of one image, not copied. Raises DamagedImage if they are no JPEG or were changed."""
        jpegs, checks = self._columns
        found = memoryview(jpegs[int(row)].as_buffer())
        if bytes(found[:3]) != START_OF_IMAGE:
            raise self.unusable(row, "is no JPEG")
        if checks[row] not in (-1, zlib.crc32(found)):
            raise self.unusable(row, "was changed after it was written")
        return found

    def image(self, row: int) -> Image.Image:
        """One stored image, decoded to RGB."""
        try:
            image = Image.open(io.BytesIO(self.jpeg(row)), formats=["JPEG"])
            image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise self.unusable(row, f"is damaged ({shortened(error)})") from None
        return image

    def unusable(self, row: int, why: str) -> DamagedImage:
        """The error about a stored image that cannot be decoded, by its id, or by its row if that is lost."""
        named = f"image {row} of the store"
        with suppress(OSError, LookupError, pa.ArrowException):
            ids = pq.read_table(self.folder / "manifest.parquet", columns=["image_id"])["image_id"]
            named = f"the stored image {ids[int(row)]}"
        return DamagedImage(f"{self.folder}: {named} {why}: run `dermssl prepare` again")
