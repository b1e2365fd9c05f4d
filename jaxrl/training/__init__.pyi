from jaxrl.training.attacks import (
    L2 as L2,
    AttackedPolicy as AttackedPolicy,
    GradientAttack as GradientAttack,
    LInf as LInf,
    SensorBias as SensorBias,
)
from jaxrl.training.checkpoint import (
    Checkpoints as Checkpoints,
    CheckpointWarning as CheckpointWarning,
)
from jaxrl.training.evaluation import (
    Evaluation as Evaluation,
    RobustEvaluation as RobustEvaluation,
    evaluate as evaluate,
    evaluate_each as evaluate_each,
)
from jaxrl.training.iwocs import (
    LeastValuePolicy as LeastValuePolicy,
    train_iwocs as train_iwocs,
)
from jaxrl.training.loop import (
    start_training as start_training,
    train as train,
    train_iteration as train_iteration,
)
from jaxrl.training.rollouts import rollout as rollout, start_rollout as start_rollout
from jaxrl.training.run_folder import (
    RunFolder as RunFolder,
    load_metrics as load_metrics,
    open_run as open_run,
)
from jaxrl.training.session import Silent as Silent, SweepResult as SweepResult
from jaxrl.training.smoothing import (
    SmoothedPolicy as SmoothedPolicy,
    certify_smoothed as certify_smoothed,
)
from jaxrl.training.sweeps import sweep as sweep
