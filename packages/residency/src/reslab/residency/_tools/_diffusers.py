"""A plan as code for diffusers: one offload for the whole pipeline if all components are alike, else one for each.

    print(plan.as_code("diffusers"))

Names and behaviour are those of diffusers 0.42.1 (`DiffusionPipeline.enable_*_offload`, `hooks.apply_group_offloading`,
`ModelMixin.enable_layerwise_casting`, `set_attention_backend`) and accelerate (`cpu_offload`, `cpu_offload_with_hook`);
a test binds every call to the real signatures and runs it. The code avoids five traps, or warns of them:

- group offload looks for blocks among a component's own children: deeper blocks are moved in one piece;
- its hooks act before `forward`: a VAE whose `decode` is called stays on the host, unless its class lists what to hook;
- groups on disk are files named by their path in the component: two components in one folder overwrite each other;
- model offload of a whole pipeline refuses components with group offload, so the code chains it by hand beside them;
- casting of weights has to be set up before group offload registers them.

diffusers has streams on CUDA and XPU alone and refuses them on other devices, so nothing is fetched ahead there. A
stream pins all of a component's host memory beforehand, unless the code says `low_cpu_mem_usage=True`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from reslab.residency._plan._code import TOOLS, Wanted
from reslab.residency._plan._numerics import Attention, Lora, Numerics, PassBatching, VaeTiling, WeightDtype
from reslab.residency._plan._placement import Granularity, Place, Placement, Until
from reslab.residency._tools._differences import by_sentence, in_single_stages, placed_otherwise

TOOL = "diffusers"
#: diffusers' names of the attention kernels.
_BACKENDS = {
    Attention.FLASH: "_native_flash",
    Attention.EFFICIENT: "_native_efficient",
    Attention.MATH: "_native_math",
}
#: The import that a line of code needs, by a pattern of the line.
_IMPORTS = {
    r"torch\.": "import torch",
    r"cpu_offload\(": "from accelerate import cpu_offload",
    r"cpu_offload_with_hook\(": "from accelerate import cpu_offload_with_hook",
    r"apply_group_offloading\(": "from diffusers.hooks import apply_group_offloading",
}


def write(wanted: Wanted) -> tuple[str, list[str]]:
    """Return the code and its differences to the plan."""
    placed = {name: placement for name, placement in wanted.places.items() if not _is_copy(name)}
    calls = {name: instead(placement, wanted.device) for name, placement in placed.items()}
    lines = [*_numerics(wanted.numerics, calls), *_moves(calls, wanted.are_all, wanted.device)]
    head = [line for word, line in _IMPORTS.items() if any(re.search(rf"\b{word}", each) for each in lines)]
    if any("components" in line for line in lines):
        head += ["", "components = pipe.components  # of several pipelines: {**one.components, **other.components}"]
    return "\n".join([*head, *([""] if head else []), *lines]) + "\n", list(_differences(wanted))


TOOLS[TOOL] = write


def _moves(calls: Mapping[str, Placement], are_all: bool, device: str) -> Iterator[str]:
    """Yield the lines that move components: one call for all of them if they are alike, else one call for each."""
    kinds = list(dict.fromkeys(calls.values()))
    whole = _whole(kinds[0], device) if are_all and len(kinds) == 1 else None
    if whole:
        yield f"# {', '.join(calls)}: {_says(kinds[0])}"
        yield from _traps(calls)
        yield whole
        return
    yield from _one_by_one(calls, device)
    yield from _traps(calls)
    if not are_all:
        yield from _rest(calls)


def instead(placement: Placement, device: str = "cuda") -> Placement:
    """Return the effect of diffusers' nearest call to a placement, as a placement.

    >>> from reslab.residency import layerwise
    >>> instead(layerwise(resident=12, prefetch=3))
    layerwise(until='each stage', granularity='group')
    """
    if placement.kind is Place.RESIDENT:
        return Placement()
    if placement.kind is Place.SWAP:
        return Placement(kind=Place.SWAP, until=Until.EACH, copy_back=True)
    is_streamed, is_leaf = placement.prefetch > 0 and _has_streams(device), placement.granularity is Granularity.LEAF
    releases = is_streamed or placement.kind is Place.DISK or (is_leaf and not placement.copy_back)
    return Placement(
        kind=placement.kind,
        prefetch=int(is_streamed),
        until=Until.EACH,
        granularity=Granularity.LEAF if is_leaf else Granularity.GROUP,
        copy_back=not releases,
    )


def _is_sequential(call: Placement) -> bool:
    """Return whether a call is accelerate's sequential offload; otherwise layers move by group offload."""
    leaf = call.granularity is Granularity.LEAF and call.kind is Place.LAYERWISE
    return leaf and call.prefetch == 0 and not call.copy_back


def _has_streams(device: str) -> bool:
    """Return whether group offload accepts `use_stream=True` on a device."""
    return device.partition(":")[0] in ("cuda", "xpu")


def _traps(calls: Mapping[str, Placement]) -> Iterator[str]:
    """Yield warnings about group offload, as comments of the code."""
    if any(call.streams and call.prefetch for call in calls.values()):
        yield "# a stream pins all of a component's host memory first; where that is short, or pinning refused (WSL2),"
        yield "# add low_cpu_mem_usage=True: memory is then pinned piece by piece, and copies are slower"
    grouped = (name for name, call in calls.items() if call.granularity is Granularity.GROUP)
    if any("vae" in name for name in grouped):
        yield '# decode() of a VAE class without _group_offload_block_modules wants offload_type="leaf_level" there'


