"""The person that a model of this machine plays, on random weights that know nothing."""

import jax
import pytest

from colbench_jax import local
from colbench_jax.simulators import LEAK_REPLY
from colbench_jax.stages import human_of
from colbench_jax.sweet_rl import words
from core_jax.errors import UserError
from core_jax.transformer import checkpoint, model
from core_jax.transformer.config import preset

TASK = {'problem_description': 'f(a): fold.', 'ground_truth': 'def f(a):\n    return sum(a) * 3 + len(a)\n'}
DIALOGUE = [{'role': 'user', 'content': 'f(a): fold.'}, {'role': 'assistant', 'content': 'which rule?'}]


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    found = tmp_path_factory.mktemp('model')
    arch = preset('tiny', vocab_size=300, num_layers=1)
    checkpoint.save(found, arch, model.init(arch, jax.random.key(0)))
    words.train_tokenizer([TASK['ground_truth']] * 3, 300).save(found)
    return found


def test_it_answers_the_same_each_time_and_counts(directory):
    human = human_of('backend', 'local', str(directory), 0)
    first = human.reply(TASK, DIALOGUE)
    assert human.reply(TASK, DIALOGUE) == first and len(first) <= 400
    assert human.report()['replies'] == 2


def test_it_lets_no_source_out(directory, monkeypatch):
    human = local.LocalLM(str(directory))
    source = human._speaker.tokenizer.encode('It is return sum(a) * 3 + len(a).')
    monkeypatch.setattr(human._speaker, 'draw', lambda prompts, key: [[source]])
    assert human.reply(TASK, DIALOGUE) == LEAK_REPLY
    assert human.report()['leaks'] == 1


def test_bad_input(directory):
    with pytest.raises(UserError, match='sees no images'):
        local.LocalLM(str(directory)).reply(TASK, DIALOGUE, [b'png', b'png'])
    with pytest.raises(UserError, match="unknown model in a package 'smolm2-135m'; did you mean 'smollm2-135m'"):
        human_of('backend', 'local', 'smolm2-135m', 0)
    with pytest.raises(UserError, match='unknown human'):
        human_of('frontend', 'local', None, 0)
