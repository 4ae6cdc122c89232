"""What is wrong with a text as such, whatever it tells: its characters, its writing systems, whom it addresses."""
