"""The bounds of one stage of a plan on a device: compute, copies and memory, and the times that follow."""

from __future__ import annotations

from dataclasses import dataclass

from reslab.residency._device._spec import DeviceError


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBounds:
    """The bounds of one stage: times in nanoseconds, sizes in bytes.

    Attributes:
        stage: The stage's profile name.
        registered_name: The stage's registered name.
        calls: The number of component calls.
        compute_ns: Time of the calls and of the work between them, by roofline.
        host_ns: Time in which the host issues the operations.
        memory_ns: The part of the device's time that is bound by memory traffic.
        copy_ns: Time of copies to the device.
        back_ns: Time of copies from the device.
        moved_bytes: Bytes copied to the device.
        copied_back_bytes: Bytes copied from the device.
        weight_bytes: The most bytes of weights on the device, slots included.
        activation_bytes: The most bytes alive besides weights.
        unknown: A sentence that says why there are no times, if the device's rates are not known; compute_ns, host_ns
            and memory_ns are then None, and the times that follow from them raise `DeviceError`.
    """

    stage: str
    registered_name: str
    calls: int
    compute_ns: int | None
    host_ns: int | None
    memory_ns: int | None
    copy_ns: int
    back_ns: int
    moved_bytes: int
    copied_back_bytes: int
    weight_bytes: int
    activation_bytes: int
    unknown: str = ""

    def _known(self, ns: int | None) -> int:
        if ns is None:
            raise DeviceError(self.unknown)
        return ns

    @property
    def computing_ns(self) -> int:
        """Return compute_ns; raise `DeviceError` if the device's rates are not known."""
        return self._known(self.compute_ns)

    @property
    def floor_ns(self) -> int:
        """Return the least time of the stage: all copying hides behind compute."""
        return max(self.computing_ns, self.copy_ns, self.back_ns)

    @property
    def ceiling_ns(self) -> int:
        """Return the time of the stage if nothing overlaps."""
        return self.computing_ns + self.copy_ns + self.back_ns

    @property
    def peak_bytes(self) -> int:
        """Return the most bytes on the device."""
        return self.weight_bytes + self.activation_bytes

    @property
    def limited_by(self) -> str:
        """Return the limit of the floor: "copy", "host", "memory", "compute", or "nothing" for a stage without work."""
        if not self.ceiling_ns:
            return "nothing"
        if max(self.copy_ns, self.back_ns) > self.computing_ns:
            return "copy"
        if self._known(self.host_ns) >= self.computing_ns:
            return "host"
        return "memory" if self._known(self.memory_ns) * 2 > self.computing_ns else "compute"
