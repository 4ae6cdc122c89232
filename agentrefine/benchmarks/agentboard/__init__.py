"""AgentBoard's labels over the other benchmarks."""
