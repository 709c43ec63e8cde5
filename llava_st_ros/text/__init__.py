"""Words in and out: tasks, prompts, grammar and answers."""
