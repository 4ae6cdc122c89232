"""Metrics of played episodes with their uncertainty, and the paired comparison of two models; see docs/metrics.md."""

from agentrefine.evaluation.metrics.comparison import Comparison, compare
from agentrefine.evaluation.metrics.rates import Rate
from agentrefine.evaluation.metrics.summary import BenchmarkSummary, is_stuck, summarise

__all__ = ["BenchmarkSummary", "Comparison", "Rate", "compare", "is_stuck", "summarise"]
