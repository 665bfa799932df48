"""The benchmark beside peers: a stand-in peer that answers, dies, or is not there; what an update costs by hand."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from core_jax import bench as core_bench
from core_jax import hlo
from core_jax.errors import UserError
from scaling.utd import bench, cost, sac

STAND_IN = """
import json, sys
print(json.dumps({'versions': {'standin': '1.0'}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request['do'] == 'die':
        sys.exit('a reason to stop')
    print(json.dumps({'done': True}), flush=True)
"""


def stand_in(tmp_path):
    (tmp_path / 'peer.py').write_text(STAND_IN)
    return core_bench.Peer([sys.executable, str(tmp_path / 'peer.py')])


def test_a_peer_makes_what_it_is_told(tmp_path):
    with stand_in(tmp_path) as peer:
        assert peer.versions == {'standin': '1.0'}
        peer.ask(do='update', sigma=4, count=2)
        with pytest.raises(UserError, match='a reason to stop'):
            peer.ask(do='die')
    assert peer._process.returncode == 1


def test_peers_that_are_not_there_are_told_of():
    assert core_bench.installed('no-such-python', ['sbx']) == set()
    assert bench.open_peers(['no-such-python', '']) == {}
    row = bench.missing('sbx', 'sbx', 'sbx-rl')
    assert row['result'] == 'peer not installed' and '.venv-sbx/bin/pip install sbx-rl' in row['install']


@pytest.mark.slow
def test_the_row_of_updates(monkeypatch, capsys):
    """A small network, no peers: what is printed, and that each thing measured ran."""
    monkeypatch.setitem(bench.SIZES, bench.MAIN, ((8, 8), 4))
    monkeypatch.setattr(bench, 'CAPACITY', 64)
    counted = []

    def measure(functions):
        for function in functions.values():
            function(2)
        counted.append(sorted(functions))
        return {name: [1.0, 2.0, 4.0] for name in functions}

    rows = []
    bench.bench_updates(rows.append, 2, measure, {})
    assert counted == [['floor', 'loop', 'ours']]
    assert rows[0]['updates_per_second'] == 4.0 and rows[0]['share_of_floor'] == 1.0
    json.dumps(rows)


def test_replay_of_the_benchmark_is_full():
    driver = bench.make_driver((8, 8), 4, members=2)
    assert driver.carry.data.added.tolist() == [50_000, 50_000]
    assert float(jnp.std(driver.carry.data.rows['rewards'])) == pytest.approx(1, abs=0.02)


def test_products_of_a_sac_update_as_compiled():
    config = sac.get_config()
    config.hidden_dims, config.batch_size = (32, 16), 8
    learner = sac.make(config, 2)
    shapes = {'observations': (8, 6), 'actions': (8, 2), 'rewards': (8,), 'masks': (8,), 'next_observations': (8, 6)}
    zeros = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    state = jax.eval_shape(lambda key: learner.init(key, zeros), jax.random.key(0))
    lowered = jax.jit(learner.update).lower(state, zeros, learner.hparams)
    compiled = lowered.compile(compiler_options={'xla_backend_optimization_level': 0})
    assert hlo.count(compiled.as_text()).flops == pytest.approx(cost.flops(cost.sac(config, 6, 2)), rel=0.02)


def test_bad_flags(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['bench', '--only=update'])
    with pytest.raises(UserError, match='updates'):
        bench.main()
