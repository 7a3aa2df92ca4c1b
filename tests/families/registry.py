"""All families of the contract suite, one entry each. A new architecture is a spec file and one entry here."""

from __future__ import annotations

from families import joint, transformers, unets
from families.family import Family, channels, each, heads

#: Blocks that return text and image tokens, in this order.
_BOTH = ("encoder_hidden_states", "hidden_states")
_DIT = {"attn1": heads(4), "attn2": heads(4), "ff": channels(128)}
_JOINT = {"attn": heads(4), "ff": channels(128), "ff_context": channels(128)}
_SINGLE = (("head", 4), ("channel", 128))
_SINGLE_2 = (("head", 4), ("channel", 96))
_MIDDLE = "attentions.0.transformer_blocks"


def _blocks(stack: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stack}.{index}" for index in range(count))


_DOWN = (f"down_blocks.1.{_MIDDLE}", f"mid_block.{_MIDDLE}")
_UP = tuple(f"up_blocks.0.attentions.{index}.transformer_blocks" for index in range(2))


def _unet(count: int, *stacks: str) -> tuple[str, ...]:
    return tuple(path for stack in stacks for path in _blocks(stack, count))


FAMILIES: tuple[Family, ...] = (
    Family(
        "DiT",
        transformers.dit,
        transformers.dit_call,
        each(_blocks("transformer_blocks", 2), {"attn1": heads(4), "ff": channels(128)}),
    ),
    Family(
        "PixArt-α, PixArt-Σ",
        transformers.pixart,
        transformers.pixart_call,
        each(_blocks("transformer_blocks", 2), _DIT),
    ),
    Family("Stable Diffusion 1.5, 2", unets.sd15, unets.sd15_call, each(_unet(1, *_DOWN, *_UP), _DIT), positional=2),
    Family("Stable Diffusion XL", unets.sdxl, unets.sdxl_call, each(_unet(2, *_DOWN), _DIT), positional=2),
    Family(
        "Stable Diffusion 3",
        joint.sd3,
        joint.sd3_call,
        {
            **each(("transformer_blocks.0",), _JOINT),
            **each(("transformer_blocks.1",), {"attn": heads(4), "ff": channels(128)}),
        },
        passes={"": _BOTH},
    ),
    Family(
        "Stable Diffusion 3.5",
        joint.sd35,
        joint.sd3_call,
        {
            **each(("transformer_blocks.0",), {"attn": heads(4), "attn2": heads(4), **_JOINT}),
            **each(("transformer_blocks.1",), {"attn": heads(4), "ff": channels(128)}),
        },
        passes={"": _BOTH},
    ),
    Family(
        "FLUX.1",
        joint.flux,
        joint.flux_call,
        {**each(("transformer_blocks.0",), _JOINT), **each(_blocks("single_transformer_blocks", 2), {"": _SINGLE})},
        passes={"": _BOTH},
    ),
    Family(
        "FLUX.2",
        joint.flux2,
        joint.flux2_call,
        {
            **each(("transformer_blocks.0",), {**_JOINT, "ff": channels(96), "ff_context": channels(96)}),
            **each(_blocks("single_transformer_blocks", 2), {"attn": _SINGLE_2}),
        },
        passes={"": _BOTH, "single_transformer_blocks": ("hidden_states",)},
    ),
    Family(
        "Sana 1.0",
        transformers.sana,
        transformers.sana_call,
        each(_blocks("transformer_blocks", 2), {"attn1": heads(4), "attn2": heads(2), "ff": channels(80)}),
        linear_attention=("attn1",),
    ),
    Family(
        "Sana 1.5",
        transformers.sana15,
        transformers.sana15_call,
        each(_blocks("transformer_blocks", 2), {"attn1": heads(4), "attn2": heads(2), "ff": channels(80)}),
        smaller=transformers.smaller_sana,
        linear_attention=("attn1",),
    ),
    Family(
        "HunyuanDiT",
        transformers.hunyuan_dit,
        transformers.hunyuan_dit_call,
        each(_blocks("blocks", 4), _DIT),
        positional=2,
    ),
    Family(
        "Lumina-Image 2",
        joint.lumina2,
        joint.lumina2_call,
        each(
            ("context_refiner.0", "noise_refiner.0", *_blocks("layers", 2)),
            {"attn": heads(4), "feed_forward": channels(128)},
        ),
        on_meta=False,
        whole_graph=False,
    ),
    Family(
        "Z-Image",
        joint.z_image,
        joint.z_image_call,
        each(
            ("noise_refiner.0", "context_refiner.0", *_blocks("layers", 2)),
            {"attention": heads(4), "feed_forward": channels(85)},
        ),
        passes={"": ("x",)},
        positional=3,
        whole_graph=False,
    ),
    Family(
        "Qwen-Image",
        joint.qwen_image,
        joint.qwen_image_call,
        each(_blocks("transformer_blocks", 2), {"attn": heads(4), "img_mlp": channels(128), "txt_mlp": channels(128)}),
        passes={"": _BOTH},
    ),
    Family(
        "Wan (text to video)",
        transformers.wan,
        transformers.wan_call,
        each(_blocks("blocks", 2), {"attn1": heads(4), "attn2": heads(4), "ffn": channels(32)}),
        smaller=transformers.smaller_wan,
    ),
    Family(
        "Wan (image to video)",
        transformers.wan_with_image,
        transformers.wan_with_image_call,
        each(_blocks("blocks", 2), {"attn1": heads(4), "attn2": heads(4), "ffn": channels(32)}),
        smaller=transformers.smaller_wan,
    ),
)
