"""The stages of SWEET-RL and of what it is compared with, each made once in a directory and read from there after.

    tasks ── demonstrations ── sft ──────────────────────────────► zero_shot
                                │
                                ├─ trajectories (K a task) ──► rft: SFT on the solved ones
                                │        │
                                │        ├─ pairs of trajectories ──► mt_dpo: the policy itself, no hidden information
                                │        └─ pairs with hidden information ──► critic
                                └─ candidates (K a state) ── advantages by the critic ── pairs of turns ──► sweet

Arms are rows of `ARMS`; a model is named by a hash of all that decides it (core_jax.training), a file of a stage by
the stage, since the directory belongs to one config and seed.
"""

from __future__ import annotations

import ast
import functools
import itertools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from colbench_jax import agents
from colbench_jax.episode import play
from colbench_jax.grader import Grader
from colbench_jax.grader.pool import Pool
from colbench_jax.simulators import ScriptedHuman
from colbench_jax.sweet_rl import credit, value_head, words
from colbench_jax.sweet_rl.kept import Kept
from colbench_jax.sweet_rl.play import Player
from colbench_jax.tasks.backend.generate import generate
from colbench_jax.tasks.files import read_tasks, read_trajectories
from core_jax import training
from core_jax.errors import UserError, unknown
from core_jax.state import Learner
from core_jax.transformer import checkpoint, fetch, learner, lora, packing, tokenizer
from core_jax.transformer.config import Config
from core_jax.transformer.tokenizer import Tokenizer

PyTree = Any
PAPER = 'sweet_rl'


class NothingToLearn(UserError):
    """An arm whose data came out empty, as where the first model solves nothing."""


class Arm(NamedTuple):
    """How a policy is made."""

    about: str
    kind: str  # sft, rft, trajectories, turns
    informed: bool = True  # the critic is told what the person knows
    head: str = 'logprob'  # of the critic: logprob, or value
    mean: bool = True  # advantages are means over a turn's tokens, not sums, in the critic's loss and in the ranking


ARMS = {
    'zero_shot': Arm('the model as it was fine-tuned on demonstrations', 'sft'),
    'rft': Arm('fine-tuned on its own solved trajectories', 'rft'),
    'mt_dpo': Arm('DPO on pairs of whole trajectories', 'trajectories'),
    'sweet': Arm('DPO on pairs of turns, by a critic with hidden information', 'turns'),
    'no_info': Arm('the same, the critic without hidden information', 'turns', informed=False),
    'sum': Arm('the same, advantages summed over tokens', 'turns', mean=False),
    'value_head': Arm('the same, the critic a head that predicts success', 'turns', head='value'),
}
TURNS = tuple(name for name, arm in ARMS.items() if arm.kind == 'turns')
SCRIPTED = ('oracle', 'greedy')
OTHER = 10**6  # added to a seed for tasks that are none of its experiment's


