"""Two processes of `jax.distributed`; process 0 kills itself once and comes back.

Each life of process i leaves the key "life/i/NUMBER". Process 1 says what it sees and
ends when it has seen two lives of process 0; process 0 ends in its second life.
"""

import contextlib
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags
from jax._src import distributed

from abs_dssp.cluster import coordinator

FLAGS = flags.FLAGS
flags.DEFINE_string("coordinator_address", None, "")
flags.DEFINE_integer("num_processes", None, "")
flags.DEFINE_integer("process_id", None, "")
flags.DEFINE_bool("coordinator_apart", False, "")
flags.DEFINE_string("key_file", None, "")
flags.DEFINE_string("crashed", None, "Exists after the first life of process 0.")


def main(argv):
    del argv
    assert FLAGS.coordinator_apart and FLAGS.key_file
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_recoverability", True)
    jax.distributed.initialize(
        FLAGS.coordinator_address,
        FLAGS.num_processes,
        FLAGS.process_id,
        coordinator_bind_address="127.0.0.1:0",  # not used: the service is apart
        cluster_detection_method="deactivate",
        initialization_timeout=10,
        heartbeat_timeout_seconds=coordinator.HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=5,
    )
    store = distributed.global_state.client
    if FLAGS.process_id == 0:  # jax refuses what the first life has left
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            store.key_value_delete("cpu:global_topology/cpu")
    jax.devices()  # waits for the other process, which tells of its devices
    if FLAGS.process_id == 0:
        first = not Path(FLAGS.crashed).exists()
        store.key_value_set(f"life/0/{1 if first else 2}", "")
        if first:
            Path(FLAGS.crashed).touch()
            store.blocking_key_value_get("seen/1", 10_000)
            os.kill(os.getpid(), signal.SIGKILL)
        store.blocking_key_value_get("seen/2", 10_000)
        print("back, and seen")
    else:
        for life in (1, 2):
            store.blocking_key_value_get(f"life/0/{life}", 10_000)
            # A jitted step goes on working, whoever has died.
            assert float(jax.jit(jnp.sum)(jnp.ones(4))) == 4
            store.key_value_set(f"seen/{life}", "")
            print(f"saw life {life}")


if __name__ == "__main__":
    app.run(main)
