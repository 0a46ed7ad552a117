"""Running tensor code without its data: small tensors are real, large and computed ones are phantoms on meta.

    with Phantoms(record), PhantomFunctions(phantoms):
        model(torch.empty(1, 24576, 128, device="meta"))      # calls `record` with every operation

A phantom has shape, strides and dtype, but no numbers. A result that depends on a phantom is a phantom, a tensor larger
than `SMALL` becomes one, and everything else is computed for real: so a scheduler steps, a mask made from a list keeps
its values, and 35 GiB of weights take no memory. Reading a number of a phantom is an error unless an answer is listed.
No default device is set: code that asks for the meta device, because a phantom is on it, gets a real tensor if that is
small. Shapes of results come from torch's own meta kernels, remembered by the shapes of arguments: a kernel costs
100 µs, a look-up five.

`Phantoms` sees torch's operations, `PhantomFunctions` the functions above them. Torch splits
`scaled_dot_product_attention` into operations before `Phantoms` sees it; `PhantomFunctions` records it as one fused
operation. A phantom that is converted to NumPy becomes zeros that take no memory, since code on NumPy is no work of the
device.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from reslab.residency._rehearse import _costs
from reslab.residency._rehearse._costs import Op
from reslab.residency._rehearse._failures import (
    Answers,
    Costs,
    raise_cast,
    raise_read_outside,
    raise_unknown,
    where,
)

META = torch.device("meta")
_PLAIN_DISPATCH = torch.Tensor.__torch_dispatch__
#: The most bytes of a tensor that keeps its numbers.
SMALL = 2**20
#: Kinds of operations whose operands autocast casts to its type.
_PRODUCTS = frozenset(("matmul", "conv", "attention"))
#: Kinds and names of those whose operands it casts to float32.
_PRECISE = {"norm", "reduction", "pow", "rsqrt", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal"} | {
    "softplus",
    "cosh",
    "sinh",
    "tan",
    "acos",
    "asin",
    "erfinv",
}


class OperationRow(NamedTuple):
    """The record of one operation; FLOPs and bytes as in `_costs`."""

    op: str
    kind: str
    dtype: str
    flops: int
    read_bytes: int
    written_bytes: int


class Recorder(Protocol):
    """Receives each operation, the tensors that it allocated, and the bytes that its kernel may need in addition."""

    def __call__(self, row: OperationRow, fresh: list[torch.Tensor], workspace_bytes: int = 0) -> None:
        """Record one operation."""

    def touch(self, extra_bytes: int) -> None:
        """Note bytes that a kernel used for itself while it ran."""


class OperationResult(NamedTuple):
    """The result of an operation on given shapes: the geometry of each tensor, and the row to record."""

    tensors: tuple[tuple[Any, Any, torch.dtype] | None, ...]
    sequence: type | None  # list or tuple; None for a single tensor
    row: OperationRow
    workspace_bytes: int

    def build(self) -> Any:
        """Make phantoms of this geometry."""
        made = [
            None if each is None else torch.empty_strided(each[0], each[1], dtype=each[2], device=META)
            for each in self.tensors
        ]
        return made[0] if self.sequence is None else self.sequence(made)


class Phantoms(TorchDispatchMode):
    """Runs operations on phantoms, or for real if all arguments are small and known, and calls `record` with each.

    Args:
        record: Receives each operation that is not a view.
        answers: Values for code that reads the numbers of phantoms: "file.py:function" → (value, reason).
        costs: Formulas for operations that torch's registry lacks: name → FLOPs from (arguments, result).
    """

    def __init__(self, record: Recorder, *, answers: Answers | None = None, costs: Costs | None = None) -> None:
        super().__init__()
        self.record = record
        self.answers: Mapping[str, tuple[Any, str]] = answers or {}
        self.costs: Mapping[str, Callable[..., int]] = costs or {}
        #: Storages of weights that may not be read now → component and path; None: inside a component's call.
        self.weights: Mapping[int, tuple[str, str]] | None = None
        #: For each context of autocast that is open the type to which it casts, None where it is off.
        self.casts: list[torch.dtype | None] = []
        self._paused = False
        self._results: dict[Any, OperationResult] = {}
        self._unknown: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: keep torch from guarding every operation against compilation."""
        # nothing is compiled here, and the guard would cost more than all the rest of an operation
        return False

    @property
    def cast_to(self) -> torch.dtype | None:
        """The type to which autocast casts now; None where it is off."""
        return self.casts[-1] if self.casts else None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let operations within the block run for real and unrecorded."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def is_phantom(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor's numbers are unknown, or too many to compute with."""
        if tensor.is_meta or tensor.numel() * tensor.itemsize > SMALL:
            return True
        return bool(self._unknown) and tensor.untyped_storage()._cdata in self._unknown

    def forget(self, tensor: torch.Tensor) -> None:
        """Treat a real tensor as a phantom from now on: something unknown was written into it."""
        self._unknown.add(tensor.untyped_storage()._cdata)
        # kept alive, or another storage might get its address; these are small and few
        self.__dict__.setdefault("_kept", []).append(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if types and any(kind.__torch_dispatch__ is not _PLAIN_DISPATCH for kind in types):
            return NotImplemented  # a subclass computes by itself, in operations on the tensors that it consists of
        op = _costs.describe(func)
        if op.composite:
            with self:
                return func.decompose(*args, **kwargs)
        given = _costs.argument_tensors(args, kwargs)
        if self.casts:
            self._refuse_cast(op, given)
        for tensor in given:
            if self.is_phantom(tensor):
                return self._on_phantoms(func, op, args, kwargs, given)
        return self._for_real(func, op, args, kwargs, given)

    def _on_phantoms(self, func: Any, op: Op, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor]) -> Any:
        if op.reads_values:
            return self.answer(op.name)
        if op.is_view:
            return func(*args, **kwargs)
        if self.weights and op.kind not in ("create", "random"):
            self._refuse_weights(op, given)
        if op.mutable and torch.Tag.inplace_view not in func.tags:
            return self._written(op, args, kwargs, given)
        if op.kind == "create":  # its numbers do not depend on the phantom
            return self._created(func, op, args, kwargs)
        if op.name == "index":
            args = (args[0], self._places(args[1]))
        elif torch.Tag.dynamic_output_shape in func.tags and kwargs.get("output_size") is None:
            return self.answer(op.name)  # how large the result is depends on numbers
        key = (func, _key(args, op.elementwise), _key(tuple(kwargs.items()), op.elementwise))
        result = self._results.get(key)
        if result is None:
            result = self._results[key] = self._result(func, op, args, kwargs)
        out = result.build()
        fresh = [each for each in (out if result.sequence else (out,)) if each is not None]
        self.record(result.row, fresh, result.workspace_bytes)
        return out

    def _for_real(self, func: Any, op: Op, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor]) -> Any:
        if op.kind in ("create", "random") and not op.mutable:
            return self._created(func, op, args, kwargs)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": given[0].device if given else torch.device("cpu")}
        out = func(*args, **kwargs)
        if op.is_view or op.reads_values:
            return out
        row = self._row(op, args, kwargs, out)
        if row.kind == _costs.UNKNOWN:  # computed for real, on less than a megabyte: its cost is negligible
            row = row._replace(kind="other")
        if op.mutable:
            self.record(row, [])
            return out
        out = _without_large(out)
        self.record(row, list(_costs.tensors(out)))
        return out

    def _result(self, func: Any, op: Op, args: Any, kwargs: dict[str, Any]) -> OperationResult:
        """Return the geometry of a result by torch's meta kernel, and the row to record."""
        bare = {name: META if name == "device" else None if name == "generator" else v for name, v in kwargs.items()}
        out = func(*_to_meta(args), **_to_meta(bare))
        sequence = type(out) if isinstance(out, (list, tuple)) else None
        made = out if sequence is not None else (out,)
        geometry = tuple(None if each is None else (each.shape, each.stride(), each.dtype) for each in made)
        workspace = _costs.conv_workspace(args, out) if op.kind == "conv" else 0
        return OperationResult(geometry, sequence, self._row(op, args, kwargs, out), workspace)

    def _created(self, func: Any, op: Op, args: Any, kwargs: dict[str, Any]) -> Any:
        """Make a tensor from its geometry alone, a real one if it is small."""
        bare = {name: value for name, value in kwargs.items() if name != "generator"}
        if "generator" in kwargs:
            drawn = torch.empty(args[-1], dtype=kwargs.get("dtype"), device=META)
        else:
            drawn = func(*_to_meta(args), **{**bare, "device": META})
        if drawn.numel() * drawn.itemsize <= SMALL:
            drawn = func(*args, **{**kwargs, "device": torch.device("cpu")})
        self.record(self._row(op, (), {}, drawn), [drawn])
        return drawn

    def _written(self, op: Op, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor]) -> Any:
        """Record a write into a tensor without writing."""
        target = kwargs.get("out", args[0] if args else given[0])
        self.record(self._row(op, args, kwargs, target), [])
        for tensor in _costs.tensors(target):
            if not tensor.is_meta:
                self.forget(tensor)
        return target

    def _places(self, indices: Any) -> Any:
        """Return the indices with known masks turned into positions, whose number decides the result's shape."""
        places: list[Any] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                places.append(index)
            elif self.is_phantom(index):
                raise_unknown("indexing by a mask")
            else:
                places += index.nonzero().unbind(-1)
        return places

    def answer(self, op: str) -> Any:
        """Return what the user says that code may read here.

        Raises:
            UnknownValueError: If no answer is listed for the code that asks.
        """
        asked = where()
        for place, (value, _reason) in self.answers.items():
            file, _, function = place.partition(":")
            if file in asked.split(":")[0] and asked.endswith(f" in {function}"):
                return value
        raise_unknown(op)

    def _refuse_weights(self, op: Op, given: list[torch.Tensor]) -> None:
        assert self.weights is not None
        for tensor in given:
            found = self.weights.get(tensor.untyped_storage()._cdata)
            if found and not (op.name == "_to_copy" and _is_converting()):  # SDXL's pipeline converts its whole VAE
                raise_read_outside(*found, op.name)

    def _refuse_cast(self, op: Op, given: list[torch.Tensor]) -> None:
        """Refuse what autocast would cast: operands of products to its type, those of sums and norms to float32."""
        wanted = self.cast_to
        if wanted is None:
            return
        floats = {tensor.dtype for tensor in given if tensor.is_floating_point() and tensor.dtype != torch.float64}
        if op.kind in _PRODUCTS:
            changed = floats - {wanted}
        else:
            changed = floats - {torch.float32} if op.kind in _PRECISE or op.name in _PRECISE else set()
        if changed:
            raise_cast(op.name, wanted)

    def _row(self, op: Op, args: Any, kwargs: dict[str, Any], out: Any) -> OperationRow:
        """Return the row of an operation; without a cost formula its kind is `unknown`, which `rehearse` lists."""
        read, written = _costs.traffic(op, args, kwargs, out)
        dtype = next((str(tensor.dtype).removeprefix("torch.") for tensor in _costs.tensors(out)), "")
        if op.name in self.costs:
            return OperationRow(op.name, "other", dtype, self.costs[op.name](args, out), read, written)
        return OperationRow(op.name, op.kind, dtype, _costs.flops(op, args, kwargs, out), read, written)

    def attention(self, query: Any, key: Any, value: Any, attn_mask: Any = None, *_: Any, **__: Any) -> torch.Tensor:
        """Record scaled dot-product attention as one fused operation, and return a phantom with a kernel's strides."""
        masked = () if attn_mask is None else (attn_mask,)
        flops = _costs.attention_flops(query, key, value) if query.dim() == 4 else 0
        copied = sum(_costs.nbytes(mask) * query.itemsize for mask in masked if mask.dtype is torch.bool)
        return self._fused(_costs.ATTENTION, flops, (query, key, value, *masked), copied)

    def flex_attention(self, query: Any, key: Any, value: Any, block_mask: Any) -> torch.Tensor:
        """Record flex attention as one fused operation: by the blocks of its mask, dense where these are not known."""
        counts = () if block_mask is None else (block_mask.kv_num_blocks, block_mask.full_kv_num_blocks)
        counts = tuple(each for each in counts if each is not None)
        known = not any(map(self.is_phantom, counts))
        with self.paused():
            blocks = (
                [int(each.sum()) * (query.shape[:-2].numel() // each.shape[:-1].numel()) for each in counts]
                if known
                else []
            )
        size = block_mask.BLOCK_SIZE if blocks else (1, 1)
        flops = _costs.flex_flops(query, key, value, sum(blocks) * size[0] * size[1] if blocks else None)
        return self._fused(_costs.FLEX if known else _costs.FLEX_DENSE, flops, (query, key, value), 0)

    def _fused(self, name: str, flops: int, given: tuple[Any, ...], copied_bytes: int) -> torch.Tensor:
        query, _key, value, *_masks = given
        if self.casts:
            self._refuse_cast(_costs.describe(_SCALED), [query, _key, value])
        if self.weights:
            self._refuse_weights(_costs.describe(_SCALED), list(given))
        *batch, rows, width = query.shape
        order = (*range(len(batch) - 1), len(batch), len(batch) - 1, len(batch) + 1)  # rows outside heads, in memory
        shape = (*batch, rows, value.shape[-1])
        with self.paused():
            out = torch.empty([shape[axis] for axis in order], dtype=query.dtype, device=META).permute(order)
        read = sum(_costs.nbytes(tensor) for tensor in given)
        dtype = str(query.dtype).removeprefix("torch.")
        self.record(OperationRow(name, "attention", dtype, flops, read, _costs.nbytes(out)), [out])
        # beside its result, a kernel keeps a float32 logarithm per row, and a copy of a boolean mask as numbers
        self.record.touch(4 * query.numel() // width + copied_bytes)
        return out


def _key(value: Any, elementwise: bool) -> Any:
    """Return the key of arguments that decides a result's geometry; elementwise operations ignore values of scalars."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple([_key(each, elementwise) for each in value])
    if isinstance(value, (int, float)):
        return value.__class__ if elementwise else (value.__class__, value)
    return None if isinstance(value, torch.Generator) else value


def _to_meta(value: Any) -> Any:
    """Return the same arguments with their tensors on meta."""
    if isinstance(value, torch.Tensor):
        return value if value.is_meta else phantom_like(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_to_meta(each) for each in value])
    if isinstance(value, dict):
        return {name: _to_meta(each) for name, each in value.items()}
    return value


def phantom_like(tensor: torch.Tensor) -> torch.Tensor:
    """Return a phantom with the geometry of a tensor."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def _without_large(out: Any) -> Any:
    """Return a computed result with its large tensors replaced by phantoms."""
    if isinstance(out, torch.Tensor):
        return phantom_like(out) if out.numel() * out.itemsize > SMALL else out
    return type(out)([_without_large(each) for each in out]) if isinstance(out, (list, tuple)) else out


def _is_converting() -> bool:
    """Tell whether a module is being moved or converted as a whole, as `module.to(dtype)` does."""
    return any(frame.f_code is torch.nn.Module._apply.__code__ for frame, _line in traceback.walk_stack(None))


_SCALED = torch.ops.aten._scaled_dot_product_flash_attention.default
_ATTENTION = torch.nn.functional.scaled_dot_product_attention
_FROM_VALUES = (torch.tensor, torch.as_tensor)
_TO_NUMPY = (torch.Tensor.numpy, torch.Tensor.__array__)
_SEEN = frozenset((_ATTENTION, torch.Tensor.tolist, *_FROM_VALUES, *_TO_NUMPY))


class PhantomFunctions(TorchFunctionMode):
    """Intercepts calls of torch's functions during a rehearsal: attention, and conversions from and to other data."""

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
            kwargs = {**kwargs, "device": "cpu"}  # torch would drop the values before any operation is seen
        elif func is torch.Tensor.tolist and self.phantoms.is_phantom(args[0]):
            return self.phantoms.answer("tolist")
        elif func in _TO_NUMPY and self.phantoms.is_phantom(args[0]):
            return zeros(args[0])
        return func(*args, **kwargs)


def zeros(tensor: torch.Tensor) -> np.ndarray:
    """Return zeros of a tensor's shape that take the memory of one number."""
    return np.broadcast_to(torch.zeros((), dtype=tensor.dtype).numpy(), tuple(tensor.shape))
