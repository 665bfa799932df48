"""SWEET-RL's parts: rows that hide what is hidden, advantages that begin at zero, pairs by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from colbench_jax.episode import Episode
from colbench_jax.simulators import ScriptedHuman
from colbench_jax.sweet_rl import credit, experiment, settings, value_head, words
from colbench_jax.sweet_rl.play import Player, take_turn
from colbench_jax.tasks.files import write_lines
from core_jax.cli import apply, load_preset
from core_jax.errors import UserError
from core_jax.transformer import checkpoint, learner, model, packing
from core_jax.transformer.config import preset
from core_jax.transformer.losses import token_logps

KEY = jax.random.key(0)
TASK = {
    'problem_description': 'f(a): fold a list. Open: rule, times.',
    'ground_truth': 'def f(a):\n    return sum(a) * 3\n',
    'test_cases': {'test1': 'f([1, 2])'},
}
HISTORY = [
    {'role': 'user', 'content': TASK['problem_description']},
    {'role': 'assistant', 'content': 'rule?'},
    {'role': 'user', 'content': 'add up.'},
    {'role': 'assistant', 'content': 'I WANT TO ANSWER:\ndef f(a):\n    return sum(a)'},
]


def nothing(task):
    return []


def trajectory(reward, history=HISTORY, task=TASK):
    return {'task': task, 'dialogue_history': history, 'answer': 'x', 'reward': reward}


@pytest.fixture(scope='module')
def tokenizer():
    texts = [turn['content'] for turn in HISTORY] + [TASK['ground_truth']]
    return words.train_tokenizer(texts * 3, 300)


ARCH = dataclasses.replace(preset('tiny'), vocab_size=300, num_layers=1)


@functools.cache
def made(seed):
    grown = jax.jit(lambda key: jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, model.init(ARCH, key)))
    return grown(jax.random.key(seed))


# Rows


def test_a_row_marks_the_turns_of_the_agent(tokenizer):
    row = words.row(tokenizer, HISTORY)
    text = tokenizer.decode(row['tokens'], special=True)
    assert text == tokenizer.rendered(words.seen(HISTORY), reply=False)
    for number, turn in enumerate((HISTORY[1], HISTORY[3])):
        own = [t for t, m, n in zip(row['tokens'], row['mask'], row['turns'], strict=True) if m and n == number]
        assert tokenizer.decode(own, special=True) == turn['content'] + '<|end|>'
    assert sum(row['mask']) == sum(n >= 0 for n in row['turns'])


def test_hidden_information_stands_in_front_and_moves_nothing(tokenizer):
    plain, told = words.row(tokenizer, HISTORY), words.row(tokenizer, HISTORY, words.hidden(TASK))
    extra = len(told['tokens']) - len(plain['tokens'])
    assert tokenizer.decode(told['tokens'][:extra], special=True) == f'<|system|>{TASK["ground_truth"]}<|end|>'
    assert told['tokens'][extra:] == plain['tokens'] and told['mask'][extra:] == plain['mask']
    assert not any(told['mask'][:extra])
    ahead = words.row(tokenizer, HISTORY, words.hidden(TASK, 'text'))
    extra = len(ahead['tokens']) - len(plain['tokens'])
    assert (
        TASK['ground_truth'] in tokenizer.decode(ahead['tokens'][:extra]) and ahead['tokens'][extra:] == plain['tokens']
    )
    assert words.prompt(tokenizer, HISTORY[:3], words.hidden(TASK, 'text'))[extra:] == words.prompt(
        tokenizer, HISTORY[:3]
    )
    ids = words.prompt(tokenizer, HISTORY[:3])
    assert tokenizer.decode(ids, special=True).endswith('add up.<|end|><|assistant|>')


def test_drawn_ids_are_kept_as_they_are(tokenizer):
    """Even where the text would be cut in another way."""
    odd = [tokenizer.encode(letter)[0] for letter in 'rule?'] + [tokenizer.stops[0]]
    assert odd != [*tokenizer.encode('rule?'), tokenizer.stops[0]]
    episode = Episode(TASK, turns=3)
    take_turn(tokenizer, episode, odd)
    assert episode.history[-1]['content'] == 'rule?'
    row = words.row(tokenizer, episode.history)
    assert [t for t, m in zip(row['tokens'], row['mask'], strict=True) if m] == odd


def test_a_row_that_is_too_long_is_not_cut(tokenizer):
    with pytest.raises(UserError, match='there is room for 16'):
        packing.rows([words.row(tokenizer, HISTORY)], 16)


def context(tokenizer, data):
    """{name: texts} of what rows hold that is not the agent's own words."""
    out = {}
    for name, array in data.items():
        if name.endswith(('tokens', 'stem')) and 'branches/tokens' not in name:
            mask = data.get(name.replace('tokens', 'mask'), np.zeros_like(array)) if name.endswith('tokens') else 0
            kept = np.where(mask, tokenizer.stops[0], array).reshape(-1, array.shape[-1])
            out[name] = [tokenizer.decode(row, special=True) for row in kept]
    return out


