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
import contextlib
import functools
import hashlib
import itertools
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
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
from colbench_jax.sweet_rl.play import Player
from colbench_jax.tasks.backend.generate import generate, grammar_named
from colbench_jax.tasks.files import read_tasks, read_trajectories, write_lines
from core_jax import training
from core_jax.cli import require_positive
from core_jax.errors import UserError, unknown
from core_jax.files import make_directory, write_json_atomic
from core_jax.state import Learner
from core_jax.transformer import checkpoint, fetch, learner, lora, packing, tokenizer
from core_jax.transformer.config import Config, preset
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
SECONDS = 'seconds.json'
OTHER = 10**6  # added to a seed for tasks that are none of its experiment's


def get_config() -> ml_collections.ConfigDict:
    """The experiment at the scale of two cores: a small model, trained here, over the restricted grammar."""
    fine, critic, policy, head = (learner.get_config() for _ in range(4))
    fine.update({'learning_rate': 3e-3, 'batch_size': 16, 'updates': 1300, 'clip': 1.0, 'beta2': 0.99})
    critic.update({'objective': 'dpo', 'reduction': 'turn_mean_sum', 'learning_rate': 2e-4, 'beta': 1.0})
    critic.update({'batch_size': 16, 'updates': 200, 'likelihood': 2.0})
    policy.update({'objective': 'dpo', 'learning_rate': 3e-4, 'beta': 0.1, 'batch_size': 32, 'updates': 200})
    policy.likelihood = 3.0  # without it so small a model unlearns to write programs
    head.update({'learning_rate': 2e-4, 'batch_size': 32, 'updates': 200})
    return ml_collections.ConfigDict(
        {
            'grammar': 'restricted',
            'hidden': (4, 4),  # least and most hidden slots of a task
            'usual': 0.5,  # chance that a hidden slot has its most common value, so that a guess is lucky at times
            'train_tasks': 800,  # that the model talks about
            'test_tasks': 500,  # of other structures
            'turns': 5,  # of the agent
            'demonstrations': 4,  # careless ones of each training task, for the first fine-tuning
            'documents': 1600,  # other tasks, whose programs and dialogues are read before: see `documents`
            'waste': 0.5,  # chance that they ask for any topic, be it known or closed
            'early': 0.1,  # chance of a turn that they answer without the rest
            'model': '',  # a checkpoint to begin with: a directory, or a name in a package; empty: one is trained here
            'vocabulary': 512,  # of byte pairs, of the model that is trained here
            'layers': 3,
            'width': 96,
            'heads': 3,
            'offline': '',  # a file of trajectories to learn from; empty: the first model's own, on the training tasks
            'rollouts': 4,  # of those, of each task
            'share': 1.0,  # of the trajectories, whose turns are states
            'states': 2400,  # at most, that candidates are drawn for
            'candidates': 4,  # of a state; the paper has 16, and fewer states for them
            'told': 'system',  # how the critic is: by a system message, or by `text` ahead of the template, as released
            'reference_informed': True,  # advantages against a reference that is told, too; as released it is not
            'same_span': True,  # advantages over the same tokens; as released: header and text against text and stop
            'turn_pairs': 4,  # of a state, drawn from the better and the worse half
            'stems': 8,  # trajectories whose pairs of turns an update of a policy sees
            'max_tokens': 96,  # of a turn
            'batch': 64,  # prompts that are read together
            'row': 256,  # tokens of a row, which holds several dialogues, of fine-tuning
            'sft': fine,
            'rft_updates': 300,
            'critic': critic,
            'value': head,
            'policy': policy,
            'mt_dpo_updates': 80,
        }
    )


