"""A plain PyTorch loop of SVDD in its own Python, for `diffusion_jax.bench`: JSON lines on stdin, answers on stdout.

    python bench_peer.py 75 64 1 8 10          length, channels, stacks, designs, children

    {"do": "step", "count": 3}                 3 denoising steps

In the manner of the released code: the children of a step are drawn one after another, each passes through the denoiser
and the reward, its reward goes to the host, and the winner passes through the denoiser again at the next step. It runs
without any package of this project.
"""

from __future__ import annotations

import json
import sys

DILATIONS = (1, 1, 4, 16, 64)


def make_network(torch, channels: int, stacks: int, outputs: int):
    """The dilated CNN of the regulatory-DNA models: 5 `stacks` residual convolutions of width 9."""
    nn = torch.nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv1d(5, channels, 9, padding=4)
            dilations = [dilation for dilation in DILATIONS for _ in range(stacks)]
            self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in dilations])
            self.convolutions = nn.ModuleList(
                [nn.Conv1d(channels, channels, 9, padding=4 * dilation, dilation=dilation) for dilation in dilations]
            )
            self.hidden, self.last = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, outputs, 1)

        def forward(self, tokens):
            x = torch.relu(self.embed(nn.functional.one_hot(tokens, 5).float().permute(0, 2, 1)))
            for norm, convolution in zip(self.norms, self.convolutions, strict=True):
                h = norm(x.permute(0, 2, 1)).permute(0, 2, 1)
                x = x + torch.relu(convolution(h))
            return self.last(torch.relu(self.hidden(x))).permute(0, 2, 1)

    return Network().eval()


class Worker:
    """SVDD with a reward that is one convolution, on random weights: what it costs does not depend on them."""

    def __init__(self, length: int, channels: int, stacks: int, designs: int, children: int):
        import torch

        self.torch, self.children, self.steps = torch, children, 128
        torch.manual_seed(0)
        self.denoiser = make_network(torch, channels, stacks, 4)
        self.filter = torch.nn.Conv1d(4, 16, 9, padding=4).eval()
        self.start = torch.full((designs, length), 4, dtype=torch.long)
        self.at, self.x = 0, self.start

    def reward(self, tokens):
        """[B] of designs [B, L]."""
        shown = self.torch.nn.functional.one_hot(tokens, 4).float().permute(0, 2, 1)
        return self.torch.relu(self.filter(shown)).mean((1, 2))

    def step(self, count: int) -> None:
        torch = self.torch
        with torch.no_grad():
            for _ in range(count):
                if self.at == self.steps:
                    self.at, self.x = 0, self.start
                left = 1 - self.at / self.steps
                log_p = torch.log_softmax(self.denoiser(self.x), -1)
                drawn, worth = [], []
                for _ in range(self.children):
                    shown = torch.rand(self.x.shape) < 1 / (left * self.steps)
                    tokens = torch.distributions.Categorical(logits=log_p).sample()
                    y = torch.where((self.x == 4) & shown, tokens, self.x)
                    guess = torch.where(y == 4, self.denoiser(y).argmax(-1), y)
                    drawn.append(y)
                    worth.append(self.reward(guess).cpu().numpy())
                best = torch.as_tensor([[row[i] for row in worth] for i in range(len(self.x))]).argmax(1)
                self.x = torch.stack(drawn, 1)[torch.arange(len(self.x)), best]
                self.at += 1


def main(*sizes: str) -> None:
    """Serves until stdin ends."""
    import torch

    worker = Worker(*map(int, sizes))
    print(json.dumps({'versions': {'torch': torch.__version__, 'threads': torch.get_num_threads()}}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        getattr(worker, request.pop('do'))(**request)
        print(json.dumps({'done': True}), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
