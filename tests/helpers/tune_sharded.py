"""Tune with FSDP on CPU processes, with the settings of configs/fsdp.yaml: torchrun .../tune_sharded.py JOB OUT.

accelerate shards models on GPUs only; here it takes processes on CPUs for such.
"""

import os
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from agentrefine.tuning.train import TuningJob, train, tune

as_it_is = PartialState.__init__


def shardable(self: PartialState, *positional: Any, **named: Any) -> None:
    as_it_is(self, *positional, **named)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = shardable
    job = TuningJob.model_validate_json(Path(sys.argv[1]).read_text())
    if os.environ["RANK"] == "0":
        Path(sys.argv[2] + ".json").write_text(tune(job, Path(sys.argv[2])).model_dump_json())
    else:
        train(job)
