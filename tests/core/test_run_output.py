"""What a run shows: lines or a bar on the screen, TensorBoard and W&B, the plot of its curves."""

import math
import os
import pty
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
from started import start, tree

from core_jax import plots, screen, trackers
from core_jax.errors import UserError

# On the screen.


def test_one_line_a_call_without_a_terminal(run, capsys, monkeypatch):
    clock = iter([8.0, 10.0, 12.0])
    monkeypatch.setattr(screen.time, 'monotonic', lambda: next(clock))
    run._screen = screen.Screen(0)
    run.progress(1000, 10_000, {'loss': 0.123456, 'q': 12345.678})
    run.say('hello')
    run.progress(2000, 10_000, {})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == 'step 1,000/10,000  500 steps/s  ETA 18s  loss 0.1235  q 1.235e+04'
    assert shown[1:] == ['hello', 'step 2,000/10,000  500 steps/s  ETA 16s']


def test_a_resumed_run_guesses_no_speed(tmp_path, capsys):
    start(tmp_path / 'run').close()
    run = start(tmp_path / 'run', resume=True)
    run.progress(5000, 10_000, {'loss': 1.0})
    assert capsys.readouterr().out == 'step 5,000/10,000  loss 1\n'
    run.close()


def test_a_bar_on_a_terminal(tmp_path):
    code = f"""
        from core_jax.runs import Run
        run = Run.open({str(tmp_path / 'run')!r}, {{}}, paper='', command='')
        run.progress(10, 100, {{'loss': 0.5}})
        run.say('evaluated')
        run.progress(100, 100, {{'loss': 0.25}})
        run.close()
    """
    master, slave = pty.openpty()
    subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], stdout=slave, stderr=slave, check=True, close_fds=True
    )
    os.close(slave)
    shown = b''
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # the terminal is empty and nobody holds its other end
            break
    os.close(master)
    text = shown.decode()
    assert '\r' in text and '100/100' in text and 'loss 0.25' in text
    assert 'evaluated\r\n' in text


@pytest.mark.parametrize(('seconds', 'text'), [(42.4, '42s'), (187, '3m07s'), (8100, '2h15m'), (59.7, '1m00s')])
def test_durations(seconds, text):
    assert screen.duration(seconds) == text


# TensorBoard and W&B.


@pytest.mark.parametrize(('flag', 'package'), [('tensorboard', 'tensorboardX'), ('wandb', 'wandb')])
def test_a_missing_package_is_named_before_anything_is_touched(tmp_path, monkeypatch, flag, package):
    monkeypatch.setattr(trackers.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=rf"{package}: pip install 'tenfold\[{flag}\]'"):
        start(tmp_path / 'run', **{flag: True})
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip('tensorboardX')
    run = start(tmp_path / 'run', tensorboard=True)
    run.write('train', 1, {'loss': 0.5, 'nan': math.nan})
    run.write('eval', 2, {'success': 1.0, 'member': 3})
    run.close()
    (events,) = (run.directory / 'tensorboard').iterdir()
    content = events.read_bytes()
    assert b'train/loss' in content and b'eval/success/member_3' in content and b'nan' not in content
    again = start(tmp_path / 'run', resume=True, tensorboard=True)
    again.cut(0)
    again.write('train', 1, {'loss': 0.5})
    again.close()
    assert len(list((run.directory / 'tensorboard').iterdir())) == 2
    start(tmp_path / 'run', overwrite=True).close()
    assert not (run.directory / 'tensorboard').exists()


class FakeWandB(types.ModuleType):
    """As much of wandb as is called."""

    class errors:
        class Error(Exception):
            pass

    class util:
        generate_id = staticmethod(lambda: 'abc123')

    def __init__(self):
        super().__init__('wandb')
        self.started, self.rows, self.finished, self.broken = [], [], 0, False

    def init(self, **options):
        if self.broken:
            raise self.errors.Error('no API key\nconfigured')
        self.started.append(options)
        return self

    def define_metric(self, *_, **__):
        pass

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished += 1


