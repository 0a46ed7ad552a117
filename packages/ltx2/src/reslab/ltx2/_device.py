"""The device that notebooks and tests run on."""

from __future__ import annotations

import os

import torch


def default_device() -> torch.device:
    """Return the device to run on: `RESLAB_DEVICE` where it is set, else the accelerator if there is one, else the CPU.

    Examples of `RESLAB_DEVICE` are "cpu" and "cuda:1".

    Raises:
        ValueError: `RESLAB_DEVICE` names no device, or one that this machine does not have.
    """
    asked = os.environ.get("RESLAB_DEVICE")
    if not asked:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return existing_device(asked, f"RESLAB_DEVICE={asked!r}")


def existing_device(asked: torch.device | str, said: str) -> torch.device:
    """Return a device of this machine.

    Args:
        asked: The device, as torch names it.
        said: The setting that names the device, for the error.

    Raises:
        ValueError: `asked` is no device, or this machine does not have it.
    """
    try:
        device = torch.device(asked)
    except (RuntimeError, TypeError):
        raise ValueError(f"{said} is no device; set it to 'cpu' or, for example, 'cuda:0'") from None
    found = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if found is not None and found.type == device.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        there = f"{torch.accelerator.device_count()} of type {found.type!r}" if found is not None else "no accelerator"
        raise ValueError(f"{said}, but this machine has {there}; unset it")
    return device
