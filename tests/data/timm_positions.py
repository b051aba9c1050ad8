"""Prints positions resampled by timm, as JSON: `python timm_positions.py > timm_positions.json`."""

import json

import torch
from timm.layers import resample_abs_pos_embed

lines = []
for prefix, dim, old, new in [(1, 3, 4, 7), (2, 3, 7, 4), (1, 1, 14, 24), (2, 1, 24, 14), (0, 2, 4, 7)]:
    tokens = prefix + old * old
    # Any values that another program can make exactly.
    positions = (torch.arange(tokens * dim) * 37 % 101 / 64 - 0.75).reshape(1, tokens, dim)
    new_positions = resample_abs_pos_embed(positions, [new, new], num_prefix_tokens=prefix)
    # Nine digits tell every f32 from its neighbours.
    values = ", ".join(f"{value:.9g}" for value in new_positions.flatten().tolist())
    case = {"prefix": prefix, "dim": dim, "old_grid": old, "new_grid": new}
    lines.append(f'{json.dumps(case)[:-1]}, "positions": [{values}]}}')
print("[\n" + ",\n".join(lines) + "\n]")
