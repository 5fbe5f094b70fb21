"""Whether a checkpoint's bytes are still those that were written."""

from __future__ import annotations

import zipfile
from pathlib import Path

_PIECE = 1 << 20
_MOST_INFLATED = 20  # torch does not compress at all


def damaged_record(path: Path) -> str | None:
    """What is wrong with a zip file, above all a record whose CRC-32 does not agree; None if all is well.

    `torch.load` does not compare them: one flipped bit in a weight would go unnoticed. Files in torch's old format have
    no checksums, nor have those written with ``compute_crc32=False`` (all are 0 there): of these nothing can be said.
    Raises OSError.
    """
    try:
        with zipfile.ZipFile(path) as file:
            records = [each for each in file.infolist() if each.file_size]
            size = path.stat().st_size
            if sum(each.file_size for each in records) > _MOST_INFLATED * size:
                return f"its {size:,} bytes say to hold more than {_MOST_INFLATED} times as many"
            if not any(each.CRC for each in records):
                return None
            for each in records:
                with file.open(each) as record:  # which compares the checksum at the end
                    while record.read(_PIECE):
                        pass
    except OSError:
        raise
    except Exception as error:  # BadZipFile, zlib.error, UnicodeDecodeError, struct.error, …
        return " ".join(str(error).split()) if _claims_to_be_zip(path) else None
    return None


def _claims_to_be_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True