def test_wandb_has_one_run_over_all_resumes(tmp_path, monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    monkeypatch.setattr(trackers.importlib.util, 'find_spec', lambda name: name)
    for resume in (False, True):
        run = start(tmp_path / 'run', resume=resume, wandb=True)
        run.cut(0)
        run.write('train', 7, {'loss': 0.5})
        run.close()
        run.close()
    assert [options['id'] for options in fake.started] == ['abc123', 'abc123']
    assert fake.rows == [{'train/loss': 0.5, 'step': 7}] * 2
    assert fake.finished == 2
    fake.broken = True
    before = tree(tmp_path)
    for options in ({'resume': True}, {'overwrite': True}):
        with pytest.raises(UserError, match='W&B cannot start: no API key configured'):
            start(tmp_path / 'run', **options, wandb=True)
    assert tree(tmp_path) == before


# The plot.


def picture(path):
    from matplotlib.image import imread

    pixels = imread(path)
    assert pixels.shape[0] > 600 and pixels.shape[1] > 800
    return pixels


def test_plot_of_a_run(run):
    rng = np.random.default_rng(0)
    blank = picture(run.plot_curves())  # nothing written yet
    for step in range(1000, 11_000, 1000):
        losses = {'critic_loss': 3.0 / step + 0.001 * rng.random(), 'actor/bc_loss': 1000.0 / step, 'q': 1.0}
        run.write('train', step, losses)
    run.write('train', 11_000, {'critic_loss': math.nan, 'actor/bc_loss': -1.0})
    for step, k in zip(range(2000, 12_000, 2000), (5, 20, 41, 47, 49), strict=True):
        p = k / 50
        run.write('eval', step, {'success': p, 'success_low': max(0, p - 0.12), 'success_high': min(1, p + 0.1)})
    path = run.plot_curves()
    assert path == run.directory / 'plots' / 'learning_curve.png'
    drawn = picture(path)
    # More ink, and colour: the curve's blue appears.
    assert drawn[..., :3].mean() < blank[..., :3].mean()
    blue = np.abs(drawn[..., :3] - np.array([0x1F, 0x77, 0xB4]) / 255).max(-1) < 0.02
    assert blue.sum() > 1000


def test_plot_of_a_population(tmp_path):
    from matplotlib.figure import Figure

    rows = []
    for step in range(1, 6):
        for member in range(3):
            rows.append({'kind': 'train', 'step': step, 'member': member, 'loss': float(member + 1)})
            rows.append({'kind': 'eval', 'step': step, 'member': member, 'success': step / 10 + member / 5})
    above, below = Figure().subplots(2, 1)
    plots._draw_evaluation(above, [row for row in rows if row['kind'] == 'eval'])
    plots._draw_losses(below, [row for row in rows if row['kind'] == 'train'])
    assert [line.get_label() for line in above.lines] == ['member 0', 'member 1', 'member 2']
    np.testing.assert_allclose(above.lines[2].get_ydata(), np.arange(1, 6) / 10 + 0.4)
    np.testing.assert_allclose(below.lines[0].get_ydata(), 2.0)  # the median member
    picture(plots.learning_curve(rows, tmp_path / 'p.png'))
    crowd = Figure().subplots()
    rows = [{'kind': 'eval', 'step': 1, 'member': m, 'return': float(m)} for m in range(101)]
    plots._draw_evaluation(crowd, rows)
    assert len(crowd.get_legend_handles_labels()[1]) == 1
    np.testing.assert_allclose(crowd.lines[-1].get_ydata(), 50.0)


def test_plot_of_nothing_finite(tmp_path):
    rows = [{'kind': 'train', 'step': 1, 'loss': 'nan'}, {'kind': 'eval', 'step': 1, 'success': 'nan'}]
    picture(plots.learning_curve(rows, tmp_path / 'p.png'))
