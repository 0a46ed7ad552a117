"""All code that only an accelerator runs: streams, pinned memory, and the device's free memory.

The code uses torch's device-generic interface, except to pin existing memory, which torch offers for CUDA alone; other
accelerators copy from pageable memory.

    lane = StreamLane(torch.device("cuda", 0))
    unpin = pin(host_bytes)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from reslab.residency._engine._lanes import Copy, Ticket
from reslab.stages import Kind


def current() -> torch.device:
    """Return the accelerator in use, or the CPU where there is none."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return torch.device(kind.type, torch.accelerator.current_device_index())


def free_bytes(device: torch.device) -> int | None:
    """Return the free bytes of the device's memory, torch's cache included; None where torch does not report them."""
    module: Any = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return None
    cached = module.memory_reserved(device) - module.memory_allocated(device)
    return int(module.mem_get_info(device)[0] + cached)


def pinner(device: torch.device) -> Callable[[torch.Tensor], Callable[[], None]] | None:
    """Return the function that pins host memory for a device; None where existing memory cannot be pinned."""
    return pin if device.type == "cuda" else None


def pin(memory: torch.Tensor) -> Callable[[], None]:
    """Pin memory, uint8 (nbytes,), and return the function that unpins it.

    Raises:
        RuntimeError: If the system refuses, as it does beyond its limit.
    """
    runtime: Any = torch.cuda.cudart()
    if memory.nbytes == 0:
        return lambda: None
    torch.cuda.check_error(int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)))

    def unpin() -> None:
        torch.cuda.synchronize()  # a copy from it may be under way, and only the computing stream waits for that
        torch.cuda.check_error(int(runtime.cudaHostUnregister(memory.data_ptr())))

    return unpin


def blocking_copy(device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return a function that copies bytes to a device on a stream of its own, and returns when that is done."""
    stream = torch.Stream(device)

    def copy(target: torch.Tensor, source: torch.Tensor) -> None:
        with stream:
            target[: source.nbytes].copy_(source, non_blocking=True)
        stream.synchronize()

    return copy


class _StreamTicket:
    """A copy in a stream: the computing stream waits for it, the host does not."""

    def __init__(self, device: torch.device, made: torch.Event) -> None:
        self._device, self._made = device, made

    def done(self) -> bool:
        return self._made.query()

    def wait(self) -> None:
        torch.accelerator.current_stream(self._device).wait_event(self._made)

    def is_lost(self) -> bool:
        return False

    def abandon(self) -> None:
        self.wait()  # memory is reused in the order of that stream

    def settle(self) -> None:
        self.wait()


class StreamLane:
    """A lane that is a stream; a copy begins after all compute issued before it, which may still use the target."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.Stream(device)

    def issue(self, copy: Copy) -> Ticket:
        """Put a copy into the stream, with the observers' events, so that a profiler times this lane."""
        self._stream.wait_stream(torch.accelerator.current_stream(self._device))
        with self._stream:
            copy.tell.begin(Kind.TRANSFER, copy.name, nbytes=copy.nbytes)
            for target, source in copy.parts:
                staged = source.staged()
                target[: staged.nbytes].copy_(staged, non_blocking=True)
            copy.tell.end()
            return _StreamTicket(self._device, self._stream.record_event())

    def drain(self) -> None:
        """Wait for all copies."""
        self._stream.synchronize()

    def close(self) -> None:
        """Wait for all copies."""
        self.drain()


class ModuleBuffers:
    """Moves the buffers of modules to the device: they are small, and never absent.

    Args:
        device: The device that computes; on a CPU there is nothing to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moved: list[tuple[torch.Tensor, torch.device]] = []

    def bring(self, module: torch.nn.Module) -> None:
        """Move the buffers of a module to the device."""
        for buffer in module.buffers():
            if buffer.device.type != self._device.type:
                self._moved.append((buffer, buffer.device))
                buffer.data = buffer.data.to(self._device)

    def restore(self) -> None:
        """Move the buffers back to where they were, with their present values."""
        while self._moved:
            buffer, device = self._moved[-1]
            buffer.data = buffer.data.to(device)
            self._moved.pop()
