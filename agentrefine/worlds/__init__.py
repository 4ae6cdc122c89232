"""Small executable worlds: declarative families and themes, one engine, text, and an oracle that solves them."""
