"""What people read: the report, its tables and plots, the episode viewer, cards and publishing."""
