"""One client of OpenAI-compatible endpoints, for teachers and players: calls, retries, quirks, journal, money."""
