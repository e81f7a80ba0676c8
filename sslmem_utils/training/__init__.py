"""Train encoders from specs: one loop, resumable to the bit, several encoders at a time.

    from sslmem_utils import training
    folder = training.train(spec)                # load or train one encoder: its weights and metrics
    training.train_all([f_spec, g_spec])         # load or train several: one-thread processes on a CPU
    model = training.load(spec)                  # a trained encoder with its heads

A finished encoder is an artifact of the store under the hash of its spec, the data's fingerprint and result versions.
On a CPU two processes of one thread each beat one of two threads by 1.35 to 2.2 for the small encoders here. A killed
training goes on from its last checkpoint and ends in the same bits, because every random draw is a function of (seed,
epoch, image) and nothing depends on time or on the number of processes. Several processes can share one training
(`ranks`).
"""

from .loop import Source, batches, run, stream
from .monitor import Monitor, knn_accuracy, spread
from .ranks import here, join, leave
from .several import side_by_side, train_all
from .single import KIND, Inputs, Progress, compute_here, inputs, key, load, resolved, rows_of, split_of, train
from .state import Training, learning_rate

__all__ = [
    "KIND",
    "Inputs",
    "Monitor",
    "Progress",
    "Source",
    "Training",
    "batches",
    "compute_here",
    "here",
    "inputs",
    "join",
    "key",
    "knn_accuracy",
    "learning_rate",
    "leave",
    "load",
    "resolved",
    "rows_of",
    "run",
    "side_by_side",
    "split_of",
    "spread",
    "stream",
    "train",
    "train_all",
]
