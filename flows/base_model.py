"""Base model: the model that is tuned, made here or taken from elsewhere: python -m flows.base_model"""

from flows.command import run, stage_flow
from tasks.base_model import prepare_base_model

base_model = stage_flow("base_model", prepare_base_model)

if __name__ == "__main__":
    run(base_model, __doc__)
