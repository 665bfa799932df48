"""Our own search in a process of its own cores, for `diffusion_jax.bench`; see `core_jax.bench.Peer`."""

from __future__ import annotations

import json
import os
import sys


def main(cores: str) -> None:
    """Serves until stdin ends. The cores are taken before jax is imported, which counts them."""
    os.sched_setaffinity(0, {int(core) for core in cores.split(',')})
    from diffusion_jax import bench

    search, seconds = bench.whole_search(bench.CHILDREN)
    print(json.dumps({'versions': {'compile_seconds': seconds}}), flush=True)
    for line in sys.stdin:
        search(json.loads(line)['count'])
        print(json.dumps({'done': True}), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
