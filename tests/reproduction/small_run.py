"""A run that takes a second."""

from abs_dssp.experiment.run import Run

RUN = Run(
    policy="asp()",
    task="digits",
    model="mlp(hidden=[8])",
    workers=2,
    delays="constant(seconds=[1.0,1.5])",
    batch_size=16,
    learning_rate=0.1,
    epochs=1,
    eval_seconds=10.0,
    limit_train=320,
    limit_test=50,
)