@pytest.mark.parametrize('told', words.TOLD)
def test_no_policy_sees_what_is_hidden(tmp_path, monkeypatch, told):
    """All that the policies of an experiment learn from and are asked, searched for the reference of a
    task that is talked about; the critic's rows do hold it. Models are left out: what they would read counts."""
    config = settings.get_config()
    config.update({'train_tasks': 6, 'test_tasks': 4, 'demonstrations': 2, 'documents': 6, 'states': 12, 'told': told})
    run = experiment.Experiment(tmp_path, config, say=lambda text: None)
    learned, asked = {}, []

    def draw(self, prompts, key, samples=1):
        asked.extend(self.tokenizer.decode(prompt, special=True) for prompt in prompts)
        return [[[*self.tokenizer.encode('rule?'), self.tokenizer.stops[0]]] * samples for _ in prompts]

    def trained(self, name, made, data, *rest):
        learned[name] = context(run.words, data)
        return {'layers': {}}

    monkeypatch.setattr(Player, '__init__', lambda self, arch, params, tokenizer, **options: None)
    monkeypatch.setattr(Player, 'tokenizer', run.words, raising=False)
    monkeypatch.setattr(Player, 'draw', draw)
    monkeypatch.setattr(experiment.Experiment, '_trained', trained)
    monkeypatch.setattr(
        credit.reference, 'scores', lambda home, arch, params, rows, config: np.zeros(len(rows['mask']))
    )
    monkeypatch.setattr(
        credit.Judge, 'advantages', lambda self, states, drawn: np.random.default_rng(0).normal(size=(len(drawn), 4))
    )
    run.trajectories()
    run._read['trajectories'] = [
        trajectory(float(i < 6), one['dialogue_history'], one['task']) for i, one in enumerate(run.demonstrations())
    ]
    for name in ('zero_shot', 'rft', 'mt_dpo', 'sweet'):
        run.evaluated(name)
    programs = [task['ground_truth'] for split in ('train', 'test') for task in run.tasks(split)]
    assert len(asked) > 30 and set(learned) == {'sft', 'rft', 'mt_dpo', 'critic', 'sweet'}
    texts = [text for name in ('sft', 'rft', 'mt_dpo', 'sweet') for own in learned[name].values() for text in own]
    assert len(texts) > 20 and not any(program in text for program in programs for text in [*texts, *asked])
    assert all(any(program in text for program in programs) for own in learned['critic'].values() for text in own)


def test_no_test_program_is_trained_on(tmp_path):
    """Of other names it would be the same program; and trajectories from a file are not of test tasks."""
    config = settings.get_config()
    config.update({'train_tasks': 60, 'test_tasks': 60, 'documents': 60})
    run = experiment.Experiment(tmp_path, config, say=lambda text: None)
    shapes = {
        split: {experiment.shape_of(t['ground_truth']) for t in run.tasks(split)}
        for split in ('train', 'other', 'test')
    }
    assert all(len(run.tasks(split)) == 60 for split in shapes)
    assert not shapes['test'] & (shapes['train'] | shapes['other'])
    assert experiment.shape_of('def f(a):\n    return a + b') == experiment.shape_of('def g(x):\n    return x + b')
    assert experiment.shape_of('def f(a):\n    return a + b') != experiment.shape_of('def f(a):\n    return a + a')
    config.offline = str(tmp_path / 'offline.jsonl')
    write_lines(tmp_path / 'offline.jsonl', [trajectory(1.0), trajectory(1.0, task=run.tasks('test')[3])])
    run = experiment.Experiment(tmp_path, config, say=lambda text: None)
    with pytest.raises(UserError, match=r'offline.jsonl: 1 trajectories are of tasks that arms are tested on'):
        run.trajectories()


# Pairs


