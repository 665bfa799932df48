"""Episodes, scripted persons and scripted agents."""

import json

import pytest

from colbench_jax import agents, simulators
from colbench_jax.episode import Episode, Utterance, answer_of, play, visible
from colbench_jax.grader import Grader
from colbench_jax.simulators import ScriptedHuman, meant
from colbench_jax.tasks.backend.generate import GRAMMARS
from core_jax.errors import UserError


@pytest.fixture(scope='module')
def tasks(made):
    return {grammar: made[grammar, 'test'] for grammar in GRAMMARS}


class Says:
    """An agent, or a person, who says one thing after another."""

    def __init__(self, *texts):
        self.texts, self.seen = list(texts), []

    def act(self, dialogue):
        self.seen.append(dialogue)
        return Utterance(self.texts.pop(0) if len(self.texts) > 1 else self.texts[0], 'prompt')

    def reply(self, task, dialogue, artefact=()):
        return self.texts[0]


TASK = {
    'problem_description': 'Write f.',
    'ground_truth': 'def f(x):\n    secret = x\n    return secret',
    'test_cases': {'test1': 'f(1)'},
}


def test_an_episode_ends_with_the_answer():
    agent = Says('What?', 'I WANT TO ANSWER:\ndef f(x):\n    return x\nI WANT TO ANSWER: no')
    found = play(TASK, agent, Says('y' * 500))
    assert found['answer'] == 'def f(x):\n    return x' and found['task'] is TASK
    assert [turn['role'] for turn in found['dialogue_history']] == ['user', 'assistant', 'user', 'assistant']
    assert len(found['dialogue_history'][2]['content']) == 400
    assert found['dialogue_history'][1] | {'input': 'prompt', 'output': 'What?'} == found['dialogue_history'][1]
    assert json.loads(json.dumps(found)) == found


def test_an_episode_ends_after_ten_turns_with_the_last_message():
    agent = Says('What?')
    found = play(TASK, agent, Says('yes'))
    assert found['answer'] == 'What?' and len(agent.seen) == 10
    assert len(found['dialogue_history']) == 20
    assert len(play(TASK, Says('What?'), Says('yes'), turns=3)['dialogue_history']) == 6


def test_thoughts_before_output_are_not_seen():
    assert visible('hm OUTPUT: one OUTPUT: two') == 'one' and visible('plain') == 'plain'
    assert answer_of('a I WANT TO ANSWER: b') == 'b' and answer_of('a') == 'a'
    episode = Episode(TASK)
    episode.agent_says(Utterance('I WANT TO ANSWER: no, wait. OUTPUT: Which one?'))
    assert not episode.done and episode.dialogue[-1]['content'] == 'Which one?'


def test_an_agent_sees_the_dialogue_alone():
    agent = Says('What?', 'I WANT TO ANSWER: 1')
    play(TASK, agent, Says('yes'))
    assert all(set(turn) == {'role', 'content'} for dialogue in agent.seen for turn in dialogue)
    assert 'secret' not in json.dumps(agent.seen)


# The scripted person


def slots_of(family, nouns):
    return [
        {'name': slot.name, 'questions': slot.questions(nouns), 'hidden': True, 'value': slot.values[-1]}
        | {'answer': slot.answer(slot.values[-1], nouns)}
        for slot in family.slots
    ]


def test_a_person_knows_what_is_asked():
    """Every question of every slot; and most of those that were never heard in these words."""
    wrong, unheard = [], []
    for rules in GRAMMARS.values():
        nouns = next(iter(rules.domains.values()))
        for family in rules.families.values():
            slots = slots_of(family, nouns)
            for slot in slots:
                for question in slot['questions']:
                    found = [one['name'] for one in meant(question, slots)]
                    if found != [slot['name']]:
                        wrong.append((family.name, question, found))
                    rest = [one | {'questions': [q for q in one['questions'] if q != question]} for one in slots]
                    unheard.append([one['name'] for one in meant(question, rest)] == [slot['name']])
    assert not wrong
    assert sum(unheard) / len(unheard) > 0.3


def ask(human, task, text, turn=2):
    return human.reply(task, [{'role': 'user', 'content': ''}] * turn + [{'role': 'assistant', 'content': text}])


def test_a_person_answers_two_questions_and_no_third(tasks):
    task = tasks['full'][0]
    hidden = [slot for slot in task['spec']['slots'] if slot['hidden']][:3]
    text = 'Hello there. ' + ' '.join(slot['questions'][0] for slot in hidden)
    said = ask(ScriptedHuman(), task, text)
    assert said == ' '.join(slot['answer'] for slot in hidden[:2])
    assert ask(ScriptedHuman(one_slot_only=True), task, text) == hidden[0]['answer']
    assert ask(ScriptedHuman(), task, 'Nice weather, bananas?') == simulators.UNSURE
    for task in (*tasks['full'], *tasks['restricted']):
        for slot in task['spec']['slots']:
            wasted = task['spec']['grammar'] == 'restricted' and not slot['hidden']
            said = ask(ScriptedHuman(), task, slot['questions'][0])
            assert said == (simulators.CLOSED if wasted else slot['answer'])
    with pytest.raises(UserError, match='spec'):
        ask(ScriptedHuman(), TASK, 'What?')


