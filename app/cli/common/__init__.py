"""Options, times, tables and prompts that several commands share."""