def test_pairs_of_trajectories():
    other = TASK | {'problem_description': 'g(a): another.'}
    unsolved = TASK | {'problem_description': 'h(a): a third.'}
    page = {'problem_description': 'A page.', 'ground_truth': '<html></html>'}
    rows = [trajectory(r) for r in (0.2, 1.0, 1.0, 0.7)] + [trajectory(1.0, task=other)]
    rows += [trajectory(r, task=unsolved) for r in (0.1, 0.9)]
    pairs = credit.trajectory_pairs(rows)
    assert [(a['reward'], b['reward']) for a, b in pairs] == [(1.0, 0.2), (1.0, 0.7)]
    pages = [trajectory(r, task=page) for r in (0.5, 0.8, 0.55)]
    pairs = credit.trajectory_pairs(pages)
    assert [(a['reward'], b['reward']) for a, b in pairs] == [(0.8, 0.5), (0.8, 0.55)]


def test_pairs_of_turns_come_from_the_halves():
    rng = np.random.default_rng(0)
    advantages = rng.normal(size=(50, 16))
    advantages[7] = 0.0
    pairs = credit.turn_pairs(advantages, 4, rng)
    assert pairs.shape == (50, 4, 2)
    for own, row in zip(pairs, advantages, strict=True):  # the seventh's, too
        rank = np.argsort(np.argsort(-row, kind='stable'))
        assert (rank[own[:, 0]] < 8).all() and (rank[own[:, 1]] >= 8).all()


@pytest.mark.parametrize('reduction', ['sum', 'token_mean'])
def test_turns_that_share_a_reading_learn_as_apart(tokenizer, reduction):
    """Pairs of two states of one trajectory and one of another: loss, metrics and gradients are those of whole rows."""
    rng = np.random.default_rng(0)
    other = [{'role': 'user', 'content': 'g(a): sort.'}]
    states = [credit.State(TASK, HISTORY[:1]), credit.State(TASK, HISTORY[:3]), credit.State(TASK, other)]
    candidates = [[[*rng.integers(5, 200, n).tolist(), 2] for n in (1, 9, 4)] for _ in states]
    pairs = np.array([[[0, 1], [2, 1]], [[1, 0], [1, 1]], [[0, 2], [2, 0]]])
    config = learner.get_config()
    config.update({'objective': 'dpo', 'reduction': reduction, 'beta': 0.3, 'likelihood': 0.7})
    made_by = learner.make(ARCH, config)
    score = jax.jit(lambda params, rows: learner.scores(ARCH, params, rows, config)[0])

    def row(state, pick):
        before, ids = words.prompt(tokenizer, states[state].history), candidates[state][pick]
        mask = [0] * len(before) + [1] * len(ids)
        return {'tokens': before + ids, 'mask': mask, 'turns': [-1] * len(mask)}

    whole = {}
    for side, place in (('chosen', 0), ('rejected', 1)):
        whole[side] = packing.rows([row(n, pick) for n, own in enumerate(pairs) for pick in own[:, place]], 96)
        whole[f'reference_{side}'] = score(made(2), whole[side])
    shared = credit.nested(credit.turn_data(tokenizer, states, candidates, pairs))
    assert shared['branches']['stem'].shape[0] == 2 and shared['weight'].sum() == 6
    shared['reference_branches'] = score(made(2), shared['branches'])
    found = []
    for batch in (whole, shared):
        state = jax.jit(made_by.init)(KEY, batch)
        state = state.replace(net=state.net.replace(params=made(1)))
        state, metrics = jax.jit(lambda s, b: made_by.update(s, b, made_by.hparams))(state, batch)
        found.append((metrics, state.net.opt_state))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):  # Adam's moments hold the gradients
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


# Advantages


def test_advantages_against_whole_sequences(tokenizer):
    """Of candidates of many lengths, read behind a shared prompt, against a row for each."""
    states = [credit.State(TASK, HISTORY[:1]), credit.State(TASK, HISTORY[:3])]
    candidates = [[[9, 8, 2], [40, 2], [7, 7, 7, 7, 2]], [[100, 2], [5, 6, 2], [201, 30, 2]]]
    judge = credit.Judge(ARCH, made(1), made(2), tokenizer, words.hidden, batch=4)
    found = judge.advantages(states, candidates)
    whole = jax.jit(functools.partial(token_logps, ARCH))
    for n, state in enumerate(states):
        before = words.prompt(tokenizer, state.history, words.hidden(TASK))
        for k, ids in enumerate(candidates[n]):
            row = np.zeros((1, 128), np.int32)
            row[0, : len(before) + len(ids)] = [*before, *ids]
            segments = (np.arange(128)[None] < len(before) + len(ids)).astype(np.int32)
            parts = [whole(made(seed), row, np.arange(128)[None], segments)[0, len(before) :].sum() for seed in (1, 2)]
            assert found[n, k] == pytest.approx(float(parts[0] - parts[1]) / len(ids), abs=1e-4)
    same = credit.Judge(ARCH, made(1), made(1), tokenizer, words.hidden, batch=4)
    np.testing.assert_array_equal(same.advantages(states, candidates), 0.0)
    sums = credit.Judge(ARCH, made(1), made(2), tokenizer, words.hidden, mean=False, batch=4).advantages(
        states, candidates
    )
    np.testing.assert_allclose(sums, found * [[3, 2, 5], [2, 3, 3]], atol=2e-4)


