"""Components whose weights stay in their files until `residency.apply` reads them.

    module, files = read_in_files("text_encoder", folder, dtype=torch.bfloat16)
    residency.apply(pipe, plan, files={"text_encoder": files})

Weights that a plan has on disk are read block by block during a run, and weights that it keeps on the device go there
straight from their file. Only weights that wait in host memory are loaded to it. Such a component is built on the meta
device, and its files and names are checked; buffers are small and are read at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from reslab.ltx2._checkpoint._align import aligned_copy
from reslab.ltx2._checkpoint._blank import converted
from reslab.ltx2._checkpoint._checkpoint import Files
from reslab.ltx2._checkpoint._checkpoint_folder import headers, read_config, weight_files
from reslab.ltx2._checkpoint._configs import PERTURBED
from reslab.ltx2._checkpoint._file_headers import StoredTensor, read_header
from reslab.ltx2._checkpoint._load_arguments import leaves_in_files
from reslab.ltx2._checkpoint._lora import ADAPTER
from reslab.ltx2._checkpoint._lora_file import LoraFile
from reslab.ltx2._checkpoint._model_classes import find_class, quiet_transformers
from reslab.ltx2._checkpoint._read_component import check_weights
from reslab.residency import KeyedFile, Plan

#: The safetensors names of the types of loaded weights.
_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}


def read_in_files(name: str, folder: Path, *, dtype: torch.dtype) -> tuple[torch.nn.Module, Files]:
    """Build a component without its parameters' values, and return it with the files that hold them.

    Raises:
        ValueError: A part is missing or damaged, or cannot stay in its files.
    """
    stored = headers(name, folder)
    module = _build(name, folder, dtype)
    keys = _renamed(module, stored) if name == "text_encoder" else {key: key for key in stored}
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict(keep_vars=True).items()}
    tied = _tied(module)
    found = {keys[key]: each for key, each in stored.items() if name != "text_encoder" or keys[key] in expected}
    check_weights(name, {key: shape for key, shape in expected.items() if key not in tied or key in found}, found)
    _check_types(name, module, found, dtype)
    _read_buffers(module, {keys[key]: (key, each.file) for key, each in stored.items()}, dtype)
    if all(key == named for key, named in keys.items()):
        return module, tuple(weight_files(name, folder))
    return module, tuple(KeyedFile(file, _of(file, keys, stored)) for file in weight_files(name, folder))


def lora_in_file(lora: LoraFile, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], Files] | None:
    """Return the tensors of a LoRA on meta, and its file under the transformer's names for them.

    Returns:
        Both, or None where the file has a scale other than 1 or another type, so that it has to be read.
    """
    stored = read_header(lora.path, str(lora.path)).tensors
    named = {own[part]: (layer, part) for layer, own in lora.keys.items() for part in ("lora_A", "lora_B")}
    kinds = {stored[key].dtype for key in named}
    if kinds != {_stored_name(dtype)} or any(scale != 1 for scale in lora.scales.values()):
        return None
    state = {key: torch.empty(tensor.shape, dtype=dtype, device="meta") for key, tensor in lora.shapes.items()}
    pefts = {key: f"{layer}.{part}.{ADAPTER}.weight" for key, (layer, part) in named.items()}
    return state, (KeyedFile(lora.path, pefts),)


def held_lora_bytes(lora: LoraFile, dtype: torch.dtype, plan: Plan | None) -> int:
    """Return the host memory that a LoRA takes; 0 where it stays in its file beside the transformer's."""
    if leaves_in_files(plan, "transformer") and lora_in_file(lora, dtype) is not None:
        return 0
    return sum(tensor.numel() for tensor in lora.shapes.values()) * dtype.itemsize


def _build(name: str, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    settings = read_config(folder)
    kind: Any = find_class(settings["architectures"][0] if name == "text_encoder" else settings["_class_name"])
    with _parameters_on_meta():
        if name == "text_encoder":
            module = kind(kind.config_class.from_dict(settings))
        else:
            built = PERTURBED if name == "transformer" else {}
            module = kind.from_config(kind.load_config(folder, local_files_only=True), **built)
    return converted(module.eval(), dtype)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move each parameter to meta as soon as a constructor makes it; buffers keep their computed values."""

    def put(_module: torch.nn.Module, _name: str, parameter: torch.Tensor | None) -> torch.Tensor | None:
        if parameter is None or parameter.is_meta:
            return None
        return torch.nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(put)  # type: ignore[arg-type]  # its type lacks what is returned
    try:
        yield
    finally:
        handle.remove()


def _renamed(module: Any, stored: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Return the module's name for each weight in its files; transformers renames weights when it loads them."""
    with quiet_transformers():
        steps = get_model_conversion_mapping(module)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    own = module.state_dict(keep_vars=True)
    keys = {}
    for key in stored:
        keys[key], changed = rename_source_key(key, renamings, converters, module.base_model_prefix, own)
        if changed is not None:
            raise ValueError(
                f"text_encoder: {key} is changed when it is loaded, so it cannot stay on disk; let the plan have it in "
                "host memory"
            )
    return keys


def _tied(module: torch.nn.Module) -> set[str]:
    """Return the names of parameters that several names share; files hold such a parameter once."""
    every = dict(module.named_parameters(remove_duplicate=False))
    shared = [id(parameter) for parameter in every.values()]
    return {name for name, parameter in every.items() if shared.count(id(parameter)) > 1}


def _check_types(name: str, module: torch.nn.Module, stored: Mapping[str, StoredTensor], dtype: torch.dtype) -> None:
    """Refuse files of another type than the requested one: weights that stay in files keep their type."""
    own = [key for key, each in module.named_parameters() if key in stored and each.is_floating_point()]
    wrong = {stored[key].dtype for key in own}
    if wrong - {_stored_name(dtype)}:
        kind, asked = next(iter(wrong - {_stored_name(dtype)})), str(dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} is stored as {kind}, and what a plan leaves on disk keeps its type, so it cannot be {asked}; "
            f"place {name} in host memory, or write it once as {asked}: load(..., dtype={dtype}), then write"
        )


def _read_buffers(module: torch.nn.Module, keys: Mapping[str, tuple[str, Path]], dtype: torch.dtype) -> None:
    for part_name, part in module.named_modules():
        for name, buffer in part._buffers.items():
            full = f"{part_name}.{name}" if part_name else name
            if buffer is not None and full in keys:
                key, path = keys[full]
                with safe_open(path, framework="pt") as file:
                    value = file.get_tensor(key)
                part._buffers[name] = aligned_copy(value, dtype=dtype if value.is_floating_point() else None)
            elif buffer is not None:
                assert not buffer.is_meta, full
                part._buffers[name] = aligned_copy(buffer)


def _of(file: Path, keys: Mapping[str, str], stored: Mapping[str, StoredTensor]) -> dict[str, str]:
    return {key: name for key, name in keys.items() if stored[key].file == file}


def _stored_name(dtype: torch.dtype) -> str:
    return _STORED.get(str(dtype).removeprefix("torch."), "")
