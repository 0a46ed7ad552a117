"""The cost of an operation: its kind, its FLOPs, and the bytes that it reads and writes.

    op = describe(torch.ops.aten.mm.default)
    op.kind                                     # 'matmul'
    flops(op, args, kwargs, out), traffic(op, args, kwargs, out)

FLOPs come from the registry of `torch.utils.flop_counter`: a multiplication and an addition are two, softmax and
elementwise arithmetic are none, attention is counted whole whatever its mask. Bytes are those of the tensors among
arguments and results, once each; a lookup reads the rows that it returns, not the table. A view moves no bytes and is
not recorded.

The kind of an operation comes from torch's registry of FLOPs, from `KIND_OF`, or from torch's tags (pointwise,
reduction). An operation without any of these is `unknown`: `rehearse` raises and names it rather than counting 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import flop_registry

#: Operations without FLOPs, by kind, for which torch has no tag.
_KINDS = {
    "elementwise": "polar complex",
    "norm": """
        native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit_no_training
        _fused_rms_norm _native_batch_norm_legit batch_norm_elemt
    """,
    "reduction": """
        _softmax _safe_softmax _log_softmax softmax log_softmax argmax argmin argsort sort topk cumsum cumprod
        max min linalg_vector_norm norm std var var_mean std_mean any all _weight_norm_interface logsumexp
        searchsorted nonzero unique_consecutive bucketize
    """,
    "copy": """
        _to_copy clone copy copy_ cat stack repeat repeat_interleave constant_pad_nd reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d fill_ fill zero_
        roll flip tril triu slice_scatter select_scatter pixel_shuffle pixel_unshuffle channel_shuffle
        _unsafe_masked_index unfold_copy im2col _pad_circular set_ resize_ masked_scatter diag_embed
        _reshape_copy lift_fresh_copy view_copy
    """,
    "index": """
        embedding index index_select gather index_put index_put_ _index_put_impl_ scatter scatter_ scatter_add
        index_add index_copy index_copy_ take_along_dim _unsafe_index _unsafe_index_put masked_select index_fill
    """,
    "create": """
        empty empty_strided zeros ones full arange linspace eye new_empty new_zeros new_ones new_full
        new_empty_strided empty_like zeros_like ones_like full_like scalar_tensor hann_window hamming_window
        logspace tril_indices triu_indices empty_permuted one_hot
    """,
    "random": """
        randn rand randint randn_like rand_like randint_like normal normal_ uniform_ bernoulli bernoulli_
        randperm exponential_ random_ multinomial
    """,
    "resample": """
        upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d
        upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
        _upsample_nearest_exact2d avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
        max_pool2d_with_indices max_pool3d_with_indices grid_sampler_2d
    """,
}

#: Operation → kind.
KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}


aten = torch.ops.aten
#: The name under which scaled dot-product attention is recorded as one operation, whatever its kernel.
ATTENTION = "scaled_dot_product_attention"
#: Flex attention, counted by the blocks of its mask; and where these depend on what is not known, as if it had none.
FLEX, FLEX_DENSE = "flex_attention", "flex_attention (dense, at most)"
UNKNOWN = "unknown"

_CONV = {"convolution", "_convolution", "cudnn_convolution", "_slow_conv2d_forward", "convolution_overrideable"}
_READ_VALUES = {"_local_scalar_dense", "equal", "is_nonzero", "is_same_size"}


def _by_row(a: torch.Tensor, *_: Any, out_val: torch.Tensor, **__: Any) -> int:
    """Return the FLOPs of rows times a packed matrix: two for each element of `a` and column of the result."""
    return 2 * a.numel() * int(out_val.shape[-1])


def _grouped(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> int:
    """Return the FLOPs of a grouped product."""
    # groups are rows of `a`, columns of `b`, or parts of the inner axis; only grouped columns need another count
    columns_grouped = a.dim() == 3 and b.dim() == 2
    return 2 * int(a.shape[-2:].numel() if columns_grouped else a.numel()) * int(b.shape[-1])


def _of_first(a: torch.Tensor, *_: Any, **__: Any) -> int:
    return 2 * a.numel()


def _of_second(_self: torch.Tensor, a: torch.Tensor, *_: Any, **__: Any) -> int:
    return 2 * a.numel()


def _added(_self: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> int:
    return 2 * a.numel() * (int(b.shape[-1]) if b.dim() > 1 else b.numel())


def _solved(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> int:
    """A column costs half the products of a square matrix with it (trsm)."""
    return b.numel() * int(a.shape[-1])


#: FLOPs of products that torch's registry lacks: operation → function of (arguments, result).
_PRODUCTS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("mv", "dot", "vdot"), _of_first),
    "addmv": _of_second,
    "linalg_solve_triangular": _solved,
    **dict.fromkeys(("addr", "addbmm", "_addmm_activation"), _added),
    **dict.fromkeys(("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2"), _grouped),
    **dict.fromkeys(("_int_mm", "_scaled_mm_v2", "_weight_int8pack_mm", "_weight_int4pack_mm"), _by_row),
    **dict.fromkeys(("_weight_int4pack_mm_for_cpu", "_dyn_quant_matmul_4bit", "_mixed_dtypes_linear"), _by_row),
    "qbytes_mm": _by_row,  # quanto's
}


class Op(NamedTuple):
    """The properties of an operation that a rehearsal uses."""

    name: str  # without overload: "mm"
    kind: str
    flop: Callable[..., int] | None
    is_view: bool  # moves no bytes: its result shares the storage of its argument
    mutable: bool  # writes into an argument
    reads_values: bool  # returns numbers, not a tensor
    elementwise: bool  # its result's shape does not depend on the values of scalars
    composite: bool  # made of other operations; seen only when a subclass of tensors computes


@cache
def describe(func: Any) -> Op:
    """Describe an operation of torch's library.

    >>> describe(aten.mm.default).kind, describe(aten.add.Tensor).kind, describe(aten.t.default).is_view
    ('matmul', 'elementwise', True)
    """
    name = func._schema.name.split("::")[1]
    flop = _flop(name, func)
    return Op(
        name=name,
        kind=_kind(name, func, flop),
        flop=flop,
        is_view=(func.is_view or name in ("_unsafe_view", "lift_fresh")) and not func._schema.is_mutable,
        mutable=func._schema.is_mutable,
        reads_values=name in _READ_VALUES or torch.Tag.data_dependent_output in func.tags,
        elementwise=torch.Tag.pointwise in func.tags,
        composite=torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"),
    )


def _flop(name: str, func: Any) -> Any:
    """Return the FLOP formula of an operation; an in-place operation has that of its counterpart."""
    known = flop_registry.get(func.overloadpacket) or _PRODUCTS.get(name)
    if known is not None or not name.endswith("_"):
        return known
    same = getattr(getattr(torch.ops, func.namespace), name[:-1], None)
    return flop_registry.get(same) or _PRODUCTS.get(name[:-1])


def _kind(name: str, func: Any, flop: Any) -> str:
    if flop is not None:
        return "conv" if name in _CONV else "attention" if "attention" in name else "matmul"
    if name in KIND_OF:
        return KIND_OF[name]
    if torch.Tag.pointwise in func.tags:
        return "elementwise"
    if name.endswith("_") and name[:-1] in KIND_OF:
        return KIND_OF[name[:-1]]
    return "reduction" if torch.Tag.reduction in func.tags else UNKNOWN


def tensors(values: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors among arguments or results, inside lists and tuples too."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors(value)


def argument_tensors(args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the tensors among an operation's arguments, one level of lists deep."""
    # the hot path of a rehearsal: no recursion, no generator
    given = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, torch.Tensor):
            given.append(value)
        elif isinstance(value, (list, tuple)):
            given += [each for each in value if isinstance(each, torch.Tensor)]
    return given


