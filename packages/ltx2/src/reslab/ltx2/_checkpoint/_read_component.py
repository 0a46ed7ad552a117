"""Read one component from its folder: check its weights, load them by its own library, align them.

diffusers and transformers load the weights but report few problems, so the checks are here. Missing and unexpected keys
and wrong shapes are found by comparing the files' headers with a model on the meta device. So a checkpoint that was
saved from a model with PEFT wrappers (`*.base_layer.*` keys) is refused; loading it would leave its parameters on meta.

    read_component("vae", Path("folder/vae"), dtype=torch.bfloat16)
    memory_bytes({"vae": Path("folder/vae")}, torch.bfloat16, LoadRequest())      # from configurations alone
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from reslab.ltx2._checkpoint._align import align
from reslab.ltx2._checkpoint._blank import converted
from reslab.ltx2._checkpoint._checkpoint_folder import (
    COMPUTED,
    UPSAMPLER,
    WITHOUT_WEIGHTS,
    config_name,
    headers,
    precision,
    read_config,
)
from reslab.ltx2._checkpoint._configs import PERTURBED
from reslab.ltx2._checkpoint._file_headers import StoredTensor
from reslab.ltx2._checkpoint._load_arguments import leaves_in_files
from reslab.ltx2._checkpoint._model_classes import find_class, quiet_transformers
from reslab.ltx2._checkpoint._small_models import read_tokenizer
from reslab.residency import Plan, host_need

# The errors that constructors of diffusers and transformers raise for unusable values.
_UNBUILDABLE = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    StrictDataclassError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """Hold the arguments of one call of `load`."""

    variant: str | None = None
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    latent_upsampler: Path | None = None
    lora: Path | None = None
    two_stage: bool = True
    progress: bool = True
    plan: Plan | None = None


def read_component(name: str, folder: Path, *, dtype: torch.dtype, device: torch.device | str | None = None) -> Any:
    """Read a component, its weights in `dtype` and in aligned memory of `device`.

    Raises:
        ValueError: The message names the missing, damaged or unexpected part.
    """
    if name == "tokenizer":
        return read_tokenizer(folder)
    if name == "scheduler":
        return _read_scheduler(folder)
    module = _read_text_encoder(folder, dtype) if name == "text_encoder" else _read_diffusers(name, folder, dtype)
    absent = [key for key, parameter in module.named_parameters() if parameter.is_meta]
    if absent:
        raise ValueError(f"{name}: no weights came for {_some(absent)}; download the checkpoint again.")
    return align(module.eval(), device=device)


def _read_scheduler(folder: Path) -> Any:
    kind = _class_of(folder)
    with naming(folder):
        return kind.from_pretrained(folder)


def _read_diffusers(name: str, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    kind, stored = _class_of(folder), headers(name, folder)
    check_weights(name, expected_shapes(folder), stored)
    built = PERTURBED if name == "transformer" else {}
    variant = precision(name, folder)
    return kind.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, variant=variant, **built
    )


def _read_text_encoder(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Read the text encoder; transformers renames keys between releases, so its own report is checked."""
    headers("text_encoder", folder)  # names a damaged file, which transformers does not
    kind, variant = _architecture_of(folder), precision("text_encoder", folder)
    _meta_text_encoder(folder)  # names an unusable configuration, which transformers does not
    try:
        with quiet_transformers():
            module, report = kind.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                variant=variant,
            )
    except RuntimeError as error:
        raise ValueError(f"text_encoder: {error}") from None
    for trouble in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        keys = [key for key in map(str, report[trouble]) if not (trouble[0] == "u" and key.endswith(COMPUTED))]
        if keys:
            found = _some(sorted(keys))
            raise ValueError(f"text_encoder: {trouble.replace('_', ' ')}: {found}; download the checkpoint again.")
    return module


def _class_of(folder: Path) -> Any:
    return _module_class(read_config(folder).get("_class_name"), folder)


def _architecture_of(folder: Path) -> Any:
    names = read_config(folder).get("architectures")
    return _module_class(names[0] if isinstance(names, list) and names else None, folder)