class Experiment:
    """One directory, config and seed. Every method makes what is missing and returns what is there."""

    def __init__(self, directory: Any, config: ml_collections.ConfigDict, seed: int = 0, say: Callable = print):
        self.directory, self.config, self.seed, self.say = pathlib.Path(directory), config, seed, say
        self.models = self.directory / 'models'
        self.human = ScriptedHuman(seed, one_slot_only=True)
        self.key = jax.random.key(seed)
        self._read: dict[str, list[dict[str, Any]]] = {}  # files, once each
        self._sft: PyTree = None
        self._within = 0.0  # seconds that parts of what is being made have taken

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

        return self._lines(f'tasks-{split}', made, read_tasks)

    def demonstrations(self) -> list[dict[str, Any]]:
        """Episodes of careless scripted agents on the training tasks."""
        count = self.config.demonstrations
        return self._lines('demonstrations', lambda: self._careless('train', count), read_trajectories)

    def documents(self) -> list[dict[str, Any]]:
        """Such episodes on other tasks, to be read with their programs in front and every token predicted.

        They stand for what a language model has read before: a critic that is to use what stands in front must have
        learned to. No policy reads the program of a task in front of a dialogue about it.
        """
        return self._lines('documents', lambda: self._careless('other', 2), read_trajectories)

    def _careless(self, split: str, count: int) -> list[dict[str, Any]]:
        """`count` episodes of each task."""
        tasks, turns = self.tasks(split), self.config.turns
        seeds = [100 * self.seed + i for i in range(count)]
        careless = [agents.Careless(s, self.config.waste, self.config.early, turns) for s in seeds]
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

        return self._lines('trajectories', made, read_trajectories)

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

        return states, self._json('candidates', made, prompts)

    def advantages(self, name: str) -> np.ndarray:
        """[N, K] of all candidates, by the critic of an arm."""
        states, drawn = self.candidates()
        arm = turns_arm(name)

        def made() -> list[list[float]]:
            return self.judge(arm).advantages(states, drawn).tolist()

        return np.array(self._json(f'advantages-{name}', made, drawn))

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
        config = ml_collections.ConfigDict(self.config.policy.to_dict())
        if arm.kind == 'trajectories':
            config.updates = self.config.mt_dpo_updates
            return self._preferred('mt_dpo', self._pair_data(informed=False), config)
        states, drawn = self.candidates()
        advantages = self.advantages(name)
        pairs = credit.turn_pairs(advantages, self.config.turn_pairs, np.random.default_rng(self.seed))
        if not np.ptp(advantages, 1).any():
            raise NothingToLearn('no pairs of turns: the candidates of every state have one advantage')
        config.batch_size, config.micro = self.config.stems, min(config.micro, 1)  # a stem has many branches
        return self._preferred(name, credit.turn_data(self.words, states, drawn, pairs), config)

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
        with self._clocked(name):
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
        return self._lines(f'evaluated-{name}', made, read_trajectories)

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

        return self._lines(f'evaluated-{name}-best-of-{samples}', made, read_trajectories)

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

    def _lines(self, name: str, made: Callable, read: Callable) -> list[dict[str, Any]]:
        if name not in self._read:
            path = make_directory(self.directory) / f'{name}.jsonl'
            if not path.exists():
                self.say(f'{name} ...')
                with self._clocked(name):
                    write_lines(path, made())
            self._read[name] = read(path)
        return self._read[name]

    def _json(self, name: str, made: Callable, of: Any) -> Any:
        """What was made `of` other things; made again where they have changed."""
        path, digest = self.directory / f'{name}.json', hashlib.sha256(json.dumps(of).encode()).hexdigest()
        kept = _read_json(path)
        if kept.get('of') != digest:
            self.say(f'{name} ...')
            with self._clocked(name):
                kept = {'of': digest, 'made': made()}
            write_json_atomic(path, kept)
        return kept['made']

    def seconds(self) -> dict[str, float]:
        """Of everything that was made here, without its parts that have a name of their own."""
        return _read_json(self.directory / SECONDS)

    @contextlib.contextmanager
    def _clocked(self, name: str) -> Iterator[None]:
        before, self._within, began = self._within, 0.0, time.monotonic()
        try:
            yield
            known, took = self.seconds(), time.monotonic() - began
            write_json_atomic(self.directory / SECONDS, known | {name: known.get(name, 0.0) + took - self._within})
        finally:
            self._within = before + time.monotonic() - began


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    """{} where there is none. Raises UserError for a damaged one."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f'{path} is damaged: {error}; delete it, and it is made again') from None
    if not isinstance(found, dict):
        raise UserError(f'{path} is damaged: no table; delete it, and it is made again')
    return found


def shape_of(program: str) -> str:
    """A program without the names that were drawn for it: those of its functions and their arguments."""
    names: dict[str, str] = {}
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.FunctionDef):
            for name in (node.name, *(argument.arg for argument in node.args.args)):
                names.setdefault(name, f'_{len(names)}')
    return re.sub(r'\w+', lambda word: names.get(word[0], word[0]), program)


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for unknown names, numbers out of range and files that are not there."""
    counts = ('train_tasks', 'turns', 'demonstrations', 'layers', 'heads', 'rollouts', 'states', 'row')
    require_positive(config, (*counts, 'turn_pairs', 'stems', 'max_tokens', 'batch', 'rft_updates', 'mt_dpo_updates'))
    require_positive(config, ('candidates', 'test_tasks'), least=2)
    require_positive(config, ('documents',), least=0)
    require_positive(config, ('vocabulary',), least=300)  # 256 bytes, the marks, and some pairs
    for name in ('waste', 'early', 'usual'):
        if not 0 <= config[name] <= 1:
            raise UserError(f'{name} must be between 0 and 1, got {config[name]}')
    if not 0 < config.share <= 1:
        raise UserError(f'share must be above 0 and at most 1, got {config.share}')
    grammar_named(config.grammar)
    hidden = tuple(config.hidden)
    if len(hidden) != 2 or not all(isinstance(n, int) for n in hidden) or not 1 <= hidden[0] <= hidden[1]:
        raise UserError(f'hidden must be two numbers, the least and the most hidden slots, such as 4,4; got {hidden}')
    if config.told not in words.TOLD:
        raise unknown('way to tell the critic', config.told, words.TOLD)
    if config.offline and not pathlib.Path(config.offline).is_file():
        raise UserError(f'offline: there is no file {config.offline}')
    if config.value.lora_rank or (config.sft.lora_rank and not config.model):
        raise UserError('adapters (lora_rank) belong to a model that is there: set model, and not value.lora_rank')
    if config.width % (2 * config.heads):
        raise UserError(f'a width of {config.width} does not divide into {config.heads} heads of an even size')
    for name in ('sft', 'critic', 'policy', 'value'):
        require_positive(config[name], ('updates', 'batch_size'))
        block = ml_collections.ConfigDict(config[name].to_dict() | {'turns': config.turns})
        try:
            learner.make(preset('tiny'), block)
        except UserError as error:
            raise UserError(f'{name}: {error}') from None


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