def nbytes(tensor: torch.Tensor) -> int:
    """Return the bytes that a kernel touches to read all of a tensor; an expanded one has fewer bytes than elements."""
    if 0 not in tensor.stride():
        return tensor.numel() * tensor.itemsize
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride else min(size, 1)
    return distinct * tensor.itemsize


def traffic(op: Op, args: Any, kwargs: dict[str, Any], out: Any) -> tuple[int, int]:
    """Return the bytes that an operation reads and writes."""
    given = argument_tensors(args, kwargs)
    if op.mutable:
        written = nbytes(given[0]) if given else 0
        if op.kind == "index":  # the rows that are written, not the table
            written = min(written, sum(nbytes(tensor) for tensor in given[1:]))
        overwritten = op.kind in ("copy", "create", "random", "index")
        return sum(nbytes(tensor) for tensor in given[overwritten:]), written
    written = sum(nbytes(tensor) for tensor in tensors(out))
    if op.kind == "index":
        return written + sum(nbytes(tensor) for tensor in given[1:]), written
    return sum(nbytes(tensor) for tensor in given), written


def flops(op: Op, args: Any, kwargs: dict[str, Any], out: Any) -> int:
    """Return the FLOPs of an operation; 0 for operations whose cost is their bytes."""
    return 0 if op.flop is None else int(op.flop(*args, **kwargs, out_val=out))


def attention_flops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    """Return the FLOPs of scaled dot-product attention: two products of batch × heads × queries × keys × width."""
    flop = flop_registry[aten._scaled_dot_product_flash_attention]
    return int(flop(query, key, value, out_val=None))


def flex_flops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pairs: int | None) -> int:
    """Return the FLOPs of attention between pairs of a query and a key: two a pair and column of keys and values.

    Args:
        query: Batch × heads × queries × width.
        key: Its heads may be fewer.
        value: As many as keys.
        pairs: Those in the blocks of the mask, of all batches and heads; None for all.
    """
    dense = query.shape[:-1].numel() * int(key.shape[-2])
    return 2 * (dense if pairs is None else min(pairs, dense)) * int(query.shape[-1] + value.shape[-1])


def conv_workspace(args: Any, out: Any) -> int:
    """Return an estimate of the bytes that a convolution allocates beside its result."""
    # kernels with another memory layout copy input and weights into it and the result back: one copy of each
    return sum(nbytes(tensor) for tensor in (*tensors(args[:2]), *tensors(out)))