def _whole(call: Placement, device: str) -> str | None:
    """Return the call for a whole pipeline; None if diffusers has none for this placement."""
    if call.kind is Place.RESIDENT:
        return f'pipe.to("{device}")'
    if call.kind is Place.SWAP:
        return f'pipe.enable_model_cpu_offload(device="{device}")'
    if _is_sequential(call):
        return f'pipe.enable_sequential_cpu_offload(device="{device}")'
    if call.kind is Place.LAYERWISE:
        return f'pipe.enable_group_offload(onload_device=torch.device("{device}"), {_group(call)})'
    return None


def _group(call: Placement) -> str:
    blocks = 'offload_type="block_level", num_blocks_per_group=1'
    kind = 'offload_type="leaf_level"' if call.granularity is Granularity.LEAF else blocks
    return kind + (", use_stream=True" if call.prefetch else "")


def _one_by_one(calls: Mapping[str, Placement], device: str) -> Iterator[str]:
    has_hooks = Place.SWAP in {call.kind for call in calls.values()}
    yield f'device = torch.device("{device}")'
    if has_hooks:
        yield "hook = None  # of the previous model: calling the next one copies that model back"
    for name, call in calls.items():
        yield f"# {name}: {_says(call)}"
        yield _single(f'components["{name}"]', name, call)
    if has_hooks:
        yield "# after a run, hook.offload() copies the last model back"


def _single(component: str, name: str, call: Placement) -> str:
    if call.kind is Place.RESIDENT:
        return f"{component}.to(device)"
    if call.kind is Place.SWAP:
        return f"_, hook = cpu_offload_with_hook({component}, device, prev_module_hook=hook)"
    if _is_sequential(call):
        return f"cpu_offload({component}, device, offload_buffers=len({component}._parameters) > 0)"
    folder = f', offload_to_disk_path="offload/{name}"' if call.kind is Place.DISK else ""
    return f"apply_group_offloading({component}, onload_device=device, {_group(call)}{folder})"


def _rest(calls: Mapping[str, Placement]) -> Iterator[str]:
    yield "# all other components: stay on the device"
    placed = ", ".join(f'"{name}"' for name in calls)
    yield f"for name in components.keys() - [{placed}]:"
    yield "    if isinstance(components[name], torch.nn.Module):"
    yield "        components[name].to(device)"


def _says(call: Placement) -> str:
    if call.kind is Place.RESIDENT:
        return "stays on the device"
    if call.kind is Place.SWAP:
        return "moved whole when called, copied back when the next one is"
    piece = (
        "layer by layer"
        if call.granularity is Granularity.LEAF
        else "block by block, where blocks are its own children"
    )
    return piece + (", one ahead" if call.prefetch else "") + (", from disk" if call.kind is Place.DISK else "")


def _numerics(chosen: Numerics, calls: Mapping[str, Placement]) -> Iterator[str]:
    for name in _denoisers(calls):
        if chosen.weight_dtype is WeightDtype.FLOAT8:
            types = "storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16"
            yield f'components["{name}"].enable_layerwise_casting({types})'
        if chosen.attention in _BACKENDS:
            yield f'components["{name}"].set_attention_backend("{_BACKENDS[chosen.attention]}")'
    if chosen.vae_tiling is not VaeTiling.PIPELINE:
        yield f'components["vae"].{"enable" if chosen.vae_tiling is VaeTiling.ON else "disable"}_tiling()'


def _denoisers(calls: Mapping[str, Placement]) -> list[str]:
    """Return the names of the models that denoise, which weight types and attention kernels concern."""
    # a plan that places no denoiser may still choose its type: then it is the transformer
    return [name for name in calls if name.startswith(("transformer", "unet"))] or ["transformer"]


def _differences(wanted: Wanted) -> Iterator[str]:
    yield from by_sentence(_placed(wanted))
    if wanted.lora is Lora.MERGED:
        yield (
            "lora: the plan merges the LoRA into a copy of the transformer; with diffusers load_lora_weights adds it "
            "on the fly, and fuse_lora writes it into the weights themselves"
        )
    if wanted.numerics.pass_batching is PassBatching.BATCHED:
        yield "numerics.pass_batching: the plan runs guidance passes in one batch; diffusers as the pipeline does"
    if wanted.numerics.weight_dtype is WeightDtype.FLOAT8:
        yield (
            "numerics.weight_dtype: the plan counts every weight of the blocks as float8 and none outside them; "
            "enable_layerwise_casting also casts layers outside the blocks, leaves norms and bare parameters as they "
            "are, and keeps a bfloat16 copy of a layer's weight while it computes, which no bound counts"
        )


def _placed(wanted: Wanted) -> Iterator[tuple[str, str]]:
    for name, placement in wanted.places.items():
        if _is_copy(name):
            yield name, f"{placement!r} in the plan; diffusers has no such second copy"
            continue
        for sentence in placed_otherwise(placement, instead(placement, wanted.device), TOOL):
            yield name, sentence
        for sentence in in_single_stages(wanted, name, TOOL):
            yield name, sentence
        if placement.kind is Place.DISK:
            yield name, "diffusers first writes the weights to a folder of its own, and reads them from there"


def _is_copy(name: str) -> bool:
    """Return whether a name is that of a copy with the LoRA merged: only these names contain a plus sign."""
    return "+" in name
