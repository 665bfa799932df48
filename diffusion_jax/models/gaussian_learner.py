"""Denoisers of Gaussian diffusion, trained: EDM (arXiv 2206.00364) and DDPM (arXiv 2006.11239).

With x_0 from the data, n ~ N(0, I), and the mean over dimensions and batch:

    edm     log sigma ~ N(p_mean, p_std^2);   lambda(sigma) |D(x_0 + sigma n; sigma) - x_0|^2,
            lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2       (equation 8)
    ddpm    t ~ U{0..T-1};   |eps(sqrt(abar_t) x_0 + sqrt(1 - abar_t) n, t) - n|^2       (equation 14, L_simple)

Metrics: loss; grad_norm, before clipping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from core_jax.errors import unknown
from core_jax.state import Learner
from diffusion_jax.models import averaged, gaussian
from diffusion_jax.models.unet import UNet
from diffusion_jax.process import Process, PyTree


def edm_loss(denoise: Callable, designs: jax.Array, key: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """designs [B, ...]; denoise(x, sigma [B]) is D."""
    level, drawn = jax.random.split(key)
    sigma = jnp.exp(config.p_mean + config.p_std * jax.random.normal(level, designs.shape[:1]))
    weight = (sigma**2 + config.sigma_data**2) / (sigma * config.sigma_data) ** 2
    x = designs + gaussian.per_row(sigma, designs) * jax.random.normal(drawn, designs.shape)
    return jnp.mean(gaussian.per_row(weight, designs) * (denoise(x, sigma) - designs) ** 2)


def ddpm_loss(predict: Callable, designs: jax.Array, key: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """designs [B, ...]; predict(x, t [B]) is eps."""
    level, drawn = jax.random.split(key)
    t = jax.random.randint(level, designs.shape[:1], 0, config.train_steps)
    abar = gaussian.per_row(jnp.asarray(gaussian.linear_abar(config.train_steps), jnp.float32)[t], designs)
    noise = jax.random.normal(drawn, designs.shape)
    x = jnp.sqrt(abar) * designs + jnp.sqrt(1 - abar) * noise
    return jnp.mean((predict(x, t.astype(jnp.float32)) - noise) ** 2)


LOSSES = {'edm': edm_loss, 'ddpm': ddpm_loss}


def make(config: ml_collections.ConfigDict, network: nn.Module | None = None) -> Learner:
    """Trains on batches {'designs' [B, ...]}, of standard deviation about config.sigma_data.

    network: another than config.network's U-Net: a module of (x [B, ...], numbers [B]), see `predictor`. The policy,
    what it is trained for, is the moving average of the parameters, for `process`.
    """
    if config.loss not in LOSSES:
        raise unknown('loss', config.loss, LOSSES)
    module = network or UNet(**config.network)
    predict = predictor(config, module)
    if config.loss == 'edm':
        predict = gaussian.preconditioned(predict, config.sigma_data)

    def loss(params: PyTree, batch: dict, key: jax.Array) -> jax.Array:
        chex.assert_type(batch['designs'], float)
        return LOSSES[config.loss](lambda x, level: predict(params, x, level), batch['designs'], key, config)

    def initial(key: jax.Array, batch: dict) -> PyTree:
        return module.init(key, batch['designs'][:1], jnp.zeros((1,)))

    return averaged.make(loss, initial, config)


def predictor(config: ml_collections.ConfigDict, network: nn.Module | None = None) -> Callable:
    """network(params, x [N, ...], number [N]) as `gaussian.edm` (c_noise) or `gaussian.ddpm` (t) take it.

    The module is told c_noise, or t / T: numbers of the order of 1.
    """
    module = network or UNet(**config.network)
    scale = 1.0 if config.loss == 'edm' else 1.0 / config.train_steps
    return lambda params, x, number: module.apply(params, x, scale * number)


def process(
    config: ml_collections.ConfigDict,
    params: PyTree,
    *,
    shape: tuple[int, ...],
    steps: int,
    eta: float = 1.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    network: nn.Module | None = None,
    **about: Any,
) -> Process:
    """The reverse process of a trained model, by DDIM's step. The sigmas are EDM's. about: see `gaussian.make`."""
    predict = predictor(config, network)
    if config.loss == 'edm':
        sigma = gaussian.karras(steps, sigma_min, sigma_max)
        levels = gaussian.ancestral(sigma * 0 + 1, sigma, eta)
        return gaussian.edm(params, predict, levels, shape=shape, sigma_data=config.sigma_data, **about)
    abar = gaussian.linear_abar(config.train_steps)
    about = {'sigma_data': config.sigma_data} | about
    return gaussian.ddpm(params, predict, abar, shape=shape, steps=steps, eta=eta, **about)


def get_config() -> ml_collections.ConfigDict:
    """EDM's settings for CIFAR-10 (its table 5 and appendix F), but for a small network."""
    return ml_collections.ConfigDict(
        {
            # Hyperparameters: traced scalars.
            'learning_rate': 1e-3,  # Adam's step size
            'ema': 0.999,  # decay of the moving average, at most (1 + step) / (10 + step)
            # Shapes and switches: static.
            'loss': 'edm',  # edm, or ddpm
            'batch_size': 128,  # designs an update
            'warmup': 200,  # updates over which the step size grows
            'clip': 1.0,  # most that the norm of the gradients may be
            'weight_decay': 0.0,  # decoupled, as AdamW's
            'sigma_data': 0.5,  # standard deviation of the data
            'p_mean': -1.2,  # of log sigma (edm)
            'p_std': 1.2,
            'train_steps': 1000,  # noise levels (ddpm), with betas from 1e-4 to 0.02
            'network': {'channels': 32, 'multipliers': (1, 2), 'blocks': 1, 'patch': 1},  # see `unet.UNet`
        }
    )