def test_advantages_as_released(tokenizer):
    """The critic's mean is over a turn's header and its text, the reference's over text and stop, without the hidden
    program; both summed here by whole rows."""
    state, ids = credit.State(TASK, HISTORY[:3]), [*tokenizer.encode('times?'), tokenizer.stops[0]]
    options = {'reference_known': nothing, 'same_span': False, 'batch': 1}
    judge = credit.Judge(ARCH, made(1), made(2), tokenizer, words.hidden, **options)
    header = words.opening(tokenizer, words.seen(state.history))

    def mean(params, first, tokens):
        tokens = jnp.array([tokens])
        places = jnp.arange(tokens.shape[1])[None]
        return float(token_logps(ARCH, params, tokens, places, jnp.ones_like(tokens))[0, first:].mean())

    told = words.prompt(tokenizer, state.history, words.hidden(TASK))
    bare = words.prompt(tokenizer, state.history)
    critic = mean(made(1), len(told) - len(header), told + ids[:-1])
    reference = mean(made(2), len(bare), bare + ids)
    assert judge.advantages([state], [[ids]])[0, 0] == pytest.approx(critic - reference, abs=1e-4)


def test_the_critic_learns_which_turn_it_was(tokenizer, tmp_path):
    """Two trajectories that differ in one turn: credit goes to it, and a critic at its reference has loss log 2."""
    wasted = [{'role': 'user', 'content': 'f(a): x'}, {'role': 'assistant', 'content': 'times?'}, *HISTORY[2:]]
    useful = [{'role': 'user', 'content': 'f(a): x'}, *HISTORY[1:]]
    config = learner.get_config()
    config.update({'objective': 'dpo', 'reduction': 'turn_mean_sum', 'turns': 3, 'beta': 1.0, 'updates': 30})
    config.update({'learning_rate': 3e-3, 'warmup': 0.0})
    pairs = [(trajectory(1.0, useful), trajectory(0.0, wasted))] * 2
    with pytest.raises(UserError, match='there is room for 16'):
        credit.pair_data(tokenizer, pairs, words.hidden, 16)
    data = credit.pair_data(tokenizer, pairs, words.hidden, 1024)
    data = credit.nested(credit.with_reference(tmp_path, ARCH, made(1), data, config))
    critic = learner.make(ARCH, config)
    state = jax.jit(critic.init)(KEY, data)
    state = state.replace(net=state.net.replace(params=made(1)))
    update = jax.jit(lambda state: critic.update(state, data, critic.hparams))
    state, first = update(state)
    assert float(first['loss']) == pytest.approx(np.log(2), abs=1e-5)
    for _ in range(29):
        state, metrics = update(state)
    assert float(metrics['accuracy']) == 1.0
    judge = credit.Judge(ARCH, state.net.params, made(1), tokenizer, words.hidden, batch=1)
    turns = [[[*tokenizer.encode(text), tokenizer.stops[0]] for text in ('rule?', 'times?')]]
    better, worse = judge.advantages([credit.State(TASK, useful[:1])], turns)[0]
    assert better > worse + 0.1


def test_values_are_read_at_the_ends_of_turns(tokenizer):
    rows = packing.rows([words.row(tokenizer, HISTORY)], 128)
    at = np.flatnonzero(value_head.ends(jax.tree.map(jnp.asarray, rows))[0])
    assert list(rows['tokens'][0, at]) == [tokenizer.stops[0]] * 2
    config = learner.get_config()
    config.update({'learning_rate': 1e-2, 'updates': 40})
    value = value_head.make(ARCH, config)
    data = jax.tree.map(lambda x: jnp.concatenate([x, x]), jax.tree.map(jnp.asarray, rows))
    data['tokens'] = data['tokens'].at[1, int(at[0]) - 1].set(9)
    data['solved'] = jnp.array([1.0, 0.0])
    state = jax.jit(value.init)(KEY, data)
    update = jax.jit(lambda state: value.update(state, data, value.hparams))
    for _ in range(40):
        state, metrics = update(state)
    assert float(metrics['accuracy']) == 1.0 and float(metrics['loss']) < 0.2


# Play


