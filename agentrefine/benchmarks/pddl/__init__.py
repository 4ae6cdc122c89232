"""Planning problems in PDDL."""
