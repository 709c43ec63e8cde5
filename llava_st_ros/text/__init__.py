"""Tasks, prompts, grammars and answers: everything between a query's words and token ids."""
