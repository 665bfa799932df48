"""Credit for turns: pairs of trajectories, the critic that tells them apart, and pairs of turns by its word.

    A(o_t, a_t, c) = 1/L_t sum_l [log pi_theta(a_t^l | c, o_t, a_t^<l) - log pi_ref(a_t^l | c, o_t, a_t^<l)]
    J(theta) = -log sigmoid(sum_t beta A(o_t+, a_t+, c) - sum_t beta A(o_t-, a_t-, c))

for a chosen (+) and a rejected (-) trajectory of a task, c being what the person knows (the reference program), which
stands in front of the dialogue. Both trajectories begin in the same state, so the difference of their returns is
that of their summed advantages. It is `losses.preference_loss` of the reduction `turn_mean_sum`; as released it takes
one mean over all tokens of a trajectory in place of a sum of means (`token_mean`).
"""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from colbench_jax.sweet_rl import words
from core_jax.transformer import packing, reference
from core_jax.transformer.config import Config
from core_jax.transformer.generate import bucket, padded
from core_jax.transformer.losses import branch_logps
from core_jax.transformer.tokenizer import Tokenizer

PyTree = Any
Known = Callable[[dict[str, Any]], words.Before]  # a task -> what stands in front of a dialogue about it
SIDES = ('chosen', 'rejected')
GAP = 0.1  # between rewards of pages, as released


class State(NamedTuple):
    """What an agent's turn answers: a task and the turns before."""

    task: dict[str, Any]
    history: list[dict[str, Any]]


# Pairs of trajectories


def trajectory_pairs(trajectories: Sequence[dict[str, Any]]) -> list[tuple[dict, dict]]:
    """(chosen, rejected) of each task, as released.

    Of programs: the best trajectory, where it passes every test, against every one with a lower reward. Of pages, which
    no trajectory solves: all two whose rewards are `GAP` or more apart.
    """
    groups: dict[tuple, list[dict]] = {}
    for one in trajectories:
        groups.setdefault(identity(one['task']), []).append(one)
    pairs = []
    for own in groups.values():
        if 'test_cases' not in own[0]['task']:
            ranked = [sorted(two, key=lambda one: -one['reward']) for two in itertools.combinations(own, 2)]
            pairs += [(high, low) for high, low in ranked if high['reward'] - low['reward'] >= GAP]
            continue
        best = max(own, key=lambda one: one['reward'])
        if best['reward'] == 1.0:
            pairs += [(best, one) for one in own if one['reward'] < best['reward']]
    return pairs


def identity(task: dict[str, Any]) -> tuple[str, str]:
    """What makes a task one and not another."""
    return task['problem_description'], task['ground_truth']


def pair_data(
    tokenizer: Tokenizer, pairs: Sequence[tuple[dict, dict]], known: Known, room: int
) -> dict[str, np.ndarray]:
    """Arrays of trajectory pairs, {'chosen/tokens' [N, T], ...}, behind what is `known` of their tasks.

    Raises UserError where one has more than `room` tokens.
    """
    sides = [
        [words.row(tokenizer, pair[side]['dialogue_history'], known(pair[side]['task'])) for pair in pairs]
        for side in (0, 1)
    ]
    width = min(room, packing.width_of([row for side in sides for row in side]))
    return flat({name: packing.rows(side, width) for name, side in zip(SIDES, sides, strict=True)})


