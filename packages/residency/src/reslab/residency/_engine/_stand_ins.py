"""Weights without values: what stands in their place while a residency brings the values from files.

A parameter on meta cannot be given memory. So another parameter stands in its place in the module, absent until its
value is fetched, and leaving puts the one on meta back. A buffer is never absent: it is read from the files at once.

    stand_ins = StandIns(device)
    stand_ins.install(module, checkpoint)
    stand_ins.unknown                       # the parameters on meta, by the identity of those that stand in for them
    stand_ins.put_back()
"""

from __future__ import annotations

from typing import Any

import torch

from reslab.residency._engine import _absent
from reslab.residency._engine._checkpoint import Checkpoint, names


class StandIns:
    """Stands in for the parameters and buffers of one component that have no values.

    Args:
        device: Where it computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._replaced: list[tuple[dict[str, Any], str, torch.Tensor]] = []
        self._stands: dict[int, torch.Tensor] = {}
        #: The parameters on meta, by the identity of those that stand in for them.
        self.unknown: dict[int, torch.nn.Parameter] = {}

    def install(self, module: torch.nn.Module, checkpoint: Checkpoint) -> None:
        """Stand in for what is on meta; what stands in already is left."""
        own = names(module)
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor.is_meta:
                        self._replaced.append((tensors, name, tensor))
                        tensors[name] = self._stand(tensor, own[id(tensor)], checkpoint)

    def put_back(self) -> None:
        """Put the tensors on meta back, where something else has not taken their place."""
        while self._replaced:
            tensors, name, tensor = self._replaced[-1]
            if tensors.get(name) is self._stands.get(id(tensor)):
                tensors[name] = tensor
            self._replaced.pop()
        self._stands.clear()
        self.unknown.clear()

    def _stand(self, tensor: torch.Tensor, own: tuple[str, ...], checkpoint: Checkpoint) -> Any:
        """Return what stands in for a tensor, the same wherever that is."""
        if id(tensor) not in self._stands:
            if isinstance(tensor, torch.nn.Parameter):
                stand: torch.Tensor = self._parameter(tensor)
            else:
                key = checkpoint.key(own)
                assert key is not None, own
                stand = checkpoint.mapped(key).clone()
            self._stands[id(tensor)] = stand
        return self._stands[id(tensor)]

    def _parameter(self, tensor: torch.nn.Parameter) -> torch.nn.Parameter:
        with torch.inference_mode(False):
            stand = torch.nn.Parameter(_absent.empty(tensor.dtype, self._device), requires_grad=tensor.requires_grad)
        vars(stand).update(vars(tensor))
        self.unknown[id(stand)] = tensor
        return stand
