"""Whether a checkpoint's bytes are still those that were written."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

_PIECE = 1 << 20


def damaged_record(path: Path) -> str | None:
    """What is wrong with a zip file, above all a record whose CRC-32 does not agree; None if all is well.

    `torch.load` does not compare them: one flipped bit in a weight would go unnoticed. Files in torch's old format have
    no checksums, nor have those written with ``compute_crc32=False`` (all are 0 there): of these nothing can be said.
    Raises OSError.
    """
    try:
        with zipfile.ZipFile(path) as file:
            records = [each for each in file.infolist() if each.file_size]
            if not any(each.CRC for each in records):
                return None
            for each in records:
                with file.open(each) as record:  # which compares the checksum at the end
                    while record.read(_PIECE):
                        pass
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return str(error) if zipfile.is_zipfile(path) else None
    return None