def flat(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """{'chosen': {'tokens': ...}} as {'chosen/tokens': ...}, for what asks for arrays by name."""
    return {f'{side}/{name}': value for side, part in tree.items() for name, value in part.items()}


def nested(data: dict[str, Any]) -> dict[str, Any]:
    """What `flat` was given, names without a slash as they are."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        side, slash, name = key.partition('/')
        if slash:
            out.setdefault(side, {})[name] = value
        else:
            out[key] = value
    return out


def with_reference(
    home: pathlib.Path, arch: Config, params: PyTree, data: dict[str, np.ndarray], config: ml_collections.ConfigDict
) -> dict[str, np.ndarray]:
    """Pairs with the reference's reduced log-probabilities, which are kept in `home`."""
    return data | {
        f'reference_{side}': reference.scores(home, arch, params, rows, config)
        for side, rows in nested(data).items()
        if isinstance(rows, dict)
    }


# The critic's word on turns


class Judge:
    """Advantages of candidates: token means of log-ratios of a critic and its reference.

    known: what stands in front of the critic's rows. mean: over tokens; otherwise their sum.

    As released, two things differ. reference_known: what stands in front of the reference's rows (None: the same);
    there it is nothing, since its log-probabilities are the sampler's. same_span: whether both means are over the turn
    with its stop; there the critic's is over the turn's header and the turn without its stop.
    """

    def __init__(
        self,
        arch: Config,
        critic: PyTree,
        reference: PyTree,
        tokenizer: Tokenizer,
        known: Known,
        *,
        reference_known: Known | None = None,
        mean: bool = True,
        same_span: bool = True,
        batch: int = 16,
    ):
        self.tokenizer, self.critic, self.reference, self.batch = tokenizer, critic, reference, batch
        self.known, self.reference_known = known, reference_known or known
        self.mean, self.same_span, self.room = mean, same_span, arch.max_positions
        self._score = jax.jit(functools.partial(candidate_logps, arch))

    def advantages(self, states: Sequence[State], candidates: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
        """[N, K] of K candidates of each of N states. Raises UserError where one does not fit into the context."""
        theirs = self._rows(states, candidates, self.reference_known)
        if not self.same_span:
            stops = self.tokenizer.stops
            bare = [[ids[:-1] if len(ids) > 1 and ids[-1] in stops else ids for ids in drawn] for drawn in candidates]
            own = self._rows(states, bare, self.known, header=True)
        elif self.reference_known is not self.known:
            own = self._rows(states, candidates, self.known)
        else:
            own = theirs
        return (self._logps(self.critic, own) - self._logps(self.reference, theirs))[: len(states)]

    def _rows(self, states, candidates, known: Known, header=False) -> list[tuple[np.ndarray, ...]]:
        """What `candidate_logps` takes, `batch` states at a time, the last ones filled up."""
        prompts = [words.prompt(self.tokenizer, s.history, known(s.task)) for s in states]
        # A row begins with the last token that is not scored.
        lead = 1 + (len(words.opening(self.tokenizer, words.seen(states[0].history))) if header else 0)
        longest = lead + max(len(ids) for own in candidates for ids in own)
        found = []
        for first in range(0, len(states), self.batch):
            index = [min(i, len(states) - 1) for i in range(first, first + self.batch)]
            before, lengths = padded([prompts[i][:-lead] for i in index], self.room - longest)
            rows = np.zeros((self.batch, len(candidates[0]), bucket(longest)), np.int32)
            sizes = np.zeros(rows.shape[:2], np.int32)
            for row, size, i in zip(rows, sizes, index, strict=True):
                for k, ids in enumerate(candidates[i]):
                    size[k] = lead + len(ids)
                    row[k, : size[k]] = [*prompts[i][-lead:], *ids]
            found.append((before, lengths, rows, sizes))
        return found

    def _logps(self, params: PyTree, batches: list[tuple[np.ndarray, ...]]) -> np.ndarray:
        found = []
        for *arrays, sizes in batches:
            total = np.asarray(self._score(params, *arrays, sizes))
            found.append(total / np.maximum(sizes - 1, 1) if self.mean else total)
        return np.concatenate(found)


def candidate_logps(arch: Config, params: PyTree, before, lengths, rows, sizes) -> jax.Array:
    """Sums of log-probabilities [B, K] of candidates that share the reading of their prompt.

    before [B, P]: prompts but for their last tokens, of these lengths [B]; rows [B, K, C] begin with what is left of
    them, of which the first token is not scored, and have sizes [B, K].
    """
    segments = (jnp.arange(rows.shape[-1])[None, None] < sizes[..., None]).astype(jnp.int32)
    branches = {'stem': before, 'length': lengths, 'tokens': rows, 'segments': segments}
    branches['after'] = jnp.broadcast_to(lengths[:, None], sizes.shape)
    return branch_logps(arch, params, branches).sum(-1)


def turn_pairs(advantages: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[N, count, 2] (chosen, rejected) of each of N states: one of the better half against one of the worse half.

    Pairs of equal advantage are kept: where all candidates are one program, a preference says nothing and its
    likelihood (`policy.likelihood`) everything. A model that never sees such programs chosen, and others rejected,
    unlearns to write them.
    """
    pairs = np.zeros((len(advantages), count, 2), np.int32)
    for own, row in zip(pairs, advantages, strict=True):
        order, half = np.argsort(-row, kind='stable'), len(row) // 2
        own[:, 0], own[:, 1] = rng.choice(order[:half], count), rng.choice(order[half:], count)
    return pairs


def turn_data(
    tokenizer: Tokenizer,
    states: Sequence[State],
    candidates: Sequence[Sequence[Sequence[int]]],
    pairs: np.ndarray,
) -> dict[str, np.ndarray]:
    """Arrays of `turn_pairs` for the policy, without hidden information: 'branches' of `transformer.learner`.

    States of one trajectory that stand behind one another (`states_of`) share its reading: its turns so far are the
    stem, every candidate of every such state a branch, the mask on the candidate alone.
    """
    prompts = [words.prompt(tokenizer, state.history) for state in states]
    stems: list[list[int]] = []  # numbers of the states of each, the longest first
    for number in reversed(range(len(states))):
        longest = prompts[stems[-1][0]] if stems else []
        if longest[: len(prompts[number])] == prompts[number]:
            stems[-1].append(number)
        else:
            stems.append([number])
    rows = packing.rows([{'tokens': prompts[own[0]], 'mask': 0, 'turns': -1} for own in stems], _wide(prompts))
    shape = len(stems), max(map(len, stems)), len(candidates[0])
    tokens = np.zeros((*shape, _wide([[0, *ids] for drawn in candidates for ids in drawn])), np.int32)
    sizes, after = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    picks = np.zeros((*shape[:2], *pairs.shape[1:]), np.int32)
    weight = np.zeros(picks.shape[:-1], np.float32)
    for row, own in enumerate(stems):
        for place, number in enumerate(own):
            after[row, place] = len(prompts[number]) - 1
            for branch, ids in enumerate(candidates[number]):
                sizes[row, place, branch] = 1 + len(ids)
                tokens[row, place, branch, : 1 + len(ids)] = [prompts[number][-1], *ids]
            picks[row, place], weight[row, place] = place * shape[2] + pairs[number], 1.0
    places = np.arange(tokens.shape[-1])
    segments = (places < sizes[..., None]).astype(np.int32)
    branches = {'tokens': tokens, 'segments': segments, 'mask': segments * (places > 0)}
    branches = {name: value.reshape(len(stems), -1, tokens.shape[-1]) for name, value in branches.items()}
    branches |= {'after': after.reshape(len(stems), -1), 'stem': rows['tokens'], 'length': rows['segments'].sum(1)}
    sides = {side: picks[..., place].reshape(len(stems), -1) for place, side in enumerate(SIDES)}
    return flat({'branches': branches}) | sides | {'weight': weight.reshape(len(stems), -1)}


def _wide(found: Sequence[Sequence[int]]) -> int:
    return packing.width_of([{'tokens': ids} for ids in found])


def states_of(trajectories: Sequence[dict[str, Any]]) -> list[State]:
    """Every turn of the agent as a state."""
    return [
        State(one['task'], one['dialogue_history'][:place])
        for one in trajectories
        for place, turn in enumerate(one['dialogue_history'])
        if turn['role'] == 'assistant'
    ]
