"""Weights in aligned memory, so that a weight's address never changes a result.

Vectorised kernels take other paths for unaligned addresses and round differently there: the same weights at another
address gave other float32 results. Files that are mapped into memory start at any address. So weights are copied once,
when they are loaded, to multiples of 64 bytes on the CPU and 256 on an accelerator, and every later move keeps that.

    align(transformer)                # each parameter and buffer in memory of its own, same Parameter objects
    is_aligned(transformer)           # True
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import torch

CPU_BOUNDARY = 64
DEVICE_BOUNDARY = 256
#: From this size on, a weight on the CPU has pages of its own, which return to the system when the weight is freed.
#: A heap keeps freed memory between other allocations, so weights that a residency moves would stay in memory twice.
_OWN_PAGES = 2**18
#: Private memory of this process; Windows has no such flag and maps memory privately.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def boundary(device: torch.device | str) -> int:
    """Return the alignment of weights on a device, in bytes.

    >>> boundary("cpu"), boundary("cuda")
    (64, 256)
    """
    return CPU_BOUNDARY if torch.device(device).type == "cpu" else DEVICE_BOUNDARY


def aligned_empty(like: torch.Tensor, *, device: torch.device | str, boundary: int) -> torch.Tensor:
    """Return an uninitialised tensor with the shape and dtype of `like` at an address dividing by `boundary`.

    >>> aligned_empty(torch.zeros(3, dtype=torch.float16), device="cpu", boundary=64).data_ptr() % 64
    0
    """
    if torch.device(device).type == "cpu" and like.nbytes >= _OWN_PAGES and boundary <= mmap.PAGESIZE:
        memory = mmap.mmap(-1, like.nbytes, **_PRIVATE)
        return torch.frombuffer(memory, dtype=like.dtype).view(like.shape)
    fresh = torch.empty(like.shape, dtype=like.dtype, device=device)
    if fresh.data_ptr() % boundary == 0:  # torch's own allocators do: 64 bytes on the CPU, 512 on CUDA
        return fresh
    storage = torch.empty(like.nbytes + boundary, dtype=torch.uint8, device=device)
    offset = -storage.data_ptr() % boundary
    return storage[offset : offset + like.nbytes].view(like.dtype).view(like.shape)


def aligned_copy(
    tensor: torch.Tensor, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Copy a tensor into aligned memory of its own, converted to `dtype` and placed on `device` where these are given.

    >>> aligned_copy(torch.ones(2), dtype=torch.bfloat16)
    tensor([1., 1.], dtype=torch.bfloat16)
    """
    place = tensor.device if device is None else torch.device(device)
    like = torch.empty_like(tensor, dtype=dtype or tensor.dtype, device="meta")
    return aligned_empty(like, device=place, boundary=boundary(place)).copy_(tensor)


def tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Yield every parameter and buffer once, shared ones too."""
    yield from module.parameters()
    yield from module.buffers()


def is_aligned(module: torch.nn.Module) -> bool:
    """Tell whether every parameter and buffer has the alignment of its device."""
    return all(tensor.data_ptr() % boundary(tensor.device) == 0 for tensor in tensors(module))


@torch.no_grad()
def align(
    module: torch.nn.Module, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> torch.nn.Module:
    """Copy every parameter and buffer once into aligned memory of `device` and return the module.

    Parameter objects and sharing are kept: tied weights stay tied. One tensor is copied at a time, so memory peaks at
    the weights and the largest tensor. `dtype` converts the floating-point weights that a checkpoint stores; tables
    that a module computes itself keep their precision.
    """
    stored = {tensor.data_ptr() for tensor in module.state_dict().values()}
    for tensor in tensors(module):
        converted = tensor.is_floating_point() and tensor.data_ptr() in stored
        tensor.data = aligned_copy(tensor, device=device, dtype=dtype if converted else None)
    return module
