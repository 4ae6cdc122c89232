"""The paper's objects: personas, scripts, trajectories, conversations, and the names of the rules."""
