"""Options, ids, output and prompts that several commands share."""
