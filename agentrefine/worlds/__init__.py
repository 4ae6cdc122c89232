"""Small executable worlds: declarative families and themes, one engine, text, and a planner that solves them."""
