"""The pictures of a report, where runs have gaps."""

import types

from scaling.utd import report


def test_curves_leave_out_rows_without_an_ended_episode():
    """A row where some seed's episode did not end has no mean: nothing is drawn there, and nothing raises."""
    import matplotlib.figure

    cell = types.SimpleNamespace(config=types.SimpleNamespace(env='pendulum', utd=1.0))
    runs = [[float('nan'), 10.0, 5.0, 20.0], [1.0, 12.0, 7.0, float('nan')]]
    fitted = [(cell, {'failed_at': None, 'env_step': [1, 2, 3, 4], 'return': values}) for values in runs]
    task = {'env': 'pendulum', 'thresholds': [5.0], 'configurations': [{'sigma': 1.0, 'data': [None]}]}
    figure = matplotlib.figure.Figure()
    report.curves(figure, {'tasks': {'pendulum': task}}, fitted)
    mean, isotonic = figure.axes[0].lines[:2]
    assert mean.get_xdata().tolist() == [2, 3] and mean.get_ydata().tolist() == [11.0, 6.0]
    assert isotonic.get_ydata().tolist() == [8.5, 8.5]
