"""Several variants and seeds compared: what each model reached, from any machine, and the page that answers with it."""