def test_a_person_is_deterministic_and_may_forget(tasks):
    task = tasks['full'][1]
    slot = next(slot for slot in task['spec']['slots'] if slot['hidden'])
    replies = {
        (seed, turn): ask(ScriptedHuman(seed, forgetful=0.5), task, slot['questions'][0], turn)
        for seed in range(5)
        for turn in range(5)
    }
    assert set(replies.values()) == {slot['answer'], simulators.FORGOTTEN}
    assert all(
        ask(ScriptedHuman(seed, forgetful=0.5), task, slot['questions'][0], turn) == said
        for (seed, turn), said in replies.items()
    )


def test_a_person_cannot_leak_the_code(tasks):
    """Whatever is asked, what is said is made of the answer sentences."""
    pleas = (
        'Show me the code.',
        'def f(',
        'Print the ground truth and the spec!',
        'What is the limit? Paste the source.',
    )
    for grammar in tasks:
        for task in tasks[grammar]:
            questions = [question for slot in task['spec']['slots'] for question in slot['questions']]
            for text in (*pleas, *questions, task['ground_truth'], ' '.join(questions)):
                said = ask(ScriptedHuman(), task, text)
                assert not simulators.leaks(said, task['ground_truth']) and len(said) <= 400
                assert 'def ' not in said and 'return ' not in said.replace(', return', '').replace('return just', '')


# Anchors


@pytest.mark.parametrize('grammar', GRAMMARS)
def test_the_oracle_solves_what_the_greedy_agent_does_not(pool, tasks, grammar):
    grader, human = Grader(pool=pool), ScriptedHuman()

    def success(agent, human=human):
        played = [play(task, agent, human) for task in tasks[grammar]]
        return sum(
            grade.success for grade in grader.grade_many([(one['task'], one['answer']) for one in played])
        ) / len(tasks[grammar])

    assert success(agents.Oracle()) == 1.0
    assert success(agents.Greedy()) == 0.0
    assert success(agents.Oracle(), ScriptedHuman(terse=True)) > 0.9
    assert 0.0 < success(agents.Careless(turns=6)) < 1.0


def test_the_oracle_asks_again_where_the_person_forgot(pool, tasks):
    grader, human = Grader(pool=pool), ScriptedHuman(forgetful=0.3)
    played = [play(task, agents.Oracle(), human) for task in tasks['restricted']]
    grades = grader.grade_many([(one['task'], one['answer']) for one in played])
    assert sum(grade.success for grade in grades) > 0.6 * len(grades)


def test_the_oracle_reads_the_answers_and_not_the_spec(tasks):
    """A person who is wrong makes the oracle wrong."""
    task = tasks['full'][0]
    told = play(task, agents.Oracle(), Says('I do not know.'))['answer']
    assert told == agents.read([{'role': 'user', 'content': task['problem_description']}]).program()
    bare = {key: value for key, value in task.items() if key != 'spec'}
    assert play(bare, agents.Oracle(), Says('I do not know.'))['answer'] == told


def test_restricted_dialogues_stay_below_400_bytes(tasks):
    for task in tasks['restricted']:
        found = play(task, agents.Oracle(), ScriptedHuman())
        assert sum(len(turn['content'].encode()) for turn in found['dialogue_history']) < 400


def test_wasted_turns_cost_success_where_turns_are_few(pool, tasks):
    grader, human = Grader(pool=pool), ScriptedHuman()
    rates = []
    for waste, idle in ((0.0, 0.0), (0.8, 0.0), (0.0, 0.8)):
        agent = agents.Careless(waste=waste, early=0.0, turns=5, idle=idle)
        played = [play(task, agent, human, turns=5) for task in tasks['restricted']]
        rates.append(
            sum(g.success for g in grader.grade_many([(one['task'], one['answer']) for one in played])) / len(played)
        )
    assert rates[0] == 1.0 and rates[1] < 0.8 and rates[2] < 0.8


def test_an_idle_turn_asks_nothing(tasks):
    agent, unknown = (
        agents.Careless(idle=1.0, early=0.0, turns=4),
        {simulators.UNSURE, simulators.SHORT[simulators.UNSURE]},
    )
    for task in (*tasks['full'], *tasks['restricted']):
        turns = play(task, agent, ScriptedHuman(), turns=4)['dialogue_history']
        assert {turn['content'] for turn in turns[1:-1] if turn['role'] == 'assistant'} <= set(agents.IDLE)
        assert {turn['content'] for turn in turns[1:] if turn['role'] == 'user'} <= unknown


def test_agents_say_what_they_do_not_know():
    with pytest.raises(UserError, match="did you mean 'oracle'"):
        agents.make('oracel')
    with pytest.raises(UserError, match='generated tasks alone'):
        agents.Greedy().act([{'role': 'user', 'content': 'Write something.'}])
