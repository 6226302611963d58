"""The cores as one would write them in PyTorch from the papers: what the fused cores are measured
against.

They use the parameters of the library's cores and give the same results.
"""

import torch
from torch import Tensor, nn

from mnm_rl import GruCore, LstmCore, MnmCore, PlasticCore


def naive_mnm(core: MnmCore, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and meta-loss of one episode, with the gradient of rule g from autograd."""
    _, B, _ = inputs.shape
    H, D, M, rule = core.heads, core.hidden_size, core.memory_size, core.memory.rule
    theta = [W.expand(B, M, M) for W in core.memory.theta_0]
    h = c = inputs.new_zeros(B, D)
    read = inputs.new_zeros(B, M)
    outputs, meta_loss = [], []

    def run(keys: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What the layers give, the keys first, and the same before its tanh."""
        z, before = [keys], []
        for W in theta:
            before.append(z[-1] @ W.mT)
            z.append(torch.tanh(before[-1]))
        return [*z[:-1], before[-1]], before

    for x in inputs:
        seen = torch.cat([x, read], dim=1)
        if isinstance(core.controller, nn.GRUCell):
            h = core.controller(seen, h)
        else:
            h, c = core.controller(seen, (h, c))
        u = torch.tanh(core.interaction(h))
        beta = torch.sigmoid(core.write_strength(u[:, :D])).view(B)
        keys, values, read_keys = u[:, D:].view(B, H, 3, M).unbind(2)
        if rule.bounded:
            keys, read_keys = (k / k.norm(dim=2, keepdim=True) for k in (keys, read_keys))
        z, before = run(keys)
        if core.memory.write_rule == "p":
            targets = [*rule.feedback(values).view(B, H, core.memory.layers, M).unbind(2)]
            if rule.bounded:
                targets[:-1] = [target.tanh() for target in targets[:-1]]
            deltas = [z_out - target for z_out, target in zip(z[1:], targets, strict=True)]
        else:
            half = (z[-1] - values).pow(2).sum() / 2
            deltas = [*torch.autograd.grad(half, before, create_graph=True)]
        steps = rule.step_sizes(beta, z, deltas).view(B, -1, 1, 1).unbind(1)
        theta = [
            W - s * delta.mT @ z_in
            for W, s, delta, z_in in zip(theta, steps, deltas, z, strict=False)
        ]
        read = run(read_keys)[0][-1].mean(dim=1)
        if core.read_gate is not None:
            read = torch.sigmoid(core.read_gate(u[:, :D])) * read
        meta_loss.append((run(keys)[0][-1] - values).pow(2).mean(dim=(1, 2)))
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
        h = torch.tanh(
            core.input(x) + ((core.w + core.alpha * hebb) @ before.unsqueeze(2)).squeeze(2)
        )
        rate = (
            core.fan_out(torch.tanh(core.modulator(h)))
            if core.rule == "modulated"
            else core.eta.expand(B, D)
        )
        hebb = torch.clip(hebb + (rate * h).unsqueeze(2) * before.unsqueeze(1), -1, 1)
        outputs.append(h)
    return torch.stack(outputs), inputs.new_zeros(T, B)


def whole_gru(core: GruCore, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of one episode by ``torch.nn.GRU``, which cannot reset in the middle, and no
    meta-loss."""
    cell = core.cell
    zeros = inputs.new_zeros(1, inputs.shape[1], core.hidden_size)
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    outputs, _ = torch.gru(inputs, zeros, weights, True, 1, 0.0, True, False, False)
    return outputs, inputs.new_zeros(inputs.shape[:2])


def whole_lstm(core: LstmCore, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of one episode by ``torch.nn.LSTM``, which cannot reset in the middle, and no
    meta-loss."""
    cell = core.cell
    zeros = inputs.new_zeros(1, inputs.shape[1], core.hidden_size)
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    outputs, _, _ = torch.lstm(inputs, (zeros, zeros), weights, True, 1, 0.0, True, False, False)
    return outputs, inputs.new_zeros(inputs.shape[:2])
