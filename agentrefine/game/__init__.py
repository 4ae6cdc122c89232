"""The paper's objects: personas, scripts, trajectories, verdicts, conversations and samples."""
