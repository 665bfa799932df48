"""The commands of SWEET-RL: bad input in one line and nothing begun, stages that follow, tables of what was found."""

import json

import pytest

from colbench_jax.sweet_rl import __main__ as command
from colbench_jax.sweet_rl import experiment, kept, report, settings
from colbench_jax.tasks.files import write_lines
from core_jax import stats
from core_jax.errors import UserError


@pytest.mark.parametrize(
    'words, error',
    [
        ('taskz', "unknown command 'taskz'; did you mean 'tasks'"),
        ('tasks --config.grammar=restrcted', "did you mean 'restricted'"),
        ('tasks --config.hidden=5,4', 'the least and the most hidden slots'),
        ('tasks --config.critic.reduction=turn_men', "critic: .* did you mean 'turn_mean_sum'"),
        ('tasks --config.policy.objective=dpoo', "policy: .* did you mean 'dpo'"),
        ('tasks --config.sft.updates=0', 'updates must be at least 1'),
        ('tasks --config.offline=none.jsonl', 'there is no file none.jsonl'),
        ('tasks --config.told=loud', 'unknown way to tell the critic'),
        ('tasks --seed=-1', '--seed must not be negative'),
        ('evaluate --arms=sweet,rtf', "did you mean 'rft'"),
        ('evaluate --seeds=0', '--seeds and --best-of must be at least 1'),
        ('critic --arm=rft', 'rft has no critic; arms that have one: sweet, no_info, sum, value_head'),
        ('rank --arm=swet', "did you mean 'sweet'"),
        ('policy --arm=swet', "did you mean 'sweet'"),
        ('sft --arm=sweet', 'unknown flag'),
    ],
)
def test_bad_input_begins_nothing(tmp_path, words, error):
    with pytest.raises(UserError, match=error):
        command.main([*words.split(), f'--workdir={tmp_path}/run'])
    assert not list(tmp_path.iterdir())


def test_the_next_command_has_the_same_flags():
    words = ['--debug', '--workdir', 'runs/it', '--seed=3', '--config.turns=4']
    for stage, following in zip(command.STAGES, list(command.STAGES)[1:], strict=False):
        own = [*words, '--arm', 'no_info'] if stage in command.WITH_ARM else words
        said = command._following(stage, own).split()
        assert said[:4] == ['python', '-m', 'colbench_jax.sweet_rl', following]
        assert said[4:] == (own if following in command.WITH_ARM else words)


def test_a_directory_belongs_to_one_config_and_what_it_reads(tmp_path):
    config = settings.get_config()
    config.offline = str(tmp_path / 'offline.jsonl')
    write_lines(tmp_path / 'offline.jsonl', [{'a': 1}])
    command.opened(tmp_path / 'run', config, 0)
    command.opened(tmp_path / 'run', config, 0)
    write_lines(tmp_path / 'offline.jsonl', [{'a': 2}])
    with pytest.raises(UserError, match='was begun with read.offline .* take another --workdir'):
        command.opened(tmp_path / 'run', config, 0)
    (tmp_path / 'run' / 'seed-0' / 'config.json').write_text('{')
    with pytest.raises(UserError, match=r'config.json is damaged'):
        command.opened(tmp_path / 'run', config, 0)


def test_what_was_made_of_other_things_is_made_again(tmp_path):
    run, made = experiment.Experiment(tmp_path, settings.get_config(), say=lambda text: None), []

    def again(of):
        return run.table('candidates', lambda: made.append(of) or [len(made)], of)

    assert [again([1]), again([1]), again([2]), again([2])] == [[1], [1], [2], [2]]
    assert set(run.seconds()) == {'candidates'}
    (tmp_path / 'candidates.json').write_text('[')
    with pytest.raises(UserError, match='candidates.json is damaged'):
        again([2])


def test_seconds_are_those_of_the_part_itself(tmp_path, monkeypatch):
    """A clock that moves by hand: 5 seconds within 8 are the inner part's, whether it ends well or not."""
    clock = [0.0]
    monkeypatch.setattr(kept.time, 'monotonic', lambda: clock[0])
    run = experiment.Experiment(tmp_path, settings.get_config())
    with run.clocked('outer'):
        clock[0] += 1
        with run.clocked('inner'):
            clock[0] += 5
        with pytest.raises(UserError), run.clocked('failed'):
            clock[0] += 4
            raise UserError('no')
        clock[0] += 2
    assert run.seconds() == {'inner': 5.0, 'outer': 3.0}


def rows(*rewards):
    history = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]
    return [{'reward': reward, 'dialogue_history': history} for reward in rewards]


def test_the_table_says_which_seeds_it_is_of(tmp_path):
    found = {
        'zero_shot': {0: rows(1.0, 0.5), 1: rows(0.0, 0.5), 2: rows(1.0, 1.0)},
        'rft': {2: rows(1.0, 0.0, 0.0, 0.0)},
        report.best_of('sweet', 4, informed=True): {0: rows(1.0, 1.0), 1: rows(1.0, 0.0)},
    }
    seconds = {seed: {'zero_shot': 60.0, 'evaluated-zero_shot': 30.0, 'evaluated-rft': 10.0} for seed in range(3)}
    left_out = {'rft': ['seed 0: no trajectory is solved', 'seed 1: no trajectory is solved']}
    document = report.document(found, left_out, 'python -m it', settings.get_config(), range(3), seconds, 1.0)
    lines = report.markdown(document).splitlines()
    values = stats.mean_interval([0.5, 0.0, 1.0])
    assert f'| zero_shot | 3 | 50.0 [{100 * values["low"]:.1f}, {100 * values["high"]:.1f}] |' in lines[4]
    assert lines[4].endswith('| 1.5 |')
    low, high = stats.wilson(1, 4)
    assert lines[5].startswith(f'| rft | 1 | 25.0 [{100 * low:.1f}, {100 * high:.1f}] |')
    assert lines[6].startswith('| best of 4 by the critic of sweet (told the program) | 2 | 75.0')
    assert lines[7].startswith('| rft | left out: seed 0: no trajectory is solved; seed 1')
    some = report.write(document, tmp_path / 'some', whole=False)
    assert [path.name for path in some] == ['some-summary.json', 'some-report.md', 'some-report.png']
    report.write(document, tmp_path / 'whole', whole=True)
    (kept,) = stats.read_results(tmp_path / 'whole')  # `make table` takes it
    assert kept['metrics']['success / rft']['per_seed'] == [0.25] and kept['left_out'] == left_out
    assert json.loads((tmp_path / 'whole' / 'summary.json').read_text())['seeds'] == [0, 1, 2]