class Experiment(Kept):
    """One directory, config and seed. Every method makes what is missing and returns what is there."""

    def __init__(self, directory: Any, config: ml_collections.ConfigDict, seed: int = 0, say: Callable = print):
        super().__init__(directory, say)
        self.config, self.seed = config, seed
        self.models = self.directory / 'models'
        self.human = ScriptedHuman(seed, one_slot_only=True)
        self.key = jax.random.key(seed)
        self._sft: PyTree = None

    # Data

    def tasks(self, split: str) -> list[dict[str, Any]]:
        """Of `train` or `test`; `other`: made like the training tasks, and none of them.

        Splits divide structures, and two structures may print one program: no training or other task has the program
        of a test task, whatever its names.
        """
        count = {'train': self.config.train_tasks, 'test': self.config.test_tasks, 'other': self.config.documents}

        def made() -> list[dict[str, Any]]:
            options: dict[str, Any] = {'split': split, 'seed': self.seed, 'usual': self.config.usual}
            if split == 'other':
                options |= {'split': 'train', 'seed': self.seed + OTHER}
            tested = set() if split == 'test' else {shape_of(task['ground_truth']) for task in self.tasks('test')}
            taken = {credit.identity(task) for task in self.tasks('train')} if split == 'other' else set()
            with Pool() as pool:
                hidden = tuple(self.config.hidden)
                drawn = generate(pool, 4 * count[split], hidden=hidden, grammar=self.config.grammar, **options)
                fit = (
                    task
                    for task in drawn
                    if credit.identity(task) not in taken and shape_of(task['ground_truth']) not in tested
                )
                return list(itertools.islice(fit, count[split]))

        return self.lines(f'tasks-{split}', made, read_tasks)

    def demonstrations(self) -> list[dict[str, Any]]:
        """Episodes of careless scripted agents on the training tasks."""
        count = self.config.demonstrations
        return self.lines('demonstrations', lambda: self._careless('train', count), read_trajectories)

    def documents(self) -> list[dict[str, Any]]:
        """Such episodes on other tasks, to be read with their programs in front and every token predicted.

        They stand for what a language model has read before: a critic that is to use what stands in front must have
        learned to. No policy reads the program of a task in front of a dialogue about it.
        """
        return self.lines('documents', lambda: self._careless('other', 2), read_trajectories)

    def _careless(self, split: str, count: int) -> list[dict[str, Any]]:
        """`count` episodes of each task."""
        tasks, turns = self.tasks(split), self.config.turns
        seeds = [100 * self.seed + i for i in range(count)]
        careless = [
            agents.Careless(s, self.config.waste, self.config.early, turns, idle=self.config.idle) for s in seeds
        ]
        return [play(task, agent, self.human, turns) for agent in careless for task in tasks]

    @functools.cached_property
    def words(self) -> Tokenizer:
        """Of the checkpoint; or byte pairs of the demonstrations and of what is hidden in the training tasks."""
        if self.config.model:
            return tokenizer.load(self._checkpoint, self.arch().vocab_size)
        where = self.directory / 'tokenizer'
        if not (where / tokenizer.SETTINGS).exists():
            texts = [turn['content'] for one in self.demonstrations() for turn in one['dialogue_history']]
            texts += [task['ground_truth'] for task in self.tasks('train')]
            words.train_tokenizer(texts, self.config.vocabulary).save(where)
        return tokenizer.load(where)

    def arch(self) -> Config:
        """Of all models here."""
        c = self.config
        if c.model:
            return checkpoint.read_config(self._checkpoint)
        return Config(
            vocab_size=c.vocabulary,
            hidden_size=c.width,
            intermediate_size=3 * c.width,
            num_layers=c.layers,
            num_heads=c.heads,
            num_kv_heads=c.heads,
            head_dim=c.width // c.heads,
            max_positions=1024,
            rope_theta=1e4,
            tie_embeddings=True,
            unroll=c.layers,
        )

    @functools.cached_property
    def _checkpoint(self) -> pathlib.Path:
        path = pathlib.Path(self.config.model)
        return path if path.is_dir() else fetch.fetch(self.config.model, self.say)

    # Models

    def sft(self) -> PyTree:
        """The model that all arms begin with."""
        if self._sft is None:
            config, start = self.config.sft, checkpoint.load(self._checkpoint)[1] if self.config.model else None
            made, data = learner.make(self.arch(), config), self._packed(self.demonstrations(), self.config.documents)
            self._sft = self._trained('sft', made, data, config, start, learner.begin)
        return self._sft

    def trajectories(self) -> list[dict[str, Any]]:
        """Those of `offline`, or the model's own episodes of the training tasks, graded."""

        def made() -> list[dict[str, Any]]:
            if self.config.offline:
                rows = read_trajectories(self.config.offline)
                tested = {credit.identity(task) for task in self.tasks('test')}
                if found := sum(credit.identity(row['task']) in tested for row in rows):
                    raise UserError(
                        f'{self.config.offline}: {found} trajectories are of tasks that arms are tested on; '
                        'take another --seed, or leave them out'
                    )
                return rows if all('reward' in row for row in rows) else self.graded(rows)
            tasks = self.tasks('train') * self.config.rollouts
            return self.graded(
                self.player(self.sft()).play(tasks, self.human, self._key('collect'), turns=self.config.turns)
            )

        return self.lines('trajectories', made, read_trajectories)

    def trajectory_pairs(self) -> list[tuple[dict, dict]]:
        """Raises NothingToLearn where no task has a solved trajectory beside another."""
        pairs = credit.trajectory_pairs(self.trajectories())
        if not pairs:
            raise NothingToLearn(
                'no pairs: of no task is one trajectory solved and another not; fine-tune longer, or collect more'
            )
        return pairs

    def critic(self, arm: Arm) -> PyTree:
        """Parameters of the critic, or of the value head, of an arm that learns from turns."""
        suffix = '' if arm.informed else '-no-info'
        if arm.head == 'value':
            rows = [
                words.row(self.words, one['dialogue_history'], self._known(one['task'], arm.informed))
                for one in self.trajectories()
            ]
            data = packing.rows(rows, self._width(rows)) | {
                'solved': np.array([one['reward'] == 1.0 for one in self.trajectories()], np.float32)
            }
            made = value_head.make(self.arch(), self.config.value)
            return self._trained(f'value{suffix}', made, data, self.config.value, self.sft(), _begin_body)
        config = ml_collections.ConfigDict(self.config.critic.to_dict())
        if not arm.mean:
            config.reduction, suffix = 'sum', f'{suffix}-sum'
        data = self._pair_data(arm.informed)
        # Trajectories of others may have more turns than episodes have here.
        config.turns = max(self.config.turns, *(1 + int(data[f'{side}/turns'].max()) for side in credit.SIDES))
        return self._preferred(f'critic{suffix}', data, config)

    def judge(self, arm: Arm) -> Any:
        """What ranks candidates."""
        known = functools.partial(self._known, informed=arm.informed)
        if arm.head == 'value':
            return value_head.ValueJudge(self.arch(), self.critic(arm), self.words, known)
        options: dict[str, Any] = {'mean': arm.mean, 'same_span': self.config.same_span}
        if not self.config.reference_informed:
            options['reference_known'] = functools.partial(self._known, informed=False)
        return credit.Judge(self.arch(), self.critic(arm), self.sft(), self.words, known, **options)

    def candidates(self) -> tuple[list[credit.State], list[list[list[int]]]]:
        """(states, K turns drawn for each) out of the model's own trajectories."""
        rows = self.trajectories()
        rows = rows[: max(1, round(self.config.share * len(rows)))]
        order = np.random.default_rng(self.seed).permutation(len(rows))
        # Whole trajectories: a policy reads the states of one together.
        states = credit.states_of([rows[i] for i in order])[: self.config.states]
        prompts = [words.prompt(self.words, state.history) for state in states]

        def made() -> list[list[list[int]]]:
            return self.player(self.sft()).draw(prompts, self._key('candidates'), self.config.candidates)

        return states, self.table('candidates', made, prompts)

    def advantages(self, name: str) -> np.ndarray:
        """[N, K] of all candidates, by the critic of an arm."""
        states, drawn = self.candidates()
        arm = turns_arm(name)

        def made() -> list[list[float]]:
            return self.judge(arm).advantages(states, drawn).tolist()

        return np.array(self.table(f'advantages-{name}', made, drawn))

    def policy(self, name: str) -> PyTree:
        """Parameters of an arm. Raises UserError for an unknown one."""
        arm = arm_named(name)
        if arm.kind == 'sft':
            return self.sft()
        if arm.kind == 'rft':
            solved = [one for one in self.trajectories() if one['reward'] == 1.0]
            if not solved:
                raise NothingToLearn(
                    'no trajectory is solved: there is nothing to fine-tune on; fine-tune longer first'
                )
            config = ml_collections.ConfigDict(self.config.sft.to_dict() | {'updates': self.config.rft_updates})
            config.learning_rate = self.config.sft.learning_rate * config.end  # where the first fine-tuning ended
            made = learner.make(self.arch(), config)
            return self._trained('rft', made, self._packed(solved), config, self.sft(), learner.begin)
        if arm.kind == 'trajectories':
            return self._preferred('mt_dpo', self._pair_data(informed=False), self.config.mt_dpo)
        states, drawn = self.candidates()
        advantages = self.advantages(name)
        pairs = credit.turn_pairs(advantages, self.config.turn_pairs, np.random.default_rng(self.seed))
        if not np.ptp(advantages, 1).any():
            raise NothingToLearn('no pairs of turns: the candidates of every state have one advantage')
        return self._preferred(name, credit.turn_data(self.words, states, drawn, pairs), self.config.policy)

    def _known(self, task: dict[str, Any], informed: bool) -> words.Before:
        """What stands in front of a dialogue: the hidden information, or nothing."""
        return words.hidden(task, self.config.told) if informed else []

    def _pair_data(self, informed: bool) -> dict[str, np.ndarray]:
        known = functools.partial(self._known, informed=informed)
        return credit.pair_data(self.words, self.trajectory_pairs(), known, self.arch().max_positions)

    def _width(self, found: Sequence[dict[str, list[int]]]) -> int:
        """Tokens of the longest row; rows beyond the context do not fit, and are told so."""
        return min(packing.width_of(found), self.arch().max_positions)

    def _preferred(self, name: str, data: dict[str, np.ndarray], config: ml_collections.ConfigDict) -> PyTree:
        data = credit.with_reference(self.models, self.arch(), self.sft(), data, config)
        made = learner.make(self.arch(), config)
        by_name = made._replace(
            init=lambda key, batch: made.init(key, credit.nested(batch)),
            update=lambda state, batch, hparams: made.update(state, credit.nested(batch), hparams),
        )
        return self._trained(name, by_name, data, config, self.sft(), learner.begin)

    def _trained(self, name: str, made: Learner, data: dict, config: Any, start: PyTree, put: Callable) -> PyTree:
        """Parameters that began as `start` (None: random ones), or those with an adapter of them merged in."""
        options: dict[str, Any] = {'paper': PAPER, 'steps': config.updates, 'seed': self.seed}
        with self.clocked(name):
            if not config.lora_rank:
                return training.trained(self.models, name, made, data, config, start=start, put=put, **options)
            adapter = training.trained(self.models, name, made, data, config, shared={'base': start}, **options)
        return jax.jit(functools.partial(lora.merge, self.arch()))(start, adapter)

    # What an arm comes to

    def player(self, params: PyTree) -> Player:
        """A policy that plays."""
        options = {'max_tokens': self.config.max_tokens, 'batch': self.config.batch}
        return Player(self.arch(), params, self.words, **options)

    def evaluated(self, name: str) -> list[dict[str, Any]]:
        """Graded trajectories of an arm, or a scripted agent, on the test tasks, one each."""

        def made() -> list[dict[str, Any]]:
            tasks, turns = self.tasks('test'), self.config.turns
            if name in SCRIPTED:
                return self.graded(
                    [play(task, agents.make(name, self.seed, turns), self.human, turns) for task in tasks]
                )
            player = self.player(self.policy(name))
            return self.graded(player.play(tasks, self.human, self._key('evaluate'), turns=turns))

        if name not in SCRIPTED:
            arm_named(name)
        return self.lines(f'evaluated-{name}', made, read_trajectories)

    def best_of(self, name: str, samples: int) -> list[dict[str, Any]]:
        """The first model with the critic of an arm at its side: it says the best of `samples` candidates a turn."""
        judge = self.judge(arm_named(name))

        def choose(episodes, drawn):
            states = [credit.State(episode.task, list(episode.history)) for episode in episodes]
            return list(judge.advantages(states, drawn).argmax(1))

        def made() -> list[dict[str, Any]]:
            player, turns = self.player(self.sft()), self.config.turns
            options = {'turns': turns, 'choose': choose, 'samples': samples}
            return self.graded(player.play(self.tasks('test'), self.human, self._key('evaluate'), **options))

        return self.lines(f'evaluated-{name}-best-of-{samples}', made, read_trajectories)

    def graded(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same with their rewards."""
        with Grader() as grader:
            grades = grader.grade_many([(row['task'], row['answer']) for row in rows])
        return [row | {'reward': grade.reward} for row, grade in zip(rows, grades, strict=True)]

    # Files

    def _packed(self, found: Sequence[dict[str, Any]], documents: bool = False) -> dict[str, np.ndarray]:
        """Whole trajectories behind one another, for fine-tuning; with the documents among them."""
        rows = [words.row(self.words, one['dialogue_history']) for one in found]
        for one in self.documents() if documents else ():
            row = words.row(self.words, one['dialogue_history'], words.hidden(one['task']))
            rows.append(row | {'mask': [1] * len(row['tokens'])})
        order = np.random.default_rng(self.seed).permutation(len(rows))
        return packing.pack([rows[i] for i in order], max(self.config.row, self._width(rows)))

    def _key(self, purpose: str) -> jax.Array:
        return jax.random.fold_in(self.key, int.from_bytes(purpose.encode()[:4], 'big') >> 1)


def shape_of(program: str) -> str:
    """A program without the names that were drawn for it: those of its functions and their arguments."""
    names: dict[str, str] = {}
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.FunctionDef):
            for name in (node.name, *(argument.arg for argument in node.args.args)):
                names.setdefault(name, f'_{len(names)}')
    return re.sub(r'\w+', lambda word: names.get(word[0], word[0]), program)


def arm_named(name: str) -> Arm:
    """Raises UserError with the nearest name."""
    if name not in ARMS:
        raise unknown('arm', name, ARMS)
    return ARMS[name]


def turns_arm(name: str) -> Arm:
    """Of an arm that has a critic. Raises UserError for others."""
    if name not in TURNS:
        raise (
            UserError(f'{name} has no critic; arms that have one: {", ".join(TURNS)}')
            if name in ARMS
            else unknown('arm', name, ARMS)
        )
    return ARMS[name]


def _begin_body(states: value_head.HeadState, params: PyTree) -> value_head.HeadState:
    body = jax.tree.map(lambda new: jnp.asarray(new)[None], params)
    return states.replace(net=states.net.replace(params=states.net.params | {'body': body}))
