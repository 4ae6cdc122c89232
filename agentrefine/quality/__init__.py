"""What a data set must be before a model is tuned on it.

The gate's checks are in four places: `features.py` measures games and data set (with `diversity.py` and `overlap.py`),
`agentrefine/params/quality_gate.py` has the threshold of every feature, `tasks/expectations.py` compares both by Great
Expectations, and `gate_result.py` has what it found, as records and as a page.
"""
