"""Speeds as ratios: this package against the usual pipeline, both measured in the same run.

    make bench                                # all lines, under 10 minutes on two cores
    make bench ARGS="--only views training"   # some of them
    make bench ARGS="--only gpu"              # on a machine with CUDA, under 9 minutes

The usual pipeline (`usual`) is lightly's SimCLRTransform on PIL images, torch's DataLoader and float32, written as its
users write it: the same images, view policy, model, loss, batch and optimizer, persistent workers, no artificial
slowness. Both sides are measured by turns, several times; given are medians and quartiles, the ratio's those of the
paired repetitions. Lines on one core run on that core's CPU clock, which leaves out waiting for other programs but not
what they take from the caches; lines with several processes run on the wall clock and want an idle machine.

Each line is a module with `tasks(effort)`: pairs of a name and a function that returns rows (`table`).
"""
