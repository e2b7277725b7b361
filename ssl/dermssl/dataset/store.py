"""The decode-once image store: small upright JPEGs in memory-mapped Arrow shards, any row in microseconds.

``images-00000.arrow`` ... hold one column ``jpeg`` in manifest order. Workers map the same pages, so memory does
not grow with the number of workers.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from dermssl.atomic import atomic_file
from dermssl.errors import InputError
from dermssl.paths import inside, require_file

ROWS_PER_BATCH = 64
JPEG_QUALITY = 95
START_OF_IMAGE = b"\xff\xd8\xff"
"""The first bytes of every JPEG."""


def shrink(image: Image.Image, short_side: int, extent: tuple[float, float] | None = None) -> Image.Image:
    """Resize so that the short side is at most ``short_side`` pixels (antialiased bicubic); never enlarges.

    ``extent`` is the width and height that the picture fills from the upper left, where that is not all of ``image``.
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
    # Pillow would carry the comment of the file that the image came from into the new one.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=b"")
    return buffer.getvalue()


def strip_metadata(jpeg: bytes) -> bytes:
    """The same compressed JPEG without EXIF, GPS, thumbnails, comments, profiles, or anything after its end.

    Only what decoding needs stays: tables, frames, scans, APP14 (Adobe: colour transform) and APP0 (JFIF) without
    its thumbnail. Phones append whole videos and second pictures after the end of the image; those go too.
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
        private = marker == _COMMENT or (0xE1 <= marker <= 0xEF and marker != _ADOBE)
        kept.append(b"" if private else segment)
    return b"".join([*kept, b"\xff\xd9"])


_SCAN, _END, _JFIF, _ADOBE, _COMMENT = 0xDA, 0xD9, 0xE0, 0xEE, 0xFE
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def shard_name(number: int) -> str:
    """File name of one shard."""
    return f"images-{number:05d}.arrow"


def write_shard(path: Path, jpegs: Sequence[bytes]) -> None:
    """Write one shard atomically, in small record batches so that a row can be found without reading others."""
    schema = pa.schema([pa.field("jpeg", pa.large_binary(), nullable=False)])
    with atomic_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, len(jpegs), ROWS_PER_BATCH):
                column = pa.array(jpegs[start : start + ROWS_PER_BATCH], type=pa.large_binary())
                writer.write_batch(pa.record_batch([column], schema=schema))


class ImageStore:
    """Random access to the stored images of one dataset folder; cheap to send to worker processes.

    All of them are JPEGs. Nothing else that a folder from somebody else may hold is given to a decoder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shards = [inside(self.folder, path.name) for path in sorted(self.folder.glob("images-*.arrow"))]
        for shard in shards:
            require_file(shard, "dermssl prepare")  # a pipe would be waited for without end
        try:
            tables = [pa.ipc.open_file(pa.memory_map(str(shard))).read_all() for shard in shards]
            columns = [table["jpeg"].cast(pa.large_binary()) for table in tables]
        except (pa.ArrowException, OSError, KeyError) as error:
            again = "run `dermssl prepare` again"
            raise InputError(f"{self.folder}: an image shard is damaged ({error}): {again}") from None
        self._chunks = [chunk for column in columns for chunk in column.chunks]
        self._starts = np.cumsum([0, *map(len, self._chunks)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple[type["ImageStore"], tuple[Path]]:
        return ImageStore, (self.folder,)

    def jpeg(self, row: int) -> memoryview:
        """Compressed bytes of one image, without a copy."""
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        found = memoryview(self._chunks[chunk][int(row - self._starts[chunk])].as_buffer())
        if bytes(found[:3]) != START_OF_IMAGE:
            raise InputError(f"{self.folder}: image {row} of the store is no JPEG: run `dermssl prepare` again")
        return found

    def image(self, row: int) -> Image.Image:
        """One stored image, decoded: RGB."""
        try:
            image = Image.open(io.BytesIO(self.jpeg(row)), formats=["JPEG"])
            image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            what = f"image {row} of the store is damaged ({error})"
            raise InputError(f"{self.folder}: {what}: run `dermssl prepare` again") from None
        return image
