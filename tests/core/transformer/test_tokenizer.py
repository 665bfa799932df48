"""Text, templates, conversations: a small vocabulary of bytes stands for a model's."""

import json

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


def test_templates_are_not_trusted(tmp_path):
    for template, complaint in (
        ('{{ messages.__class__.__mro__ }}', 'fails'),
        ("{{ ''.__class__.__base__.__subclasses__() }}", 'fails'),
        ("{{ raise_exception('roles must alternate') }}", 'roles must alternate'),
        ('{{ messages[7]["content"] + 1 }}', 'fails'),
        ('{{ messages.append(1) }}', 'fails'),
    ):
        with pytest.raises(UserError, match=complaint) as error:
            write(tmp_path, template=template).chat(TALK)
        assert str(tmp_path) in str(error.value) and '\n' not in str(error.value)
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
    (tmp_path / 'tokenizer.json').write_text('{"version": 1}')
    with pytest.raises(UserError, match=r'tokenizer\.json is damaged'):
        tokenizer.load(tmp_path)
