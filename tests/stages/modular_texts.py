"""Text encoders and tokenizers of a few thousand parameters, for the prompt encoder blocks of Modular Diffusers.

    parts, request = PROMPTED["FluxAutoBlocks"]
    parts()["tokenizer"]("a heron").input_ids

A tokenizer knows bytes or characters and the marks that its blocks write, so every prompt has a reading and none
needs a file. Encoders are as deep as the layers that the blocks read.
"""

import transformers
from tokenizers.pre_tokenizers import ByteLevel

TEXT = 32  # width of an embedded prompt, as in modular_models
ROWS = 520  # of every embedding table: as many as the largest vocabulary needs
ALPHABET = sorted(ByteLevel.alphabet())
MARKS = [f"<|{mark}|>" for mark in ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")]
CHAT = """{%- for message in messages -%}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{% if part.type == 'text' %}{{ part.text }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def qwen_tokenizer(**more):
    vocab = {token: index for index, token in enumerate(["<|endoftext|>", *ALPHABET, *MARKS])}
    return transformers.Qwen2Tokenizer(
        vocab=vocab, merges=[], extra_special_tokens=MARKS, chat_template=CHAT, model_max_length=512, **more
    )


def clip_tokenizer():
    letters = [*ALPHABET, *(f"{letter}</w>" for letter in ALPHABET)]
    vocab = {token: index for index, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def t5_tokenizer():
    letters = [("▁", -2.0), *((chr(code), -3.0) for code in range(33, 127))]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)


def clip(kind=transformers.CLIPTextModel, width=TEXT, projection_dim=TEXT // 2):
    return kind(
        transformers.CLIPTextConfig(
            vocab_size=ROWS, hidden_size=width, intermediate_size=TEXT, num_hidden_layers=2, num_attention_heads=2,
            projection_dim=projection_dim, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


def t5(kind=transformers.T5EncoderModel, config=transformers.T5Config):
    return kind(
        config(
            vocab_size=ROWS, d_model=TEXT, d_kv=8, d_ff=TEXT, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
        )
    )


def decoder(layers, **more):
    """What the configurations of all decoders with grouped heads share."""
    return {
        "vocab_size": ROWS, "hidden_size": TEXT, "intermediate_size": TEXT, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, **more,
    }  # fmt: skip


def qwen3(kind=transformers.Qwen3Model, layers=2):
    return kind(transformers.Qwen3Config(**decoder(layers)))


MARKED = {
    f"{name}_token_id": 1 + len(ALPHABET) + MARKS.index(f"<|{mark}|>")
    for name, mark in {
        "vision_start": "vision_start", "vision_end": "vision_end", "image": "image_pad", "video": "video_pad"
    }.items()
}  # fmt: skip
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}


def qwen25(kind=transformers.Qwen2_5_VLForConditionalGeneration):
    seen = {
        "depth": 1, "hidden_size": TEXT, "intermediate_size": TEXT, "num_heads": 2, "out_hidden_size": TEXT,
        "patch_size": 14, "fullatt_block_indexes": [0],
    }  # fmt: skip
    text = decoder(3, rope_parameters=ROTARY)
    if kind is transformers.Qwen2_5_VLTextModel:
        return kind(transformers.Qwen2_5_VLTextConfig(**text))
    return kind(transformers.Qwen2_5_VLConfig(text_config=text, vision_config=seen, **MARKED))


def qwen3vl(kind=transformers.Qwen3VLForConditionalGeneration, layers=36):
    seen = {
        "depth": 1, "hidden_size": TEXT, "intermediate_size": TEXT, "num_heads": 2, "out_hidden_size": TEXT,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [],
    }  # fmt: skip
    text = decoder(layers, rope_parameters={**ROTARY, "mrope_interleaved": True})
    return kind(transformers.Qwen3VLConfig(text_config=text, vision_config=seen, **MARKED))


def mistral3(kind=transformers.Mistral3ForConditionalGeneration):
    seen = {"hidden_size": TEXT, "intermediate_size": TEXT, "num_hidden_layers": 1, "num_attention_heads": 2}
    return kind(
        transformers.Mistral3Config(
            text_config=transformers.MistralConfig(**decoder(3)), vision_config=transformers.PixtralVisionConfig(**seen)
        )
    )


class TextProcessor(transformers.Qwen3VLProcessor):
    """A Qwen 3 VL processor for text alone: that for videos cannot be made without torchvision."""

    def __init__(self, tokenizer=None, chat_template=None):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        transformers.ProcessorMixin.__init__(self, tokenizer, chat_template=chat_template)


def text_processor():
    return TextProcessor(qwen_tokenizer(), chat_template=CHAT)


def flux():
    return {
        "text_encoder": clip(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5(),
        "tokenizer_2": t5_tokenizer(),
    }


def stable_diffusion_xl():
    tokenizers = {"tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer()}
    projected = clip(transformers.CLIPTextModelWithProjection, width=TEXT // 2, projection_dim=TEXT)
    return {**tokenizers, "text_encoder": clip(width=TEXT // 2), "text_encoder_2": projected}


def stable_diffusion_3():
    tokenizers = {"tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer(), "tokenizer_3": t5_tokenizer()}
    one, two = (clip(transformers.CLIPTextModelWithProjection, width=TEXT // 2) for _ in range(2))
    return {**tokenizers, "text_encoder": one, "text_encoder_2": two, "text_encoder_3": t5()}


def umt5():
    return {"text_encoder": t5(transformers.UMT5EncoderModel, transformers.UMT5Config), "tokenizer": t5_tokenizer()}


def seen_by_clip():
    config = transformers.CLIPVisionConfig(
        hidden_size=TEXT,
        intermediate_size=TEXT,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28)
    return {**umt5(), "image_encoder": transformers.CLIPVisionModel(config), "image_processor": processor}


def hunyuan():
    own = {"text_encoder": qwen25(transformers.Qwen2_5_VLTextModel), "tokenizer": qwen_tokenizer()}
    return {**own, "text_encoder_2": t5(), "tokenizer_2": transformers.ByT5Tokenizer()}


def of(encoder, tokenizer=qwen_tokenizer, name="tokenizer"):
    return lambda: {"text_encoder": encoder(), name: tokenizer()}


def anima():
    return {"text_encoder": qwen3(), "tokenizer": qwen_tokenizer(), "t5_tokenizer": t5_tokenizer()}


def minimax():
    own = {"text_encoder": qwen3vl(layers=51), "tokenizer": qwen_tokenizer()}
    return {**own, "processor": text_processor()}


def upsampled(encoder):
    """The encoder of Flux 3, which reads what its upsampler made of a prompt."""
    seen = {"depth": 1, "hidden_size": TEXT, "intermediate_size": TEXT, "num_heads": 2, "out_hidden_size": TEXT}
    text = decoder(2, layer_types=["linear_attention", "full_attention"], rope_parameters=ROTARY)
    linear = {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
    }
    config = transformers.Qwen3_5Config(text_config={**text, **linear}, vision_config=seen, **MARKED)
    writer = transformers.Qwen3_5ForConditionalGeneration(config)
    processors = {"tokenizer": text_processor(), "prompt_upsampler_processor": text_processor()}
    return {"text_encoder": encoder, "prompt_upsampler": writer, **processors}


def none():
    """What a composition needs beside its own parts: LTX-2's tiny checkpoint has its text encoder."""
    return {}


PROMPT = {"prompt": "a heron over a weir"}
NEGATIVE = {**PROMPT, "negative_prompt": "blurry"}
SHORT = {"max_sequence_length": 32}
FIRST = {**SHORT, "text_encoder_out_layers": (1,)}  # of Flux 2: one layer is as wide as the embedding

#: Makers of a composition's text encoders with their tokenizers, and what a request then says of the prompt.
PROMPTED = {
    "FluxAutoBlocks": (flux, {**PROMPT, **SHORT}),
    "StableDiffusionXLAutoBlocks": (stable_diffusion_xl, NEGATIVE),
    "StableDiffusion3AutoBlocks": (stable_diffusion_3, {**NEGATIVE, **SHORT}),
    "Flux2AutoBlocks": (of(mistral3), {**PROMPT, **FIRST}),
    "Flux2KleinAutoBlocks": (of(lambda: qwen3(transformers.Qwen3ForCausalLM)), {**PROMPT, **FIRST}),
    "QwenImageAutoBlocks": (of(qwen25), {**NEGATIVE, **SHORT}),
    "QwenImage21AutoBlocks": (of(lambda: qwen3vl(layers=2), text_processor, "processor"), NEGATIVE),
    "WanBlocks": (umt5, {**NEGATIVE, **SHORT}),
    "WanImage2VideoAutoBlocks": (seen_by_clip, {**NEGATIVE, **SHORT}),
    "ZImageAutoBlocks": (of(qwen3), {**NEGATIVE, **SHORT}),
    "LTXAutoBlocks": (of(t5, t5_tokenizer), {**NEGATIVE, **SHORT}),
    "HunyuanVideo15AutoBlocks": (hunyuan, {**NEGATIVE, "prompt": 'a sign that reads "weir"'}),
    "ErnieImageAutoBlocks": (of(lambda: mistral3(transformers.Mistral3Model)), {**NEGATIVE, "use_pe": False}),
    "Krea2AutoBlocks": (of(lambda: qwen3vl(transformers.Qwen3VLModel)), {**NEGATIVE, **SHORT}),
    "AnimaAutoBlocks": (anima, NEGATIVE),
    "HeliosAutoBlocks": (umt5, {**NEGATIVE, **SHORT}),
    "Cosmos3OmniBlocks": (lambda: {"text_tokenizer": qwen_tokenizer()}, NEGATIVE),
    "Cosmos3DistilledBlocks": (lambda: {"text_tokenizer": qwen_tokenizer()}, PROMPT),
    "Flux3AutoBlocks": (lambda: upsampled(qwen3vl(layers=2)), {**NEGATIVE, **FIRST, "max_new_tokens": 4}),
    "Flux3DistilledAutoBlocks": (lambda: upsampled(qwen3vl(layers=2)), {**PROMPT, **FIRST, "max_new_tokens": 4}),
    "Ideogram4AutoBlocks": (of(lambda: qwen3vl(transformers.Qwen3VLModel)), {**PROMPT, "max_sequence_length": 64}),
    "LTX2AutoBlocks": (none, {**NEGATIVE, "max_sequence_length": 128}),
    "LTX25AutoBlocks": (none, {**NEGATIVE, "max_sequence_length": 128}),
    "MiniMaxH3Blocks": (minimax, PROMPT),
}
