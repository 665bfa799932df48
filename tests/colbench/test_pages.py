"""Pages as tasks: stylesheet, documents, outlines, what a person says of them, and the scripted agents."""

import json
import re
import time

import pytest

from colbench_jax import builders, episode, viewers
from colbench_jax.episode import MARK, Utterance, play, shown_page, snippet_of
from colbench_jax.render import stylesheet
from colbench_jax.render.document import document, placeholder
from colbench_jax.render.dom import body_of, parse
from colbench_jax.render.palette import COLOURS, hue_of
from colbench_jax.tasks.frontend import page
from colbench_jax.tasks.frontend.generate import SPLITS, UNSEEN, generate, guess, page_of
from colbench_jax.tasks.frontend.outline import Difference, differences, outline
from colbench_jax.tasks.frontend.sentences import heard, say
from core_jax.errors import UserError


@pytest.fixture(scope='module')
def pages():
    return {split: list(generate(12, split=split)) for split in SPLITS}


# Stylesheet and document


@pytest.mark.parametrize(
    'name,css',
    [
        ('p-4', 'padding:1rem'),
        ('px-2.5', 'padding-left:0.625rem;padding-right:0.625rem'),
        ('-mt-2', 'margin-top:-0.5rem'),
        ('mx-auto', 'margin-left:auto;margin-right:auto'),
        ('text-center', 'text-align:center'),
        ('text-4xl', 'font-size:2.25rem;line-height:2.5rem'),
        ('text-blue-600', 'color:#2563eb'),
        ('bg-blue-500', 'background-color:#3b82f6'),
        ('bg-black/50', 'background-color:#00000080'),
        ('bg-[#12ab34]', 'background-color:#12ab34'),
        ('grid-cols-3', 'grid-template-columns:repeat(3,minmax(0,1fr))'),
        ('w-1/3', 'width:33.3333%'),
        ('h-[12px]', 'height:12px'),
        ('max-w-4xl', 'max-width:56rem'),
        ('rounded-t-lg', 'border-top-left-radius:0.5rem;border-top-right-radius:0.5rem'),
        ('border-b-2', 'border-bottom-width:2px'),
        ('justify-between', 'justify-content:space-between'),
        ('font-semibold', 'font-weight:600'),
        ('shadow-md', 'box-shadow:0 4px 6px #0000001a'),
    ],
)
def test_a_class_becomes_a_rule(name, css):
    """Names and values as Tailwind 3 documents them."""
    assert stylesheet.declarations(name) == css


def test_classes_that_are_none_have_no_rule():
    names = ['p-', 'p-x', 'text-nosuch', 'bg-blue-555', 'grid-cols-', 'hover:bg-red-500', 'w-1/0', '-p-4', 'p-4;}', '']
    assert stylesheet.rules(names) == []


def test_rules_in_the_order_in_which_they_override():
    css = ''.join(stylesheet.rules(['lg:p-8', 'pt-1', 'md:p-6', 'px-2', 'p-4']))
    assert css == (
        '.p-4{padding:1rem}.px-2{padding-left:0.5rem;padding-right:0.5rem}.pt-1{padding-top:0.25rem}'
        '@media(min-width:768px){.md\\:p-6{padding:1.5rem}}@media(min-width:1024px){.lg\\:p-8{padding:2rem}}'
    )
    assert stylesheet.rules(['w-1/2', 'space-y-4']) == [
        '.space-y-4>*+*{margin-top:1rem}',
        '.w-1\\/2{width:50%}',
    ]


def test_only_what_is_used_is_compiled():
    css = stylesheet.compiled('<p class="p-4"><b class=\'m-2\'></b><i CLASS=flex></i>')
    assert css == stylesheet.BASE + '.flex{display:flex}.m-2{margin:0.5rem}.p-4{padding:1rem}'


def test_no_class_of_ours_lacks_a_rule(pages):
    for task in pages['train']:
        assert all(stylesheet.rules([name]) for name in stylesheet.classes_of(task['ground_truth']))


def test_a_document_asks_for_nothing():
    made = document(
        '<html><head><meta http-equiv=refresh content="0;url=http://a"><base href="http://b"><script src="http://c">x'
        '</script></head><body style="background:url(https://d/1.png)"><img alt=a src=https://picsum.photos/300/200>'
        "<img src='data:image/png;base64,AA=='><img srcset='http://e 2x' src='f.png'></body></html>"
    )
    assert not re.search(r'http://[abce]|https://|f\.png|<script|<base|refresh', made)
    assert made.count('data:image/svg') == 3 and 'data:image/png;base64,AA==' in made
    assert made.startswith('<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy"')


