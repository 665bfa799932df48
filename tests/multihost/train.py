"""One of several processes that train Tiny together: `python train.py DIRECTORY MESH [STOP_AT]`, see the test."""

import pathlib
import sys

import pytest
import tiny

if __name__ == '__main__':
    directory, mesh, *stop = sys.argv[1:]
    with pytest.MonkeyPatch.context() as patch:
        if stop:
            import os
            import signal

            from core_jax.driver import DeviceDriver

            advance = DeviceDriver.advance

            def interrupted(driver, updates):
                advance(driver, updates)
                if driver.updates >= int(stop[0]) and os.environ['JAX_PROCESS_ID'] == '1':
                    os.kill(os.getpid(), signal.SIGTERM)

            patch.setattr(DeviceDriver, 'advance', interrupted)
        resume = (pathlib.Path(directory) / 'config.json').exists()
        sys.exit(tiny.train(pathlib.Path(directory), mesh=mesh, resume=resume))
