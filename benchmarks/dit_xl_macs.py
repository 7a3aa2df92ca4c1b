"""Multiply-adds of DiT-XL/2 at 256 × 256 for 20 steps, against the paper's Table 1 (dense: 2.37 T).

How the paper's 2.37 T is reached: one pass of the denoiser over one image of 32 × 32 latents takes 118.67 G MACs, and
20 steps take 20 such passes. It is therefore

- in MACs (one multiplication and one addition count once); in FLOPs it would be 4.75 T. The DiT paper's 118.6 "Gflops"
  are MACs too;
- without the unconditional half of classifier-free guidance, although the paper samples with a scale of 2.1: with it
  every step has two rows, and an image takes 4.75 T MACs. Diff-ES counts guidance, so it reports 4.75 T;
- without the VAE.

The pruned rows of Table 1 are compared as well: the paper's MACs, as a share of its dense ones, next to the share that
is left when every layer loses the stated sparsity. The paper's shares lie within 0.003 of 85, 90, 85, 70, 60 and 50 %,
whichever sparsity is stated beside them; a count of the stated one is up to 4 points lower. So compare pruned MACs with
a count, not with the paper's column.

The model has no weights: it is built on the meta device from the published configuration (28 blocks, 16 heads of 72,
patch 2), since shapes are all that counting needs.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from diffusers import DiTTransformer2DModel

from diff_es.denoisers import count_macs, macs_by_module
from results import add_output_option, finish

STEPS = 20
PAPER_DENSE_T = 2.37
#: (method, sparsity in %, MACs in T) of the paper's Table 1; the Diff-ES rows.
PAPER_ROWS = (
    ("LayerDrop", 17.80, 2.02),
    ("Wanda", 12.50, 2.13),
    ("Wanda", 18.75, 2.02),
    ("OBS", 31.25, 1.66),
    ("OBS", 43.75, 1.42),
    ("OBS", 50.00, 1.19),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_option(parser)
    arguments = parser.parse_args()
    numbers = count()
    print(in_words(numbers))
    finish({"benchmark": "dit_xl_macs", **numbers}, arguments.json)


def count() -> dict[str, Any]:
    """Count one pass, and what follows from it."""
    with torch.device("meta"):
        model = dit_xl()
    once, guided = count_macs(model, call(rows=1)), count_macs(model, call(rows=2))
    modules = macs_by_module(model, call(rows=1))
    prunable = sum(macs for path, macs in modules.items() if path.endswith((".attn1", ".ff")))
    blocks = sum(modules[f"transformer_blocks.{index}"] for index in range(len(model.transformer_blocks)))
    total = once * STEPS
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": STEPS,
        "macs_of_one_pass": once,
        "macs_without_guidance": total,
        "macs_with_guidance": guided * STEPS,
        "prunable_share": prunable / once,
        "paper_macs": PAPER_DENSE_T * 1e12,
        "counted_over_paper": total / (PAPER_DENSE_T * 1e12),
        "rows": [_row(*row, total=total, shares=(blocks / once, prunable / once)) for row in PAPER_ROWS],
    }


def dit_xl() -> DiTTransformer2DModel:
    """DiT-XL/2 for 256 × 256 images as published."""
    return DiTTransformer2DModel(
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
        num_layers=28,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        activation_fn="gelu-approximate",
        attention_bias=True,
    ).eval()


def call(rows: int) -> dict[str, torch.Tensor]:
    """One denoiser call on latents of 32 × 32."""
    with torch.device("meta"):
        numbers = torch.zeros(rows, dtype=torch.int64)
        return {"hidden_states": torch.zeros(rows, 4, 32, 32), "timestep": numbers, "class_labels": numbers}


def _row(method: str, sparsity: float, paper: float, *, total: int, shares: tuple[float, float]) -> dict[str, Any]:
    """Compare a pruned row with what its sparsity leaves; whole blocks go at LayerDrop, attention and FFN elsewhere."""
    share = shares[0] if method == "LayerDrop" else shares[1]
    left = total * (1 - sparsity / 100 * share)
    return {
        "method": method,
        "sparsity_percent": sparsity,
        "paper_macs": paper * 1e12,
        "macs_left_by_that_sparsity": round(left),
        "paper_share_of_its_dense": paper / PAPER_DENSE_T,
        "share_left_by_that_sparsity": left / total,
    }


def in_words(numbers: dict[str, Any]) -> str:
    """Say how the paper's number is reached, and where its pruned rows differ from a count."""
    lines = [
        f"DiT-XL/2, 256 × 256: one pass {numbers['macs_of_one_pass'] / 1e9:.2f} G MACs; {STEPS} passes "
        f"{numbers['macs_without_guidance'] / 1e12:.3f} T MACs, {numbers['counted_over_paper']:.4f} of the paper's "
        f"{PAPER_DENSE_T} T.",
        "So the paper counts MACs (not FLOPs), one row per step (no guidance) and no VAE. With the unconditional half "
        f"of guidance, which Diff-ES counts, an image takes {numbers['macs_with_guidance'] / 1e12:.3f} T.",
        "Pruned rows of Table 1, MACs as a share of dense: the paper's, and what the stated sparsity leaves:",
    ]
    lines += [
        f"  {row['method']:<9} {row['sparsity_percent']:5.2f} %: paper {row['paper_share_of_its_dense']:.3f}, "
        f"counted {row['share_left_by_that_sparsity']:.3f}"
        for row in numbers["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