def _module_class(name: Any, folder: Path) -> Any:
    """Find the class that a configuration names; a ValueError says that it names no known one."""
    if not isinstance(name, str):
        raise ValueError(f"{config_name(folder)} names no class but {name!r}; download it again.")
    try:
        return find_class(name)
    except ValueError as error:
        raise ValueError(f"{config_name(folder)}: {error}") from None


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Turn the errors of a component's constructor into a ValueError that names its configuration file."""
    try:
        yield
    except _UNBUILDABLE as error:
        raise ValueError(f"{config_name(folder)} describes nothing that can be built ({error}).") from None


def meta_module(folder: Path) -> torch.nn.Module:
    """Build a diffusers component from its configuration on the meta device: shapes without memory."""
    kind = _class_of(folder)
    with naming(folder), torch.device("meta"):
        return kind.from_config(kind.load_config(folder, local_files_only=True))


def expected_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all weights and buffers that a diffusers component stores."""
    return {key: tuple(tensor.shape) for key, tensor in meta_module(folder).state_dict().items()}


def check_weights(name: str, expected: dict[str, tuple[int, ...]], stored: dict[str, StoredTensor]) -> None:
    """Check names and shapes of stored weights; one ValueError names those that are missing, unexpected or wrong."""
    problems = []
    if unexpected := sorted(stored.keys() - expected.keys()):
        wrapped = any(".base_layer." in key for key in unexpected)
        why = " (saved from a model with PEFT adapters: save it without them)" if wrapped else ""
        problems.append(f"{len(unexpected)} unexpected keys{why}: {_some(unexpected)}")
    if missing := sorted(expected.keys() - stored.keys()):
        problems.append(f"{len(missing)} missing keys: {_some(missing)}")
    for key in sorted(expected.keys() & stored.keys()):
        if expected[key] != stored[key].shape:
            problems.append(f"{key} has shape {stored[key].shape} in {stored[key].file.name}, not {expected[key]}")
    if problems:
        raise ValueError(f"{name} does not fit its configuration: {'; '.join(problems[:4])}.")


def _some(names: Iterable[str], count: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")


def memory_bytes(
    parts: Mapping[str, Path], dtype: torch.dtype, wanted: LoadRequest, *, upsampler_bytes: int = 0, lora_bytes: int = 0
) -> int:
    """Return the host memory that a loaded checkpoint takes, from the configurations of its components alone.

    With a plan, these are the weights that wait in host memory and the window for weights on disk. Without one, on an
    accelerator, it is the largest component, which passes through host memory.

    Args:
        parts: The folder of each component.
        dtype: The type of the weights.
        wanted: The arguments of `load`.
        upsampler_bytes: The size of an upsampler whose configuration is not on this machine yet.
        lora_bytes: The size of the LoRA, where it is read to host memory.
    """
    modules = {
        name: converted(_meta_text_encoder(folder) if name == "text_encoder" else meta_module(folder), dtype)
        for name, folder in parts.items()
        if name not in WITHOUT_WEIGHTS
    }
    beside = lora_bytes + (0 if leaves_in_files(wanted.plan, UPSAMPLER) else upsampler_bytes)
    if wanted.plan is not None:
        return host_need(wanted.plan, modules) + beside
    sizes = [sum(parameter.nbytes for parameter in module.parameters()) for module in modules.values()]
    on_host = wanted.device is None or torch.device(wanted.device).type == "cpu"
    return sum(sizes) + beside if on_host else max([*sizes, upsampler_bytes, lora_bytes])


def text_rows(folder: Path) -> int:
    """Return the number of rows in a text encoder's table of tokens, from its configuration."""
    kind = _architecture_of(folder)
    with naming(folder):
        return int(kind.config_class.from_dict(read_config(folder)).get_text_config().vocab_size)


def _meta_text_encoder(folder: Path) -> Any:
    """Build a text encoder from its configuration on the meta device; a ValueError names an unusable configuration."""
    kind = _architecture_of(folder)
    with naming(folder), torch.device("meta"):
        return kind(kind.config_class.from_dict(read_config(folder)))
