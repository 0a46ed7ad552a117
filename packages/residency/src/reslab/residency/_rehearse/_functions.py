"""What has to be seen above torch's operations: attention as one, and the ways out of torch.

`scaled_dot_product_attention` is taken apart before operations are told; here it stays one fused operation. A phantom
that leaves for NumPy becomes zeros that take no memory: what is done with them afterwards is no work of the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from reslab.residency._rehearse._errors import raise_unknown
from reslab.residency._rehearse._phantom import META, Phantoms

_ATTENTION = torch.nn.functional.scaled_dot_product_attention
_FROM_VALUES = (torch.tensor, torch.as_tensor)
_TO_NUMPY = (torch.Tensor.numpy, torch.Tensor.__array__)
_SEEN = frozenset((_ATTENTION, torch.Tensor.tolist, *_FROM_VALUES, *_TO_NUMPY))


class Functions(TorchFunctionMode):
    """Sees the calls of torch's functions while a rehearsal runs."""

    def __init__(self, phantoms: Phantoms) -> None:
        super().__init__()
        self.phantoms = phantoms

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _SEEN:
            return func(*args, **kwargs)
        if func is _ATTENTION:
            return self.phantoms.attention(*args, **kwargs)
        if func in _FROM_VALUES and str(kwargs.get("device", "")).startswith(META.type):
            kwargs = {**kwargs, "device": "cpu"}  # torch would drop the values before any operation is told
        elif func is torch.Tensor.tolist and self.phantoms.is_phantom(args[0]):
            raise_unknown("tolist")
        elif func in _TO_NUMPY and self.phantoms.is_phantom(args[0]):
            return zeros(args[0])
        return func(*args, **kwargs)


def zeros(tensor: torch.Tensor) -> np.ndarray:
    """Zeros of a tensor's shape that take the memory of one."""
    return np.broadcast_to(torch.zeros((), dtype=tensor.dtype).numpy(), tuple(tensor.shape))
