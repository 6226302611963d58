"""The cores as one would write them in PyTorch from the papers: what the fused cores are measured against.

They use the parameters of the library's cores and give the same results.
"""

import torch
from torch import Tensor

from mnm_rl import GruCore, LstmCore, MnmCore, PlasticCore


def naive_mnm(core: MnmCore, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and meta-loss of one episode, with the gradient of rule g from autograd."""
    _, B, _ = inputs.shape
    H, D, M = core.heads, core.hidden_size, core.memory_size
    theta = [W.expand(B, M, M) for W in core.memory.theta_0]
    h = c = inputs.new_zeros(B, D)
    read = inputs.new_zeros(B, M)
    outputs, meta_loss = [], []

    def run(keys: Tensor) -> list[Tensor]:
        z = [keys]
        for W in theta[:-1]:
            z.append(torch.tanh(z[-1] @ W.mT))
        return [*z, z[-1] @ theta[-1].mT]

    for x in inputs:
        h, c = core.controller(torch.cat([x, read], dim=1), (h, c))
        u = torch.tanh(core.interaction(h))
        beta = torch.sigmoid(core.write_strength(u[:, :D])).view(B, 1, 1)
        keys, values, read_keys = u[:, D:].view(B, H, 3, M).unbind(2)
        if core.memory.write_rule == "delta":
            keys, read_keys = (k / k.norm(dim=2, keepdim=True) for k in (keys, read_keys))
            gradients: tuple[Tensor, ...] = ((run(keys)[-1] - values).mT @ keys / H,)
        elif core.memory.write_rule == "g":
            theta = [W.view_as(W) for W in theta]  # the keys depend on theta, through the last read: not part of the write
            loss = (run(keys)[-1] - values).pow(2).mean(dim=(1, 2)).sum()
            gradients = torch.autograd.grad(loss, theta, create_graph=True)
        else:
            z = run(keys)
            targets = core.memory.rule.feedback(values).view(B, H, core.memory.layers, M).unbind(2)
            gradients = tuple(
                2 / (H * M) * (z_out - target).mT @ z_in for z_in, z_out, target in zip(z[:-1], z[1:], targets, strict=True)
            )
        theta = [W - beta * G for W, G in zip(theta, gradients, strict=True)]
        read = run(read_keys)[-1].mean(dim=1)
        meta_loss.append((run(keys)[-1] - values).pow(2).mean(dim=(1, 2)))
        outputs.append(core.output(torch.cat([h, read], dim=1)))
    return torch.stack(outputs), torch.stack(meta_loss)


def naive_plastic(core: PlasticCore, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of one episode, by the rules ``hebb`` and ``modulated``, and no meta-loss."""
    T, B, _ = inputs.shape
    D = core.hidden_size
    h, hebb = inputs.new_zeros(B, D), inputs.new_zeros(B, D, D)
    outputs = []
    for x in inputs:
        before = h
        h = torch.tanh(core.input(x) + ((core.w + core.alpha * hebb) @ before.unsqueeze(2)).squeeze(2))
        rate = core.fan_out(torch.tanh(core.modulator(h))) if core.rule == "modulated" else core.eta.expand(B, D)
        hebb = torch.clip(hebb + (rate * h).unsqueeze(2) * before.unsqueeze(1), -1, 1)
        outputs.append(h)
    return torch.stack(outputs), inputs.new_zeros(T, B)


def whole_gru(core: GruCore, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of one episode by ``torch.nn.GRU``, which cannot reset in the middle, and no meta-loss."""
    cell = core.cell
    zeros = inputs.new_zeros(1, inputs.shape[1], core.hidden_size)
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    outputs, _ = torch.gru(inputs, zeros, weights, True, 1, 0.0, True, False, False)
    return outputs, inputs.new_zeros(inputs.shape[:2])


def whole_lstm(core: LstmCore, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of one episode by ``torch.nn.LSTM``, which cannot reset in the middle, and no meta-loss."""
    cell = core.cell
    zeros = inputs.new_zeros(1, inputs.shape[1], core.hidden_size)
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    outputs, _, _ = torch.lstm(inputs, (zeros, zeros), weights, True, 1, 0.0, True, False, False)
    return outputs, inputs.new_zeros(inputs.shape[:2])