def test_many_episodes_at_once(tokenizer):
    tasks = [TASK | {'spec': {'slots': [], 'grammar': 'restricted'}}] * 3
    player = Player(ARCH, made(1), tokenizer, max_tokens=6, batch=2)
    played = player.play(tasks, ScriptedHuman(), KEY, turns=2)
    assert [len(one['dialogue_history']) for one in played] == [4, 4, 4]
    for one in played:
        roles = [turn['role'] for turn in one['dialogue_history']]
        assert roles == ['user', 'assistant'] * 2 and one['answer'] == one['dialogue_history'][-1]['content']
    last = player.play(tasks, ScriptedHuman(), KEY, turns=1, samples=3, choose=lambda e, drawn: [2] * len(e))
    prompts = [words.prompt(tokenizer, [HISTORY[0]])] * 3
    drawn = player.draw(prompts, jax.random.fold_in(KEY, 0), 3)
    assert [one['dialogue_history'][-1]['tokens'] for one in last] == [own[2] for own in drawn]
    with pytest.raises(UserError, match='there is room for'):
        player.draw([[1] * 2000], KEY)


@pytest.mark.slow
@pytest.mark.parametrize('released', [False, True])
def test_all_arms_at_the_smallest_size(tmp_path, released):
    """The whole of it, twice: what is there is not made again."""
    config = settings.get_config()
    apply(config, load_preset('configs/sweet_rl/released.py') if released else {})
    config.update({'train_tasks': 24, 'test_tasks': 8, 'demonstrations': 2, 'layers': 1, 'width': 32, 'heads': 2})
    config.update(
        {'documents': 12, 'rollouts': 2, 'states': 12, 'candidates': 4, 'max_tokens': 64, 'batch': 16, 'rft_updates': 2}
    )
    for block in ('sft', 'critic', 'value', 'policy', 'mt_dpo'):
        config[block].updates, config[block].batch_size = 2, 4
    said = []
    run = experiment.Experiment(tmp_path, config, say=said.append)
    with pytest.raises(UserError, match='fine-tune longer'):  # so small a model solves nothing
        run.policy('rft')
    run.trajectories = lambda: [
        trajectory(float(i // 24), one['dialogue_history'], one['task']) for i, one in enumerate(run.demonstrations())
    ]
    for name in (*experiment.ARMS, *experiment.SCRIPTED):
        rows = run.evaluated(name)
        assert len(rows) == 8 and all(0 <= row['reward'] <= 1 for row in rows)
    assert sum(row['reward'] for row in run.evaluated('oracle')) == 8
    assert len(run.best_of('sweet', 3)) == 8
    count = len(said)
    again = experiment.Experiment(tmp_path, config, say=said.append)
    assert again.evaluated('sweet') == run.evaluated('sweet') and len(said) == count
    with pytest.raises(UserError, match="did you mean 'sweet'"):
        run.policy('swet')
    assert isinstance(config, ml_collections.ConfigDict)


@pytest.mark.slow
def test_a_checkpoint_with_adapters_learns_from_a_file(tmp_path, tokenizer):
    """As with SmolLM2: adapters are merged after each stage, and nothing but a file of trajectories is learned from."""
    checkpoint.save(tmp_path / 'model', ARCH, made(1))
    tokenizer.save(tmp_path / 'model')
    config = settings.get_config()
    config.update({'model': str(tmp_path / 'model'), 'offline': str(tmp_path / 'offline.jsonl'), 'row': 512})
    config.update({'train_tasks': 4, 'test_tasks': 2, 'demonstrations': 1, 'states': 2, 'candidates': 4, 'batch': 2})
    config.update({'documents': 0, 'max_tokens': 8, 'turns': 2})
    for block in ('sft', 'critic', 'policy', 'mt_dpo'):
        config[block].update({'updates': 2, 'batch_size': 2, 'lora_rank': 2})
    wrong = [{'role': 'user', 'content': 'f(a): x'}, {'role': 'assistant', 'content': 'times?'}]
    write_lines(tmp_path / 'offline.jsonl', [trajectory(1.0), trajectory(0.0, wrong)])
    settings.check(config)
    run = experiment.Experiment(tmp_path / 'run', config, say=lambda text: None)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), run.sft(), made(1))
    assert moved['embed_tokens']['embedding'] == 0 < moved['layers']['mlp']['up_proj']['kernel']
    for arm in ('mt_dpo', 'sweet'):
        assert len(run.evaluated(arm)) == 2
    kept = {path.name.rpartition('-')[0] for path in (tmp_path / 'run' / 'models').iterdir() if path.is_dir()}
    assert kept == {'sft', 'critic', 'mt_dpo', 'sweet'}
