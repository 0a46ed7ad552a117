"""Downloads: only what is needed, said beforehand, and not begun where they cannot work. The Hub here is a folder."""

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from reslab import ltx2
from reslab.ltx2._checkpoint import _fetch, _load
from reslab.ltx2._checkpoint._download_plan import DownloadPlan, FetchedFile
from reslab.ltx2._checkpoint._hub import HuggingFaceHub, RepositoryListing
from reslab.ltx2._checkpoint._load import load
from reslab.ltx2._checkpoint._write import write
from reslab.ltx2._pipeline._compose import two_stage
from reslab.residency import Plan, apply, device, rehearse, survey

REPO = "someone/LTX-2.3-tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FolderHub:
    """A Hub of repositories that are folders; downloads copy."""

    def __init__(self, cache: Path, repos: dict[str, Path]) -> None:
        self.cache, self.repos, self.fetched = cache, repos, []

    def listing(self, repo, revision):
        if repo not in self.repos:
            raise ValueError(f"There is no {repo!r} on the Hub, or it needs a login: `hf auth login`.")
        root = self.repos[repo]
        files = [path for path in root.rglob("*") if path.is_file()]
        return RepositoryListing(COMMIT, {path.relative_to(root).as_posix(): path.stat().st_size for path in files})

    def is_cached(self, repo, commit, path):
        return (self.cache / repo / path).is_file()

    def download(self, repo, commit, paths):
        for path in paths:
            if not self.is_cached(repo, commit, path):
                (self.cache / repo / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.repos[repo] / path, self.cache / repo / path)
                self.fetched.append(f"{repo}/{path}")
        return self.cache / repo

    def cache_folder(self):
        return self.cache


@pytest.fixture
def hub(tmp_path, tiny_ltx23):
    root = write(tiny_ltx23, tmp_path / "published")
    (root / "distilled_lora.safetensors").rename(root / "ltx-2.3-22b-distilled-lora-384.safetensors")
    (root / "ltx-2.3-22b-dev.safetensors").write_bytes(b"a whole model in another layout")
    (root / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another precision")
    (root / "text_encoder" / "pytorch_model.bin").write_bytes(b"pickled")
    return FolderHub(tmp_path / "cache", {REPO: root, "Lightricks/LTX-2.3": root})


def test_a_released_checkpoint_is_loaded_from_the_hub(hub, tiny_ltx23):
    loaded = load(REPO, hub=hub, progress=False)
    assert (loaded.source, loaded.revision, loaded.variant.name) == (REPO, COMMIT, "LTX-2.3")
    mine, theirs = (each.components["vae"].state_dict() for each in (tiny_ltx23, loaded))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert loaded.distilled_lora.keys() == tiny_ltx23.distilled_lora.keys()


def test_only_the_files_that_are_needed_are_fetched(hub):
    load(REPO, hub=hub, progress=False)
    assert not [path for path in hub.fetched if path.endswith(("-dev.safetensors", ".fp16.safetensors", ".bin"))]
    assert "Lightricks/LTX-2.3/ltx-2.3-22b-distilled-lora-384.safetensors" in hub.fetched
    assert len(hub.fetched) == len(set(hub.fetched))


def test_what_is_cached_is_not_fetched_again(hub):
    load(REPO, hub=hub, progress=False)
    hub.fetched.clear()
    load(REPO, hub=hub, progress=False)
    assert hub.fetched == []


def test_the_plan_is_printed_before_weights_are_fetched(hub, capsys):
    load(REPO, hub=hub)
    said = capsys.readouterr().out
    assert f"DownloadPlan(LTX-2.3 from {REPO!r} at 0123456: 0.01 GiB to fetch)" in said
    for row in ("to fetch", "cached", "free disk", "host memory after loading", "free host memory"):
        assert row in said


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("free_disk_bytes", r"The disk does not suffice: 0.01 GiB to fetch, 0.00 GiB free. Nothing was fetched"),
        (
            "free_host_bytes",
            r"Host memory does not suffice: 0.0\d GiB after loading, 0.00 GiB free; .* Nothing was fetched",
        ),
    ],
)
def test_a_download_that_cannot_work_is_not_begun(hub, monkeypatch, what, message):
    monkeypatch.setattr(_fetch, what, lambda *args: 1000)
    with pytest.raises(ValueError, match=message):
        load(REPO, hub=hub, progress=False)
    assert not [path for path in hub.fetched if path.endswith(".safetensors")]


def test_host_memory_is_that_of_the_loaded_weights(hub, monkeypatch):
    plans = []
    monkeypatch.setattr(_fetch, "_announce", lambda plan, progress: plans.append(plan))
    loaded = load(REPO, hub=hub, dtype=torch.float16, progress=False)
    weights = sum(
        p.nbytes
        for module in loaded.modules.values()
        for name, p in module.named_parameters()
        if ".lora_" not in name and module is not loaded.components["latent_upsampler"]
    )
    files = [hub.repos[REPO] / "latent_upsampler", hub.repos[REPO]]  # the upsampler and the LoRA, as they are stored
    beside = sum(file.stat().st_size for folder in files for file in folder.glob("*[rs]*.safetensors") if _loaded(file))
    assert plans[0].host_memory_bytes == weights + beside


