"""The commands: one parser and one ``main(argv=None) -> int`` each."""

import os

# Large tensors in huge pages: without them a training step on the CPU spends up to a third of its time in page faults
# (Linux). torch reads this once, when it is imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from cgc.commands.pairing import require_torchvision

require_torchvision()
