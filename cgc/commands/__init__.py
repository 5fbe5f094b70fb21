"""The commands: one parser and one ``main(argv=None) -> int`` each."""

import os

# Large tensors in huge pages (Linux): without them new tensors on the CPU cost mostly page faults, see
# docs/performance.md. torch reads this once, when it is imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from cgc.commands.pairing import require_torchvision

require_torchvision()
