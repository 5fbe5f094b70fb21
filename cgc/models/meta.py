"""Networks without memory: their names and shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class OnMeta(TorchFunctionMode):
    """Within it, what layers allocate lies on the meta device, so that the largest network costs milliseconds.

    ``torch.device("meta")`` would take the small numbers too that constructors compute with (RegNet's widths).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
