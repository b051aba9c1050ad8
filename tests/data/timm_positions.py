"""Prints positions resampled by timm, as JSON: `python timm_positions.py > timm_positions.json`."""

import json

import torch
from timm.layers import resample_abs_pos_embed, to_2tuple

lines = []
GRIDS = [(1, 3, 4, 7), (2, 3, 7, 4), (1, 1, 14, 24), (2, 1, 24, 14), (0, 2, 4, 7)]
# Rows and columns; the last has as many patches before and after.
GRIDS += [(1, 2, 6, (4, 8)), (2, 2, (3, 8), 5), (1, 3, (4, 9), 6)]
for prefix, dim, old, new in GRIDS:
    (rows, columns), new = (to_2tuple(grid) for grid in (old, new))
    tokens = prefix + rows * columns
    # Any values that another program can make exactly.
    positions = (torch.arange(tokens * dim) * 37 % 101 / 64 - 0.75).reshape(1, tokens, dim)
    new_positions = resample_abs_pos_embed(positions, new, (rows, columns), num_prefix_tokens=prefix)
    # Nine digits tell every f32 from its neighbours.
    values = ", ".join(f"{value:.9g}" for value in new_positions.flatten().tolist())
    case = {"prefix": prefix, "dim": dim, "old_grid": (rows, columns), "new_grid": new}
    lines.append(f'{json.dumps(case)[:-1]}, "positions": [{values}]}}')
print("[\n" + ",\n".join(lines) + "\n]")
