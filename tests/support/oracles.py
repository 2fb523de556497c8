"""The ops by their definitions in float64, without shared code: pixel by pixel, token by token."""

import itertools
import math

import numpy as np
import torch
from scipy.special import erf, softmax
from torch import Tensor


def sobel_stem_oracle(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Compute each pixel from the definition, float64: x [H, W] -> [C0, ceil(H/2), ceil(W/2)]."""
    height, width = x.shape
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    channels = np.zeros((4, height, width))
    for i in range(height):
        for j in range(width):
            rows = np.clip([i - 1, i, i + 1], 0, height - 1)
            columns = np.clip([j - 1, j, j + 1], 0, width - 1)
            patch = x[np.ix_(rows, columns)]
            gx, gy = (kernel * patch).sum(), (kernel.T * patch).sum()
            channels[:, i, j] = x[i, j], gx, gy, math.sqrt(gx**2 + gy**2 + 1e-6)
    out = np.full((len(weight), -(-height // 2), -(-width // 2)), np.nan)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            y = bias.copy()
            for di in range(3):
                for dj in range(3):
                    r, c = 2 * i + di - 1, 2 * j + dj - 1
                    if 0 <= r < height and 0 <= c < width:
                        y += weight[:, :, di, dj] @ channels[:, r, c]
            out[:, i, j] = 0.5 * y * (1 + erf(y / math.sqrt(2)))
    return out


def window_attention_oracle(
    qkv: Tensor, bias: Tensor, beta: Tensor, gates: Tensor, *, window: int, shift: int
) -> Tensor:
    """Compute each token over a list of its neighbours, with T separate softmaxes, float64."""
    batch, height, width, c3 = qkv.shape
    heads, octaves = gates.shape
    d = c3 // 3 // heads
    q, k, v = qkv.double().reshape(batch, height, width, 3, heads, d).unbind(3)
    out = torch.full((batch, height, width, heads, d), math.nan, dtype=torch.float64)

    def cell(i: int, length: int) -> tuple[int, int, bool]:
        """Return the window, the place in it, and whether the token wrapped around."""
        j = (i - shift) % length
        return j // window, j % window, shift > 0 and i < shift

    tokens = list(itertools.product(range(height), range(width)))
    where = {(y, x): (cell(y, height), cell(x, width)) for y, x in tokens}
    for y, x in tokens:
        (wy, py, ry), (wx, px, rx) = where[y, x]
        neighbours = [
            (y2, x2)
            for y2, x2 in tokens
            if (wy, ry, wx, rx)
            == (where[y2, x2][0][0], where[y2, x2][0][2], where[y2, x2][1][0], where[y2, x2][1][2])
        ]
        places = [where[n][0][1] * window + where[n][1][1] for n in neighbours]
        ys, xs = [n[0] for n in neighbours], [n[1] for n in neighbours]
        for h in range(heads):
            scores = torch.einsum("bd,bnd->bn", q[:, y, x, h], k[:, ys, xs, h]) / math.sqrt(d)
            scores = scores + bias[h, py * window + px, places].double()
            for t in range(octaves):
                p = torch.softmax(2**t * beta[h].double() * scores, dim=-1)
                if t == 0:
                    out[:, y, x, h] = 0
                out[:, y, x, h] += gates[h, t].double() * torch.einsum(
                    "bn,bnd->bd", p, v[:, ys, xs, h]
                )
    return out.reshape(batch, height, width, heads * d)


def layer_norm_oracle(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Normalise each token: x [tokens, C]."""
    rows = [(row - row.mean()) / math.sqrt(row.var() + 1e-5) for row in x]
    return np.stack(rows) * weight + bias


def attention_block_oracle(x: Tensor, *parameters: Tensor, window: int, shift: int) -> Tensor:
    """Compute ``attention_block`` of x [B, H, W, C] and its parameters, float64."""
    *layers, position_bias, beta, gates = parameters
    tokens, w, b, qkv_w, qkv_b, proj_w, proj_b = (t.double().numpy() for t in (x, *layers))
    tokens = tokens.reshape(-1, x.shape[3])
    qkv = layer_norm_oracle(tokens, w, b) @ qkv_w.T + qkv_b
    qkv = torch.from_numpy(qkv).reshape(*x.shape[:3], -1)
    attended = window_attention_oracle(qkv, position_bias, beta, gates, window=window, shift=shift)
    out = tokens + attended.numpy().reshape(tokens.shape) @ proj_w.T + proj_b
    return torch.from_numpy(out).reshape(x.shape)


def mlp_oracle(x: Tensor, *layers: Tensor) -> Tensor:
    """Compute ``mlp`` of x [..., C] and its parameters, float64."""
    tokens, w, b, fc1_w, fc1_b, fc2_w, fc2_b = (t.double().numpy() for t in (x, *layers))
    tokens = tokens.reshape(-1, x.shape[-1])
    hidden = layer_norm_oracle(tokens, w, b) @ fc1_w.T + fc1_b
    hidden = 0.5 * hidden * (1 + erf(hidden / math.sqrt(2)))
    return torch.from_numpy(tokens + hidden @ fc2_w.T + fc2_b).reshape(x.shape)


def fused_linear_oracle(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    gelu: bool,
    merge: bool = False,
) -> Tensor:
    """Compute ``fused_linear`` of x [..., C] and its parameters, float64."""
    if merge:
        corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = torch.cat(corners, dim=-1)
    tokens = x.double().numpy().reshape(-1, x.shape[-1])
    if norm_weight is not None and norm_bias is not None:
        tokens = layer_norm_oracle(tokens, norm_weight.double().numpy(), norm_bias.double().numpy())
    out = tokens @ weight.double().numpy().T
    if bias is not None:
        out = out + bias.double().numpy()
    if gelu:
        out = 0.5 * out * (1 + erf(out / math.sqrt(2)))
    if residual is not None:
        out = residual.double().numpy().reshape(out.shape) + out
    return torch.from_numpy(out).reshape(*x.shape[:-1], len(weight))


def ordinal_head_oracle(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, grades: Tensor
) -> Tensor:
    """Compute ``ordinal_head`` of x [B, N, F + D] image by image, float64."""
    w, b, g = (tensor.double().numpy() for tensor in (weight, bias, grades))
    rows = []
    for tokens in x.double().numpy():
        votes = np.stack([softmax(token[: len(g)]) for token in tokens])
        weights = softmax(tokens[:, len(g)])
        mixture = sum(u * vote for u, vote in zip(weights, votes, strict=True))
        pooled = sum(u * token[-w.shape[1] :] for u, token in zip(weights, tokens, strict=True))
        hidden = 0.5 * pooled * (1 + erf(pooled / math.sqrt(2)))
        probs = softmax(w @ hidden + b + gain.item() * np.log(mixture + 1e-4))
        rows.append(np.concatenate([[probs @ g], probs, votes @ g]))
    return torch.from_numpy(np.stack(rows))


def region_statistics_oracle(
    x: Tensor, shift: Tensor, scale: Tensor, *, region_h: int, region_w: int, log: bool
) -> Tensor:
    """Compute ``region_statistics`` of x [B, H, W, C] region by region, float64."""
    batch, h, w, c = x.shape
    x, shift, scale = x.double(), shift.double(), scale.double()
    out = torch.full((batch, h // region_h, w // region_w, 2 * c), math.nan, dtype=torch.float64)
    for b, i, j, k in itertools.product(range(batch), *map(range, out.shape[1:3]), range(c)):
        values = [
            x[b, i * region_h + y, j * region_w + z, k].item()
            for y in range(region_h)
            for z in range(region_w)
        ]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
        spread = math.log(variance + 1e-4) / 2 if log else math.sqrt(variance + 1e-6)
        out[b, i, j, k] = (mean - shift[k]) * scale[k]
        out[b, i, j, c + k] = (spread - shift[c + k]) * scale[c + k]
    return out
