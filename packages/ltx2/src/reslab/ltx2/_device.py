"""The one place where notebooks and tests take their device from."""

from __future__ import annotations

import os

import torch


def default_device() -> torch.device:
    """Return the device to run on: `RESLAB_DEVICE` where it is set, else the accelerator if there is one, else the CPU.

    Examples of `RESLAB_DEVICE` are "cpu" and "cuda:1".

    Raises:
        ValueError: `RESLAB_DEVICE` is no device, or one that this machine does not have.
    """
    asked = os.environ.get("RESLAB_DEVICE")
    found = torch.accelerator.current_accelerator(check_available=True)
    if not asked:
        return found or torch.device("cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise ValueError(f"RESLAB_DEVICE={asked!r} is no device; set it to 'cpu' or, for example, 'cuda:0'") from None
    count = torch.accelerator.device_count() if found is not None and found.type == device.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        there = f"{torch.accelerator.device_count()} of type {found.type!r}" if found is not None else "no accelerator"
        raise ValueError(f"RESLAB_DEVICE={asked!r}, but this machine has {there}; unset it")
    return device