def _loaded(file):
    return not file.name.endswith("-dev.safetensors")


PLAN = {"text_encoder": "disk", "connectors": "disk", "transformer": "layerwise", "vae": "swap"}


def test_with_a_plan_only_what_waits_in_host_memory_is_asked_of_it(hub, monkeypatch):
    """The answer for 24 GiB and 64: what the plan leaves on disk or on the card needs no host memory."""
    plans = []
    monkeypatch.setattr(_fetch, "_announce", lambda plan, progress: plans.append(plan))
    loaded = load(REPO, hub=hub, dtype=torch.float32, plan=Plan.of(PLAN), progress=False)
    held = [loaded.components["transformer"], loaded.components["vae"]]
    lora = (hub.repos[REPO] / "ltx-2.3-22b-distilled-lora-384.safetensors").stat().st_size
    held.append(loaded.components["connectors"])  # the largest that comes from disk at once: the window
    assert plans[0].host_memory_bytes == lora + sum(p.nbytes for module in held for p in module.parameters())
    assert set(loaded.files) == {"text_encoder", "connectors", "audio_vae", "vocoder", "latent_upsampler"}


def test_what_does_not_fit_whole_is_fetched_and_enters_apply_by_a_plan(hub, monkeypatch):
    monkeypatch.setattr(_fetch, "free_host_bytes", lambda: 3 * 2**20)  # of 5.6 MiB; the plan's are 2.3
    with pytest.raises(ValueError, match=r"after loading, 0\.00 GiB free; leave weights on disk by a plan: load\("):
        load(REPO, hub=hub, dtype=torch.float32, progress=False)
    checkpoint = load(REPO, hub=hub, dtype=torch.float32, plan=Plan.of(PLAN), progress=False)
    with apply(two_stage(checkpoint), Plan.of(PLAN), files=checkpoint.files):
        pass
    monkeypatch.setattr(_fetch, "free_host_bytes", lambda: 1000)
    with pytest.raises(ValueError, match=r"0\.00 GiB free; let the plan have more on disk"):
        load(REPO, hub=hub, dtype=torch.float32, plan=Plan.of(PLAN), progress=False)


def test_the_lines_that_an_answer_shows_lead_from_the_hub_to_a_video(hub, monkeypatch, tmp_path):
    """What notebook 00 says fits on 24 GiB and 64 loads, enters apply, and runs; here a tiny model is published."""
    found = ltx2.rehearsal("LTX-2.3", width=768, height=512, num_frames=121)
    card = device("RTX 4090", host_memory="64 GiB")
    answer = survey(found, card)
    assert answer.fits
    monkeypatch.setattr(_load, "HuggingFaceHub", lambda: hub)
    hub.repos["diffusers/LTX-2.3-Diffusers"] = hub.repos[REPO]
    small = {"width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 2}
    tiny = rehearse(two_stage(load(REPO, hub=hub, progress=False)), prompt="a heron", **small)
    monkeypatch.setattr(ltx2, "rehearsal", lambda *args, **kwargs: tiny)
    code = answer.code().replace("width=768, height=512, num_frames=121).save", f"**{small!r}).save")
    code = code.replace("'resident': 18", "'resident': 1")  # of four blocks, not of 48
    code = code.replace("plan=plan)", "plan=plan, dtype=torch.float32)").replace("video.mp4", str(tmp_path / "v.mp4"))
    exec(code, {"torch": torch})
    assert (tmp_path / "v.mp4").stat().st_size > 1000


def test_the_upsampler_of_the_variant_is_fetched_where_the_repository_has_none(hub, tmp_path):
    published = hub.repos[REPO]
    shutil.copytree(published / "latent_upsampler", tmp_path / "upsampler" / "latent_upsampler")
    shutil.rmtree(published / "latent_upsampler")
    hub.repos["dg845/LTX-2.3-Spatial-Upsampler-Diffusers"] = tmp_path / "upsampler"
    assert "latent_upsampler" in load(REPO, hub=hub, progress=False).components
    assert [path for path in hub.fetched if path.startswith("dg845/")]


def test_an_unknown_repository_or_layout_is_named(hub, tmp_path):
    with pytest.raises(ValueError, match=r"There is no 'nobody/nothing' on the Hub"):
        load("nobody/nothing", hub=hub)
    hub.repos["Lightricks/LTX-2.3"] = tmp_path / "upsampler"
    (tmp_path / "upsampler").mkdir()
    with pytest.raises(
        ValueError, match=r"has no model_index.json: .* Published in that layout are 'Lightricks/LTX-2'"
    ):
        load("Lightricks/LTX-2.3", hub=hub)


def test_a_shard_that_the_repository_lacks_is_named_before_fetching(hub):
    for file in (hub.repos[REPO] / "vae").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match="no safetensors for vae"):
        load(REPO, hub=hub, progress=False)
    assert not [path for path in hub.fetched if path.endswith(".safetensors")]


def weights_fetched(hub):
    return [path for path in hub.fetched if path.endswith(".safetensors")]


