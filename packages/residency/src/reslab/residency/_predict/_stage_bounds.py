"""One stage of a plan on a device: what it computes, copies and holds, and what follows for its time."""

from __future__ import annotations

from dataclasses import dataclass

from reslab.residency._device._spec import DeviceError


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBounds:
    """One stage: times in nanoseconds, sizes in bytes.

    Attributes:
        stage: Its profile name.
        registered_name: Its registered name.
        calls: Component calls in it.
        compute_ns: Of its calls and what runs between them, by roofline.
        host_ns: What issuing its operations costs the host; a part of compute where it is longer than the device's.
        memory_ns: The part of the device's time that is bound by memory traffic.
        copy_ns: Copies to the device, or from it where those take longer.
        back_ns: Copies from the device.
        moved_bytes: To the device.
        copied_back_bytes: From the device.
        weight_bytes: On the device, slots included, at most.
        activation_bytes: Alive besides weights, at most.
        unknown: Why there are no times, where the device's rates are not known: compute_ns, host_ns and memory_ns are
            then None, and asking for what follows from them is a `DeviceError`.
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
        """Return compute_ns; a DeviceError where the device's rates are not known."""
        return self._known(self.compute_ns)

    @property
    def floor_ns(self) -> int:
        """Return what the stage takes at least: all copying hides behind compute."""
        return max(self.computing_ns, self.copy_ns, self.back_ns)

    @property
    def ceiling_ns(self) -> int:
        """Return what it takes if nothing overlaps."""
        return self.computing_ns + self.copy_ns + self.back_ns

    @property
    def peak_bytes(self) -> int:
        """Return the most bytes on the device."""
        return self.weight_bytes + self.activation_bytes

    @property
    def limited_by(self) -> str:
        """Return what the floor is bound by: "copy", "host", "memory", "compute", or "nothing" if nothing is done."""
        if not self.ceiling_ns:
            return "nothing"
        if max(self.copy_ns, self.back_ns) > self.computing_ns:
            return "copy"
        if self._known(self.host_ns) >= self.computing_ns:
            return "host"
        return "memory" if self._known(self.memory_ns) * 2 > self.computing_ns else "compute"
