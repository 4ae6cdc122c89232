"""One of the processes of a tuning that torchrun starts: python -m torch.distributed.run -m perf.gpu_ddp JOB OUT

The first one writes the losses and the backend that the processes spoke over.
"""

import json
import sys
from pathlib import Path

from torch import distributed

from agentrefine.tuning.distributed import is_first_process
from agentrefine.tuning.train import TuningJob, train


def main() -> None:
    """Train, and write."""
    job = TuningJob.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    trained = train(job)
    if is_first_process():
        note = f"over {distributed.get_backend()}, {distributed.get_world_size()} in all"
        found = {"losses": [point.loss for point in trained.curve], "note": note}
        Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