def test_weights_of_one_precision_alone_are_fetched_and_read(hub):
    vae = hub.repos[REPO] / "vae"
    (vae / "diffusion_pytorch_model.fp16.safetensors").unlink()
    (vae / "diffusion_pytorch_model.safetensors").rename(vae / "diffusion_pytorch_model.bf16.safetensors")
    load(REPO, hub=hub, progress=False)
    assert f"{REPO}/vae/diffusion_pytorch_model.bf16.safetensors" in hub.fetched


@pytest.mark.parametrize("name", ["../a.safetensors", "a/b.safetensors", 5])
def test_an_index_names_plain_files_before_weights_are_fetched(hub, name):
    index = hub.repos[REPO] / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match=rf"vae/{index.name} names {name!r}"):
        load(REPO, hub=hub, progress=False)
    assert not weights_fetched(hub)


def test_a_tokenizer_without_a_vocabulary_is_refused_before_weights_are_fetched(hub):
    (hub.repos[REPO] / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer has neither tokenizer.json nor tokenizer.model"):
        load(REPO, hub=hub, progress=False)
    assert not weights_fetched(hub)


def test_a_given_lora_is_checked_before_weights_are_fetched(hub, tmp_path, tiny_ltx2):
    save_file(dict(tiny_ltx2.distilled_lora), tmp_path / "of_another.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    for name, message in (
        ("of_another", r"of_another.safetensors: This LoRA does not fit"),
        ("damaged", r"damaged.safetensors is truncated or damaged"),
        ("absent", r"lora: there is no .*absent.safetensors"),
    ):
        with pytest.raises(ValueError, match=message):
            load(REPO, hub=hub, lora=tmp_path / f"{name}.safetensors", progress=False)
    assert not weights_fetched(hub)


def test_the_variant_asked_for_must_be_the_one_published(hub):
    with pytest.raises(ValueError, match=r"those of LTX-2.3, but you asked for LTX-2.3 distilled"):
        load(REPO, variant="LTX-2.3 distilled", hub=hub, progress=False)


def test_the_plan_adds_up():
    files = tuple(
        FetchedFile(repo=REPO, commit=COMMIT, path=f"{size}", nbytes=size * 2**30, cached=cached)
        for size, cached in ((5, False), (7, True), (2, False))
    )
    given = {"source": REPO, "commit": COMMIT, "variant": "LTX-2.3", "files": files}
    plan = DownloadPlan(**given, free_disk_bytes=8 * 2**30, host_memory_bytes=66 * 2**30, free_host_bytes=64 * 2**30)
    assert (plan.fetch_bytes, plan.cached_bytes) == (7 * 2**30, 7 * 2**30)
    assert plan.problems() == [
        "Host memory does not suffice: 66.00 GiB after loading, 64.00 GiB free; leave weights on disk by a plan: "
        "load(..., plan=residency.survey(rehearsal, card).plan)."
    ]
    assert re.search(r"<td[^>]*>free host memory</td><td[^>]*>64.00 GiB</td>", plan._repr_html_())


def unreachable(*args, **kwargs):
    raise OSError("no route to host")


def test_without_a_network_the_hub_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    with pytest.raises(
        ValueError, match=r"cannot be reached for 'Lightricks/LTX-2' \(no route to host\), and it is not cached"
    ):
        load("Lightricks/LTX-2")


def test_without_a_network_huggingface_hub_itself_is_understood(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # no server listens there
    with pytest.raises(ValueError, match=r"cannot be reached for 'Lightricks/LTX-2' \(.*\), and it is not cached"):
        load("Lightricks/LTX-2")


def test_without_a_network_a_cached_checkpoint_is_loaded(hub, monkeypatch, tmp_path):
    """Through `huggingface_hub` itself, with a cache as it lays one out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    cached = tmp_path / "hf" / "models--someone--LTX-2.3-tiny"
    shutil.copytree(hub.repos[REPO], cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    loaded = load(REPO, two_stage=False, progress=False)
    assert (loaded.revision, loaded.variant.name, loaded.untrained) == (COMMIT, "LTX-2.3", True)


def test_for_one_stage_neither_upsampler_nor_lora_is_fetched(hub):
    load(REPO, two_stage=False, hub=hub, progress=False)
    assert not [
        path for path in hub.fetched if path.endswith(".safetensors") and ("lora" in path or "upsampler" in path)
    ]


def test_a_listing_has_the_hubs_commit_and_files(monkeypatch):
    class Answer:
        sha = COMMIT
        siblings = ()

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **kwargs: Answer)
    assert HuggingFaceHub().listing(REPO, None) == RepositoryListing(COMMIT, {})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "There is no 'a/b' on the Hub"),
        ("RevisionNotFoundError", "'a/b' has no revision 'v9'"),
    ],
)
def test_what_the_hub_does_not_have_is_named(monkeypatch, error, message):
    response = httpx.Response(404, request=httpx.Request("GET", "https://example.org"))

    def refuse(*args, **kwargs):
        raise getattr(errors, error)("not found", response=response)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(ValueError, match=message):
        load("a/b", revision="v9")
