"""Text, templates, conversations: a small vocabulary of bytes stands for a model's."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from core_jax.errors import UserError
from core_jax.transformer import tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = [{'role': 'user', 'content': 'What is 12?'}, {'role': 'assistant', 'content': 'A dozen: ünd 3 𝛼.'}]


def vocabulary():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    found.add_special_tokens(['<|im_start|>', '<|im_end|>'])
    return found


def write(directory, template=CHATML, **settings):
    vocabulary().save(str(directory / 'tokenizer.json'))
    settings = {'eos_token': '<|im_end|>', 'chat_template': template} | settings
    (directory / 'tokenizer_config.json').write_text(json.dumps(settings))
    return tokenizer.load(directory)


def test_texts_come_back(tmp_path):
    found = write(tmp_path)
    assert found.size == 258 and found.stops == (257,)
    for text in ('plain', '  indented\n\tcode = 1', '漢字 and 🙂', ''):
        assert found.decode(found.encode(text)) == text
    ids = found.chat(TALK)
    assert ids.count(256) == 3 and ids.count(257) == 2  # markers are one token each
    assert found.decode(ids, special=True) == found.rendered(TALK)
    found.save(tmp_path / 'again')
    again = tokenizer.load(tmp_path / 'again')
    assert again.chat(TALK) == ids and again.stops == found.stops


def test_a_conversation_grows_by_its_new_ids(tmp_path):
    """Token in, token out: what was there is not encoded again."""
    found = write(tmp_path)
    more = [{'role': 'user', 'content': 'And 13?'}]
    drawn = found.encode(TALK[1]['content']) + [found.stops[0]]
    assert found.chat(TALK[:1]) + drawn + found.added(TALK, more) == found.chat(TALK + more)
    assert found.chat(TALK[:1], reply=False) + found.added(TALK[:1], []) == found.chat(TALK[:1])
    forgetful = write(tmp_path, template='{{ messages[-1]["content"] }}')
    with pytest.raises(UserError, match='rewrites earlier turns'):
        forgetful.added(TALK, more)


THINKING = (  # as Qwen3's: thoughts stand in the turns behind the last question alone
    '{% set ns = namespace(last=-1) %}'
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_that_writes_only_the_last_turn_in_another_way(tmp_path):
    found = write(tmp_path, template=THINKING)
    more, drawn = [{'role': 'user', 'content': 'And 13?'}], found.encode(TALK[1]['content']) + [found.stops[0]]
    assert not found.rendered(TALK + more).startswith(found.rendered(TALK, False))
    for before in (TALK, TALK + more + TALK[1:]):
        assert found.decode(found.added(before, more), special=True) == (
            '\n<|im_start|>user\nAnd 13?<|im_end|>\n<|im_start|>assistant\n'
        )
    assert found.chat(TALK[:1]) + drawn + found.added(TALK, more) == found.chat(TALK + more)
    assert found.decode(found.added(TALK, []), special=True) == '\n<|im_start|>assistant\n'
    counting = "{{ messages | length }}: {% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    with pytest.raises(UserError, match="rewrites earlier turns .* '1: What"):
        write(tmp_path, template=counting).added(TALK, more)


def test_templates_as_they_are_written_for_transformers(tmp_path):
    parts = (
        "{% for m in messages %}{% generation %}{% set x = m['role'] %}{{ x }} {% endgeneration %}{% endfor %}",
        "{{ {'b': 'ü', 'a': 1} | tojson(ensure_ascii=true, indent=none, separators=(',', ':'), sort_keys=true) }}",
        " {{ ['ü'] | tojson }}",
    )
    assert write(tmp_path, template=''.join(parts)).rendered(TALK) == 'user assistant {"a":1,"b":"\\u00fc"} ["ü"]'


def test_templates_are_not_trusted(tmp_path):
    for template, complaint in (
        ('{{ messages.__class__.__mro__ }}', 'fails'),
        ("{{ ''.__class__.__base__.__subclasses__() }}", 'fails'),
        ("{{ raise_exception('roles must alternate') }}", 'roles must alternate'),
        ('{{ messages[7]["content"] + 1 }}', 'fails'),
        ('{{ messages.append(1) }}', 'fails'),
        ('{{ 1 / 0 }}', 'fails: division by zero'),
        ('{% for i in range(1000000) %}{% endfor %}', 'fails'),
        ("{{ '{}{}'.format(1) }}", 'fails'),
    ):
        with pytest.raises(UserError, match=complaint) as error:
            write(tmp_path, template=template).chat(TALK)
        assert str(tmp_path / 'tokenizer_config.json') in str(error.value) and '\n' not in str(error.value)
    (tmp_path / 'chat_template.jinja').write_text('{{ 1 / 0 }}')
    with pytest.raises(UserError, match=r'chat_template\.jinja fails'):
        tokenizer.load(tmp_path).chat(TALK)
    (tmp_path / 'chat_template.jinja').unlink()
    with pytest.raises(UserError, match='does not parse'):
        write(tmp_path, template='{% for %}')


def test_what_does_not_fit(tmp_path):
    with pytest.raises(UserError, match=r'has no tokenizer\.json'):
        tokenizer.load(tmp_path)
    write(tmp_path)
    assert tokenizer.load(tmp_path, vocab_size=300).size == 258  # models round their vocabulary up
    with pytest.raises(UserError, match='258 tokens, the model 200: it is the tokenizer of another model'):
        tokenizer.load(tmp_path, vocab_size=200)
    with pytest.raises(UserError, match='no chat template'):
        write(tmp_path, template=None).chat(TALK)
    for name, content in (
        ('tokenizer_config.json', b'[]'),
        ('tokenizer_config.json', b'{'),
        ('chat_template.jinja', b'\xff\xfe'),
        ('config.json', b'{"eos_token_id": "2"}'),
        ('tokenizer.json', b'{"version": 1}'),
    ):
        (tmp_path / 'config.json').write_text('{}')
        write(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            tokenizer.load(tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='could not write .*file'):
        write(tmp_path).save(tmp_path / 'file')


@pytest.mark.parametrize(
    'model,complaint',
    [
        ({'bos_token_id': None, 'eos_token_id': 257}, None),
        ({'bos_token_id': 256, 'eos_token_id': [3, 257]}, None),
        ({'eos_token_id': 256}, None),  # tuned to end its turns with another mark
        ({'eos_token_id': 65}, 'eos_token of .*tokenizer_config.json is 257 in .*, the model says 65'),
        ({'eos_token_id': [3, 4]}, 'the model says 3 or 4'),
        ({'bos_token_id': 1}, 'bos_token of .* is 256 in .*, the model says 1'),
        ({'eos_token_id': [257, 128009]}, 'has no token 128009'),
    ],
)
def test_a_tokenizer_of_another_model(tmp_path, model, complaint):
    (tmp_path / 'config.json').write_text(json.dumps(model))
    if complaint is None:
        found = write(tmp_path, bos_token='<|im_start|>')
        assert found.stops == tuple(dict.fromkeys([257, *reversed(np.atleast_1d(model['eos_token_id']).tolist())]))
        return
    with pytest.raises(UserError, match=complaint) as error:
        write(tmp_path, bos_token='<|im_start|>')
    assert str(tmp_path / 'tokenizer.json') in str(error.value) and str(tmp_path / 'config.json') in str(error.value)


def test_ids_are_counted_and_not_tokens(tmp_path):
    """A vocabulary with holes is as large as its last id, which a model must have a row for."""
    found = vocabulary()
    document = json.loads(found.to_str())
    document['model']['vocab']['ab'] = 300
    (tmp_path / 'tokenizer.json').write_text(json.dumps(document))
    assert tokenizer.load(tmp_path).size == 301
    with pytest.raises(UserError, match='301 tokens, the model 300'):
        tokenizer.load(tmp_path, 300)


def test_a_text_is_neither_cut_nor_filled(tmp_path):
    """Whatever the file says of training."""
    found = vocabulary()
    found.enable_truncation(4)
    found.enable_padding(length=8)
    found.save(str(tmp_path / 'tokenizer.json'))
    loaded = tokenizer.load(tmp_path)
    assert [len(loaded.encode(text)) for text in ('ab', 'abcdefghij')] == [2, 10]