@pytest.mark.parametrize(
    'html,kept,gone',
    [
        ('<p>a</p><!-- <script> --><p>b</p>', '<p>b</p>', 'script'),
        ('<p>a</p><!-- <img src="http://x/y"> --><p>b</p>', '<p>b</p>', 'http://x'),
        ('<!--><p>b</p><!--->c', '<p>b</p>c', '<!--'),
        ('<script>"<!--"</script><p>b</p>', '<p>b</p>', '<!--'),
        ('<style><!-- p{color:red} --></style><p>b</p>', 'color:red', 'script'),
        ('<img alt="a > b" src="http://x/y.png"><p>b</p>', '<p>b</p>', 'http://x'),
        ('<meta title="<" http-equiv="refresh" content="0;url=//x"><p>b</p>', '<p>b</p>', 'refresh'),
        ('<p>b</p><!-- never ends <p>', '<p>b</p>', 'never'),
    ],
)
def test_what_only_looks_like_a_tag_or_a_comment(html, kept, gone):
    made = document(html).split('</style>', 1)[1]
    assert kept in made and gone not in made
    assert 'b' in parse(html).text()


def test_hostile_pages_take_no_longer_than_others():
    """A quarter of a million characters each, of what would be tried over and over."""
    began = time.process_time()
    for text in (
        '<meta ',
        '<img ',
        '<html ',
        '<script',
        'class=',
        'url(',
        '<img src="',
        "class='",
        '<!--',
        '<style',
        '<img "',
    ):
        html = text * (250_000 // len(text))
        document(html)
        snippet_of(html)
    assert time.process_time() - began < 10


def test_placeholders_depend_on_the_address_alone():
    import base64

    drawn = {a: placeholder(a) for a in ('https://picsum.photos/seed/a-10/600/400', 'https://picsum.photos/seed/b/9x9')}
    assert len(set(drawn.values())) == 2 and all(placeholder(address) == uri for address, uri in drawn.items())
    svg = [base64.b64decode(uri.split(',')[1]).decode() for uri in drawn.values()]
    assert 'width="600" height="400"' in svg[0] and 'width="640" height="400"' in svg[1]


def test_the_tree_of_a_careless_page():
    root = parse('<body><p>one<p>two<br>three</div><ul><li>a<li>b</ul><script>if (a < b) x</script><body class=x>')
    body = body_of(root)
    assert [node.tag for node in body.elements] == ['p', 'p']
    assert body.text() == 'one two three a b'
    assert parse('<div>' * 5000 + 'deep').text() == 'deep'


# Outlines


def test_an_outline_by_hand():
    found = outline("""<html><body style="background-color: #f3f4f6"><div>
        <header class="bg-blue-600 text-center"><nav><a href="#">Home</a></nav></header>
        <section class="text-right"><h1 class="text-5xl">Big <b>words</b></h1><a class="bg-red-500">Go</a></section>
        <section class="bg-white"><h2>Offers</h2><div class="grid grid-cols-1 md:grid-cols-3">
          <img src="x"><h3>A</h3><h3 class="text-left">B</h3></div></section>
        <section><p>Just words.</p></section>
        <footer class="bg-[#000000]">Bye</footer></div></body></html>""")
    assert found.background == '#f3f4f6'
    assert [part.kind for part in found.parts] == ['navbar', 'hero', 'features', 'section', 'footer']
    bar, hero, offers, words, footer = found.parts
    assert (bar.background, bar.align, bar.title, bar.size) == ('#2563eb', 'center', '', 0)
    assert (hero.background, hero.align, hero.title, hero.size) == ('#f3f4f6', 'right', 'Big words', 48)
    assert (hero.button, hero.colour, hero.image) == ('Go', '#ef4444', False)
    assert (offers.columns, offers.image, offers.size, offers.align) == (3, True, 16, 'left')
    assert words.texts == ('Just words.',) and footer.background == '#000000'


def test_everything_that_is_chosen_can_be_seen(pages):
    for task in (*pages['train'], *pages['unseen']):
        meant, found = page_of(task['spec']['page']), outline(task['ground_truth'])
        assert page.html_of(meant) == task['ground_truth'] and COLOURS[meant.background] == found.background
        for part, seen in zip(meant.parts, found.parts, strict=True):
            expected = (part.kind, COLOURS[part.background], part.align, part.title, part.columns, part.button)
            assert expected == (seen.kind, seen.background, seen.align, seen.title, seen.columns, seen.button)
            assert seen.size == stylesheet.PIXELS.get(part.size, 0) and part.image == seen.image
            assert not part.colour or COLOURS[part.colour] == seen.colour


def test_differences_most_outstanding_first():
    mine = outline('<body><nav>A</nav><section class="bg-white"><h1>x</h1></section><form>f</form></body>')
    wanted = outline(
        '<body class="bg-gray-100"><nav class="bg-white">A</nav><footer class="bg-white">end</footer>'
        '<section class="bg-red-500"><h1 class="text-4xl">x</h1><p>more</p></section></body>'
    )
    assert [d[1:] for d in differences(mine, wanted)] == [
        ('missing', ('footer', 0), ('navbar', 0)),
        ('extra', ('form', 0), None),
        ('background', ('page', 0), '#f3f4f6'),
        ('background', ('hero', 0), '#ef4444'),
        ('size', ('hero', 0), 36),
        ('text', ('hero', 0), 'more'),
    ]
    assert differences(wanted, wanted) == []
    order = differences(
        outline('<nav>a</nav><form>b</form><footer>c</footer>'), outline('<form>b</form><nav>a</nav><footer>c')
    )
    assert [d[1:] for d in order] == [('place', ('form', 0), None)]


def test_sentences_can_be_read_again(pages):
    """Every difference between any two pages; and a talk in other words says nothing."""
    tasks = pages['train']
    every = [one for task in tasks for other in tasks[:4] for one in apart(task, other)]
    every += [one for task in tasks for one in differences(outline('<body></body>'), outline(task['ground_truth']))]
    every += [Difference(0, 'button', ('form', 1), ''), Difference(0, 'missing', ('gallery', 2), ('gallery', 1))]
    assert {one.field for one in every} > {'missing', 'extra', 'place', 'columns', 'image', 'colour', 'text', 'button'}
    for one in every:
        assert heard(say(one)) == [one._replace(weight=0)], say(one)
    said = ' '.join(say(one) for one in every[:6])
    assert heard(f'Well. {said} Thanks.') == [one._replace(weight=0) for one in every[:6]]
    assert heard('I like it, but could the top be darker?') == []
    assert hue_of('#2563eb') == 'blue' and hue_of('#fefefe') == 'white'


def apart(task, other):
    return differences(outline(task['ground_truth']), outline(other['ground_truth']))


# Tasks


def test_tasks_are_the_same_ones_again_and_no_structure_is_in_two_splits(pages):
    for split in SPLITS:
        assert list(generate(12, split=split)) == pages[split]
        assert json.loads(json.dumps(pages[split])) == pages[split]
    assert list(generate(3, seed=1)) != pages['train'][:3]
    kinds = {split: {task['spec']['structure'] for task in generate(40, split=split)} for split in ('train', 'test')}
    assert not kinds['train'] & kinds['test'] and len(kinds['test']) > 20
    for split, tasks in pages.items():
        assert all((task['spec']['family'] in UNSEEN) == (split == 'unseen') for task in tasks)
    with pytest.raises(UserError, match="did you mean 'train'"):
        next(generate(1, split='trian'))
    with pytest.raises(UserError, match='hide enough'):
        list(generate(5, split='test', hidden=(1, 1), leak=1.0))


def test_who_does_not_ask_does_not_know(pages):
    for task in pages['test']:
        made = builders.draft([{'role': 'user', 'content': task['problem_description']}])
        assert len(differences(outline(page.html_of(made)), outline(task['ground_truth']))) >= 3
        assert set(task) == {'problem_description', 'ground_truth', 'spec'}


# Episodes


class Says:
    def __init__(self, *texts):
        self.texts = list(texts)

    def act(self, dialogue):
        return Utterance(self.texts.pop(0) if len(self.texts) > 1 else self.texts[0])

    def reply(self, task, dialogue, artefact=()):
        return 'y' * 2000


def test_the_answer_is_the_last_page_that_was_shown(pages):
    assert snippet_of('a <html lang="en">\n1</html> <html>2</html>') == '<html lang="en">\n1</html>'
    assert snippet_of('a <BODY>1</body>') == '<BODY>1</body>' and snippet_of('<html>torn') == ''
    task = pages['test'][0]
    shown = Says('<html>1</html>', 'thought OUTPUT: <html>2</html> OUTPUT: <html>3</html>', 'What now?', f'{MARK} done')
    found = play(task, shown, Says())
    assert found['answer'] == '<html>2</html>' and len(found['dialogue_history']) == 8
    assert len(found['dialogue_history'][2]['content']) == episode.LONGEST_REMARK == 1000
    assert play(task, Says(f'{MARK} <html>4</html>'), Says())['answer'] == '<html>4</html>'
    assert play(task, Says('no page'), Says())['answer'] == ''


def test_a_person_who_looks_is_shown_both_pages(pages):
    seen = []

    class Looks:
        def reply(self, task, dialogue, artefact=()):
            seen.append(artefact)
            return ''

    play(
        pages['test'][0],
        Says('hm', '<html>1</html>', MARK),
        Looks(),
        show=lambda task, made: (made.encode(), b'wanted'),
    )
    assert seen == [(b'', b'wanted'), (b'<html>1</html>', b'wanted')]


def test_a_person_says_three_things(pages):
    task = pages['test'][0]
    made = page.html_of(guess(task['spec']['family'], ['navbar', 'hero', 'footer']))
    dialogue = [{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'content': made}]
    person = viewers.ScriptedViewer()
    said = person.reply(task, dialogue)
    assert said == person.reply(task, dialogue) and len(heard(said)) == said.count('.') == 3
    assert len(heard(viewers.ScriptedViewer(1).reply(task, dialogue))) == 1
    assert person.reply(task, dialogue[:1]) == viewers.NOTHING
    dialogue[1]['content'] = task['ground_truth']
    assert person.reply(task, dialogue) == viewers.RIGHT
    assert shown_page(dialogue) == task['ground_truth']


def test_a_model_that_looks_gets_two_pictures_and_no_text_of_the_task(pages):
    person, task = viewers.ModelViewer('http://localhost:1/v1', 'eyes'), pages['test'][0]
    sent = person.messages(task, [{'role': 'assistant', 'content': 'secret talk'}], (b'made', b'wanted'))
    parts = sent[1]['content']
    assert [part['type'] for part in parts] == ['text', 'image_url'] * 2
    assert parts[1]['image_url']['url'] == 'data:image/png;base64,bWFkZQ=='
    assert task['problem_description'] not in str(sent) and 'secret talk' not in str(sent)
    assert '<html>' not in str(sent)
    with pytest.raises(UserError, match='needs a browser'):
        person.messages(task, [], ())
    person._ask = lambda messages: task['ground_truth'] * 2  # it saw no source, so that nothing of it can leak
    assert person.reply(task, [], (b'made', b'wanted')) == (task['ground_truth'] * 2)[:1000]


def test_the_oracle_builds_what_the_greedy_agent_does_not(pages):
    person, rates = viewers.ScriptedViewer(), {}
    for name in builders.AGENTS:
        played = [play(task, builders.make(name), person) for tasks in pages.values() for task in tasks]
        rates[name] = sum(row['answer'] == row['task']['ground_truth'] for row in played) / len(played)
    assert rates['oracle'] == 1.0 and rates['greedy'] == 0.0 and 0.0 < rates['careless'] < 0.9


def test_the_oracle_reads_what_is_said_and_not_the_spec(pages):
    task = pages['test'][0]
    bare = {key: value for key, value in task.items() if key != 'spec'}
    assert play(bare, builders.Oracle(), viewers.ScriptedViewer())['answer'] == task['ground_truth']
    silent = play(task, builders.Oracle(turns=2), Says())['answer']
    assert silent == page.html_of(builders.draft([{'role': 'user', 'content': task['problem_description']}]))


def test_agents_survive_what_they_are_told(pages):
    """Other values, parts that are not there, parts of pages that are not ours."""
    text = pages['test'][0]['problem_description']
    made = builders.draft([{'role': 'user', 'content': text}])
    told = ' '.join(
        say(one)
        for one in (
            Difference(0, 'background', ('hero', 0), '#123456'),
            Difference(0, 'size', ('hero', 0), 17),
            Difference(0, 'missing', ('section', 0), None),
            Difference(0, 'place', ('section', 0), ('hero', 0)),
            Difference(0, 'text', ('hero', 0), 'more'),
            Difference(0, 'align', ('section', 0), 'left'),
        )
    )
    assert builders.draft([{'role': 'user', 'content': text}, {'role': 'user', 'content': told}]) == made
    with pytest.raises(UserError, match='generated pages alone'):
        builders.Greedy().act([{'role': 'user', 'content': 'Build something.'}])
    with pytest.raises(UserError, match="did you mean 'oracle'"):
        builders.make('oracel')
