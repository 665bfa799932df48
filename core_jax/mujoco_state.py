"""MuJoCo's structures as plain data and back, bit for bit.

Positions and velocities are not enough. A step leaves derived quantities behind (site positions, forces, sensors, the
solver's warm start) that are one substep older than the state, and the next step may read them before it computes its
own. So every array of MjData is put back over what mj_forward computes. Contacts and constraint rows, which live in the
arena for one substep only, are those of the restored positions.

Of a model, small arrays are written out, since environments move goals and change colours there; of large ones (meshes,
textures) a digest, so that a change in one is noticed.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np

from core_jax.errors import UserError

_LARGE = 1 << 16  # bytes
_ARENA = re.compile('contact|i?efc_.*|island_.*|map_.*|iM.*|iLD.*|iacc.*|ifrc_.*|tendon_efcadr|tree_island|dof_island')
_COUNTS = re.compile('flg_.*|n.*_awake')
_STRUCTS = ('MjvOption', 'MjvCamera', 'MjvPerturb', 'MjOption', 'MjStatistic', 'MjVisual')


def holds_state(x: Any) -> bool:
    """Whether `x` is a structure of MuJoCo that `read` knows; all others are views, specs and renderers."""
    kind = type(x)
    return kind.__module__ == 'mujoco._structs' and kind.__name__ in ('MjModel', 'MjData', *_STRUCTS)


def read(x: Any) -> dict:
    """Numbers, copies of arrays, and dicts of these. The model of an MjData is not part of it."""
    import mujoco

    if isinstance(x, mujoco.MjData):
        state = np.empty(mujoco.mj_stateSize(x.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(x.model, x, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        fields = _fields(x)
        arrays = {
            name: value.copy()
            for name, value in fields.items()
            # plugin_data holds addresses; its state is in `state`.
            if isinstance(value, np.ndarray) and not _ARENA.fullmatch(name) and name != 'plugin_data'
        }
        counts = {name: value for name, value in fields.items() if _COUNTS.fullmatch(name)}
        return {'signature': x.signature, 'state': state, 'arrays': arrays, 'counts': counts}
    if isinstance(x, mujoco.MjModel):
        arrays = {name: value for name, value in _fields(x).items() if isinstance(value, np.ndarray)}
        return {
            'signature': x.signature,
            'arrays': {name: value.copy() for name, value in arrays.items() if value.nbytes < _LARGE},
            'digests': {name: _digest(value) for name, value in arrays.items() if value.nbytes >= _LARGE},
            'structs': {name: _read_struct(getattr(x, name)) for name in ('opt', 'stat', 'vis')},
        }
    return _read_struct(x)


def write(x: Any, saved: dict, path: str) -> None:
    """Puts back what `read` gave. The model of an MjData must be restored before it.

    path: what to call `x`. Raises UserError where it is another model, or a large array of a model is not as it was.
    """
    import mujoco

    if isinstance(x, (mujoco.MjModel, mujoco.MjData)) and x.signature != saved['signature']:
        raise UserError(f'cannot restore the environment: {path} was compiled from another model')
    if isinstance(x, mujoco.MjData):
        mujoco.mj_setState(x.model, x, saved['state'], mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(x.model, x)
        for name, value in saved['arrays'].items():
            getattr(x, name)[...] = value
        for name, value in saved['counts'].items():
            setattr(x, name, value)
    elif isinstance(x, mujoco.MjModel):
        for name, value in saved['arrays'].items():
            getattr(x, name)[...] = value
        for name, value in saved['digests'].items():
            if _digest(getattr(x, name)) != value:
                raise UserError(f'cannot restore the environment: it had changed {path}.{name}, which is not saved')
        for name, value in saved['structs'].items():
            _write_struct(getattr(x, name), value)
    else:
        _write_struct(x, saved)


def _fields(x: Any) -> dict[str, Any]:
    """The public attributes that are data."""
    found = {name: getattr(x, name) for name in dir(x) if not name.startswith('_')}
    return {name: value for name, value in found.items() if not callable(value)}


def _read_struct(x: Any) -> dict:
    """Numbers, copies of arrays, and the structures inside."""
    saved = {}
    for name, value in _fields(x).items():
        if isinstance(value, np.ndarray):
            saved[name] = value.copy()
        else:
            saved[name] = value if isinstance(value, (int, float)) else _read_struct(value)
    return saved


def _write_struct(x: Any, saved: dict) -> None:
    for name, value in saved.items():
        if isinstance(value, np.ndarray):
            getattr(x, name)[...] = value
        elif isinstance(value, dict):
            _write_struct(getattr(x, name), value)
        else:
            setattr(x, name, value)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
